"""`plaudit inspect` as a user runs it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import plaudit as package
from plaudit.cli.inspect_view import show
from tests.conftest import Ended, write_jsonl


@pytest.fixture
def plaudit(
    call_plaudit: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_model_dir: Path,
    preference_rows: list[dict[str, Any]],
) -> Callable[..., Ended]:
    """Runs a command in a directory with `tiny-model`, `pairs.jsonl` and `bad.jsonl`; (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-model").symlink_to(tiny_model_dir)
    write_jsonl(tmp_path / "pairs.jsonl", preference_rows)
    write_jsonl(tmp_path / "bad.jsonl", [*preference_rows, {"prompt": "Which?", "chosen": "A", "rejected": "A"}])
    return partial(call_plaudit, "inspect")


def test_without_colours_brackets_say_what_is_trained(plaudit: Any) -> None:
    status, out, err = plaudit("pairs.jsonl", "--model", "tiny-model", "--row", 3)
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert out.endswith(
        "examples\n"
        "  ⟦trained⟧, the rest is masked, ⟨special token⟩, ⏎ line end\n"
        "\n"
        "pairs.jsonl:3: 38 tokens computed (56 without sharing the prompt)\n"
        "  prompt: 19 tokens\n"
        "    Which colour is thing 2?\n"
        "  chosen: 9 tokens, 9 trained\n"
        "    ⟦It is red.⟨<|im_end|>⟩⟧\n"
        "  rejected: 11 tokens, 11 trained\n"
        "    ⟦I do not know.⟨<|im_end|>⟩⟧\n"
    )
    assert "end of answer: trained in 32 of 32 trained turns (<|im_end|>)" in out
    assert "method:   dpo (Direct Preference Optimization), chosen by the columns" in out
    assert "sharing the prompt: 1.48 × fewer tokens" in out


def test_lines_are_not_broken_for_programs(plaudit: Any) -> None:
    _, out, _ = plaudit("pairs.jsonl", "--model", "tiny-model")
    assert any(len(line) > 100 for line in out.splitlines())


@pytest.mark.parametrize("no_colour", [False, True])
def test_on_a_terminal(tiny_model_dir: Path, preference_file: Path, no_colour: bool) -> None:
    found = package.inspect(str(preference_file), model=tiny_model_dir, row=1)
    stream = io.StringIO()
    show(found, console=Console(file=stream, force_terminal=True, no_color=no_colour, width=80, color_system="256"))
    out = stream.getvalue()
    coloured = "\x1b[1;32mIt is blue.\x1b[0m\x1b[1;35m<|im_end|>\x1b[0m" in out
    bracketed = "⟦It is blue.⟨<|im_end|>⟩⟧" in out
    assert (coloured, bracketed) == (not no_colour, no_colour)
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", out) if no_colour else True


def test_ids_on_demand(plaudit: Any, tiny_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    _, out, _ = plaudit("pairs.jsonl", "--model", "tiny-model", "--row", 1, "--tokens")
    lines = re.findall(r"^ +(\d+) +(\d+)  (trained|masked) +(\S+)", out.partition("chosen:")[2], re.MULTILINE)
    ids = AutoTokenizer.from_pretrained(tiny_model_dir)("It is blue.<|im_end|>I do not know.<|im_end|>")["input_ids"]
    assert [int(i) for _, i, _, _ in lines] == ids
    assert {mark for _, _, mark, _ in lines} == {"trained"}
    assert "".join(text for *_, text in lines) == "It␣is␣blue.<|im_end|>I␣do␣not␣know.<|im_end|>"


def test_training_that_would_stop_is_exit_status_2(plaudit: Any) -> None:
    status, out, err = plaudit("bad.jsonl", "--model", "tiny-model", "--dropped")
    assert status == 2
    assert out.startswith("TRAINING STOPS with these options: [PL204] 1 of 17 rows cannot be used\n")
    assert "not used: 1 of 17 rows\n       1  chosen and rejected are the same  (bad.jsonl: row 17)" in out
    assert "rows that are not used\n\nbad.jsonl:17: " in out
    assert "  chosen: A\n  rejected: A\n" in out
    assert err.startswith("[PL204] 1 of 17 rows cannot be used\n")
    assert plaudit("bad.jsonl", "--model", "tiny-model", "--invalid", "drop", "--max-drop-fraction", "0.1")[0] == 0


def test_json_is_all_of_stdout(plaudit: Any, tmp_path: Path) -> None:
    status, out, err = plaudit("bad.jsonl", "--model=tiny-model", "--json", "--row", 2, "--html", "page.html")
    assert status == 2
    figures = json.loads(out)
    assert err.startswith("wrote page.html\n[PL204]")
    assert (tmp_path / "page.html").is_file()
    assert figures["drops"] == [
        {
            "file": "bad.jsonl",
            "reason": "identical",
            "meaning": "chosen and rejected are the same",
            "count": 1,
            "rows": [17],
        }
    ]
    assert (figures["rows"], figures["groups"], figures["trains"]) == (17, 16, False)
    assert figures["packing"]["gain"] == pytest.approx(904 / 610, abs=1e-3)
    assert [figures["lengths"][name]["count"] for name in ("prompt", "completion", "total")] == [16, 32, 16]
    pieces = figures["examples"][0]["answers"][0]["pieces"]
    assert "".join(p["text"] for p in pieces if p["mark"] == "trained") == "It is green.<|im_end|>"


def test_options_of_training_and_files_in_any_place(plaudit: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("method: {name: ipo}\ndata: {max_length: 30}\n")
    options = ("--overlong", "drop", "data.max_drop_fraction=1")
    for arguments in (
        ("pairs.jsonl", "--config", "run.yaml", *options, "--model", "tiny-model"),
        ("--model", "tiny-model", *options, "run.yaml", "pairs.jsonl"),
        ("pairs.jsonl", "run.yaml", "--data.overlong=drop", "data.max_drop_fraction=1", "--model", "tiny-model"),
    ):
        status, out, err = plaudit(*arguments)
        assert (status, err) == (0, "")
        assert out.startswith("method:   ipo (")
        assert "groups:   10 to train on; rows not used: 6 of 16 (overlong: drop, invalid: error)" in out
        assert "-- max_length 30 --" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Usage: plaudit inspect"),
        (("pairs.jsonl",), "model  is required"),
        (("nothing.jsonl", "--model", "tiny-model"), "there is no such file"),
        (("pairs.jsonl", "--model", "tiny-model", "--row", "40"), "there is no row 40"),
        (("pairs.jsonl", "--model", "tiny-model", "--max-lenght", "4"), "did you mean --max-length?"),
        (("pairs.jsonl", "--model", "tiny-model", "--method", "kto"), "data.convert: pairs_to_feedback"),
        (("pairs.jsonl", "--model", "tiny-model", "--html", "no/page.html"), "there is no such folder"),
    ],
)
def test_mistakes(plaudit: Any, arguments: tuple[str, ...], words: str) -> None:
    status, out, err = plaudit(*arguments)
    assert status == 2
    assert words in out + err
    assert "Traceback" not in err


def test_columns_with_other_names(plaudit: Callable[..., Ended]) -> None:
    write_jsonl(Path("rows.jsonl"), [{"q": f"Thing {i}?", "said": "Blue."} for i in range(4)])
    data = ("rows.jsonl", "--model", "tiny-model")
    ended = plaudit(*data, "--column", "prompt=q", "--column", "completion=said", "--rows", "1")
    assert (ended.status, "prompt + completion" in ended.out) == (0, True)
    assert "say which columns to use: --column" in plaudit(*data).err
