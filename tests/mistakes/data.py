"""Mistakes with data."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from tests.mistakes.desk import CHAT, PAIR, Desk, Mistake

_TEXT = json.dumps(PAIR)


def _train(method: str, name: str, content: Any, *options: object) -> Any:
    """A training command on a file with this content."""
    return lambda desk: desk.train(method, desk.write(name, content), *options)


def _row(method: str, row: dict[str, Any], *options: object) -> Any:
    """A training command on a file in which the second row is this one."""
    good: dict[str, Any] = {
        "dpo": PAIR,
        "sft": {"messages": CHAT},
        "kto": {"prompt": "Which colour?", "completion": "Blue.", "label": True},
    }[method]
    return lambda desk: desk.train(method, desk.write("rows.jsonl", [good, row, {**good, "id": 3}]), *options)


def _folder(desk: Desk) -> list[object]:
    (desk.folder / "data").mkdir()
    desk.pairs(name="data/train.jsonl")
    return desk.train("dpo", "data")


def _parquet(desk: Desk) -> list[object]:
    return desk.train("dpo", desk.write("pairs.parquet", b"PAR1 and then nothing of the kind"))


def _offline(desk: Desk) -> list[object]:
    import datasets

    desk.monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return desk.train("dpo", "trl-lib/ultrafeedback")


def _secret(desk: Desk) -> list[object]:
    name = desk.pairs()
    real = Path.open

    def refused(path: Path, *given: Any, **options: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return real(path, *given, **options)

    desk.monkeypatch.setattr(Path, "open", refused)  # root may read everything
    return desk.train("dpo", name)


DATA = [
    Mistake(
        "the file is not there",
        "PL100",
        lambda desk: desk.train("dpo", "pairs.json"),
        "there is no file or folder 'pairs.json'",
        "command line: --data pairs.json  data.train.0.path",
        "relative paths count from the working directory",
    ),
    Mistake(
        "the file's name is misspelt",
        "PL100",
        lambda desk: desk.train("dpo", desk.pairs().replace("pairs", "pears")),
        "there is no file or folder 'pears.jsonl'",
        "command line: --data pears.jsonl",
        "did you mean pairs.jsonl?",
    ),
    Mistake(
        "a folder of files", "PL209", _folder, "not written by datasets' save_to_disk", "data", "data/train.jsonl"
    ),
    Mistake(
        "a wildcard in quotes that fits nothing",
        "PL100",
        lambda desk: desk.train("dpo", "data/*.jsonl"),
        "there is no file",
        "data/*.jsonl",
        "name the files one by one",
    ),
    Mistake(
        "a file of an unknown kind", "PL209", _train("dpo", "pairs.txt", _TEXT), "files of type .txt", "pairs.txt",
        "use one of .jsonl, .json, .parquet, .csv",
    ),
    Mistake(
        "a compressed file", "PL209", _train("dpo", "pairs.jsonl.zst", b"\x28\xb5"), "files of type .zst",
        "pairs.jsonl.zst", "unpack it first: unzstd pairs.jsonl.zst",
    ),
    Mistake(
        "a packed file that was cut off", "PL201", _train("dpo", "pairs.jsonl.gz", b"\x1f\x8b\x08\x00"),
        "the packed file is damaged", "pairs.jsonl.gz", "gzip -t pairs.jsonl.gz",
    ),
    Mistake(
        "columns of another method", "PL203", _train("sft", "rows.jsonl", [PAIR] * 3),
        "these look like preference rows", "rows.jsonl:1", "use a method for preference data (plaudit dpo)",
    ),
    Mistake(
        "pairs for kto", "PL203", _train("kto", "rows.jsonl", [PAIR] * 3),
        "not those of feedback data", "rows.jsonl:1", "data.convert: pairs_to_feedback",
    ),
    Mistake(
        "columns of other names",
        "PL203",
        _train("dpo", "rows.jsonl", [{"question": "?", "best": "a", "worst": "b"}] * 3),
        "question for prompt, best for chosen, worst for rejected",
        "rows.jsonl:1",
        "columns: {prompt: question, chosen: best, rejected: worst}",
    ),
    Mistake(
        "a line that was cut off",
        "PL202",
        _train("dpo", "rows.jsonl", f"{_TEXT}\n{_TEXT}\n{_TEXT[:30]}"),
        "was the file cut off while it was written?",
        "rows.jsonl:3",
        "mend or remove these lines",
    ),
    Mistake(
        "one JSON list in a .jsonl file",
        "PL202",
        _train("dpo", "rows.jsonl", f"[{_TEXT},\n {_TEXT}]\n"),
        "one JSON list",
        "rows.jsonl:1",
        "call it rows.json",
    ),
    Mistake(
        "one JSON object over several lines in a .jsonl file",
        "PL202",
        _train("dpo", "rows.jsonl", json.dumps(PAIR, indent=2)),
        "JSON objects over several lines",
        "rows.jsonl:1",
        "jq -c . rows.jsonl",
    ),
    Mistake(
        "a JSON object with the rows under a key",
        "PL202",
        _train("dpo", "rows.json", json.dumps({"data": [PAIR, PAIR]})),
        "the file holds one JSON object, must be a list of objects",
        "rows.json",
        "jq .data rows.json",
    ),
    Mistake(
        "rows of two kinds in a file",
        "PL204",
        _row("dpo", {"prompt": "Which colour?", "completion": "Blue.", "label": True}),
        "has the columns prompt, completion, label",
        "rows.jsonl:2",
        "data.invalid: drop",
    ),
    Mistake(
        "UTF-16, as Windows saves it", "PL202", _train("dpo", "rows.jsonl", f"{_TEXT}\n".encode("utf-16")),
        "UTF-16", "rows.jsonl", "UTF-8",
    ),
    Mistake(
        "Latin-1",
        "PL202",
        _train("dpo", "rows.jsonl", '{"prompt": "Caf\u00e9?", "chosen": "a", "rejected": "b"}\n'.encode("latin-1")),
        "is not UTF-8 at byte 16",
        "rows.jsonl:1",
        "UTF-8",
    ),
    Mistake("an empty file", "PL207", _train("dpo", "rows.jsonl", ""), "no rows", "rows.jsonl", "fill it"),
    Mistake("blank lines only", "PL207", _train("dpo", "rows.jsonl", "\n\n  \n"), "no rows", "rows.jsonl", "fill it"),
    Mistake(
        "a CSV with semicolons",
        "PL202",
        _train("dpo", "rows.csv", "prompt;chosen;rejected\nWhich?;a;b\n"),
        "semicolons",
        "rows.csv:1",
        "commas",
    ),
    Mistake(
        "a CSV with a comma outside of quotes",
        "PL202",
        _train("dpo", "rows.csv", "prompt,chosen,rejected\nWhich?,a, or b,c\n"),
        "(line 2) 4 cells for 3 columns",
        "rows.csv:1",
        'in "quotes"',
    ),
    Mistake(
        "a broken Parquet file", "PL201", _parquet, "not readable as Parquet", "pairs.parquet", "write the file again"
    ),
    Mistake(
        "a null answer", "PL204", _row("dpo", {**PAIR, "chosen": None}), "chosen is missing (null)", "rows.jsonl:2",
        "data.invalid: drop",
    ),
    Mistake(
        "a number where text belongs", "PL204", _row("dpo", {**PAIR, "chosen": 4}), "chosen is int, must be text",
        "rows.jsonl:2", "mend the rows",
    ),
    Mistake(
        "a key twice in a row",
        "PL202",
        _train("dpo", "rows.jsonl", f'{_TEXT}\n{{"prompt": "a?", "prompt": "b?", "chosen": "a", "rejected": "b"}}\n'),
        "has the key 'prompt' twice",
        "rows.jsonl:2",
        "mend or remove these lines",
    ),
    Mistake(
        "an empty prompt", "PL204", _row("dpo", {**PAIR, "prompt": " "}), "prompt is empty", "rows.jsonl:2",
        "data.invalid: drop",
    ),
    Mistake(
        "an empty answer", "PL204", _row("sft", {"prompt": "Which?", "completion": ""}), "completion is empty",
        "rows.jsonl:2", "data.invalid: drop",
    ),
    Mistake(
        "both answers the same everywhere",
        "PL204",
        _train("dpo", "rows.jsonl", [{**PAIR, "rejected": PAIR["chosen"]}] * 12),
        "12 of 12 rows cannot be used",
        "rows.jsonl:1",
        "mend the rows",
    ),
    Mistake(
        "one label only",
        "PL211",
        _train("kto", "rows.jsonl", [{"prompt": f"{i}?", "completion": "a", "label": True} for i in range(4)]),
        "all 4 rows are desirable",
        "rows.jsonl",
        "add rows with the other label",
    ),
    Mistake(
        "a label in words",
        "PL204",
        _row("kto", {"prompt": "Which?", "completion": "Blue.", "label": "good"}),
        "label is 'good', must be true or false",
        "rows.jsonl:2",
        "mend the rows",
    ),
    Mistake(
        "a misspelt role",
        "PL204",
        _row("sft", {"messages": [{"role": "user", "content": "?"}, {"role": "assistent", "content": "Blue."}]}),
        "message 2: role is 'assistent'",
        "rows.jsonl:2",
        "mend the rows",
    ),
    Mistake(
        "a conversation that nobody answers",
        "PL204",
        _row("sft", {"messages": CHAT[:1]}),
        "no assistant turn",
        "rows.jsonl:2",
        "mend the rows",
    ),
    Mistake(
        "a prompt in two forms",
        "PL204",
        _row("dpo", {**PAIR, "chosen": CHAT, "prompt": "Another question?"}),
        "chosen is a whole conversation, but the prompt is not its beginning",
        "rows.jsonl:2",
        "mend the rows",
    ),
    Mistake(
        "NaN as a score",
        "PL204",
        _train(
            "reward", "rows.jsonl",
            '{"prompt": "?", "completions": ["a", "b"], "scores": [1, 2]}\n'
            '{"prompt": "?", "completions": ["a", "b"], "scores": [NaN, 2]}\n',
        ),
        "must be a finite number",
        "rows.jsonl:2",
        "mend the rows",
    ),
    Mistake(
        "everything is too long",
        "PL205",
        _train("dpo", "rows.jsonl", [PAIR] * 3, "--max-length", 4),
        "3 of 3 rows cannot be used",
        "rows.jsonl:1",
        "data.overlong: drop",
    ),
    Mistake(
        "everything is too long, and too long rows are dropped",
        "PL207",
        _train("dpo", "rows.jsonl", [PAIR] * 3, "--max-length", 4, "--overlong", "drop"),
        "no row is left of 3",
        "rows.jsonl",
        "raise data.max_length",
    ),
    Mistake(
        "a data set of the hub without a network", "PL210", _offline, "hub", "trl-lib/ultrafeedback",
        "use a local file",
    ),
    Mistake("a file that may not be read", "PL201", _secret, "Permission denied", "pairs.jsonl", "chmod"),
]  # fmt: skip
