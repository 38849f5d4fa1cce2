"""`plaudit init`: what it writes resolves, trains, and says of a file what the file says."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from plaudit import api
from plaudit.api import init
from plaudit.cli import app
from plaudit.config import tree
from plaudit.config.load import Resolved, resolve
from plaudit.data.convert import KINDS as CONVERSIONS
from plaudit.errors import DataError, PlauditError
from plaudit.methods import available, find
from plaudit.starter.fits import SUITED
from plaudit.starter.interface import SCHEMA_FILE
from plaudit.starter.text import scalar
from plaudit.types import DataKind
from tests.conftest import Ended, write_jsonl

Rows = list[dict[str, Any]]
QUESTION = "Which colour is thing {}?"
ROWS: dict[DataKind, Rows] = {
    "preference": [{"prompt": QUESTION.format(i), "chosen": "It is blue.", "rejected": "No."} for i in range(12)],
    "feedback": [
        {"prompt": QUESTION.format(i // 2), "completion": ["Blue.", "No."][i % 2], "label": i % 2 == 0}
        for i in range(12)
    ],
    "ranking": [
        {"prompt": QUESTION.format(i), "completions": ["It is blue.", "Blue?", "No."], "scores": [3, 2, 1]}
        for i in range(12)
    ],
    "completion": [{"prompt": QUESTION.format(i), "completion": "It is blue."} for i in range(12)],
    "prompt": [{"prompt": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(12)],
}
FORMATS = ("jsonl", "json", "csv", "parquet")


def write(path: Path, rows: Rows) -> Path:
    """The rows in the form that the name says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".csv":
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
        path.write_text(table.getvalue(), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def loaded(file: str = "plaudit.yaml") -> Resolved:
    """The file through the loader, and held against the schema beside it."""
    text = Path(file).read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema=./{SCHEMA_FILE}\n")
    values = tree.plain(tree.read_yaml(Path(file), []))
    schema = json.loads(Path(SCHEMA_FILE).read_text(encoding="utf-8"))
    assert [error.message for error in Draft7Validator(schema).iter_errors(values)] == []
    model = [] if "path" in values["model"] else ["--model", "some/model"]
    return resolve(None, overrides=[file, *model])


@pytest.mark.parametrize(("place", "name"), list(enumerate(available())))
def test_a_configuration_for_every_method(place: int, name: str) -> None:
    method = find(name)
    data = write(Path(f"rows.{FORMATS[place % 4]}"), ROWS[method.data_kind])
    written = init(data, "plaudit.yaml", method=name)
    found = loaded()
    assert (found.method, found.run.data.convert, found.run.data.train[0].path) == (method, None, str(data))
    assert (found.run.reward is None) == (not method.is_online())
    assert found.run.train.learning_rate == method.default_learning_rate["lora"]
    assert written.text == Path("plaudit.yaml").read_text(encoding="utf-8")
    settings = re.findall(r"^  (\w+): .", written.text, re.MULTILINE)
    assert 12 <= len(settings) <= 25
    comments = re.findall(r"(?:^  #.*\n)+  \w+: ", written.text, re.MULTILINE)
    assert len(comments) == len(settings)  # each has one of its own


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("form", FORMATS)
def test_what_rows_are_does_not_depend_on_the_form_of_the_file(kind: DataKind, form: str) -> None:
    written = init(write(Path(f"rows.{form}"), ROWS[kind]), "plaudit.yaml")
    assert written.method == next(iter(SUITED[kind]))
    assert (loaded().method.name, "12 rows of " in written.text) == (written.method, True)


@pytest.mark.parametrize(
    "options", [["--lora"], ["--method", "kto", "--full"], ["--method", "grpo", "--reward", "length:most=4"]]
)
def test_what_is_written_trains(
    call_plaudit: Callable[..., Ended], preference_file: Path, tiny_model_dir: Path, options: list[str]
) -> None:
    done = call_plaudit("init", preference_file, "--model", tiny_model_dir, *options)
    assert (done.status, done.err) == (0, "")
    found = loaded()
    assert (found.run.lora is None) == ("--lora" not in options)
    *_, train = re.findall(r"^#   plaudit (.*?)   ", Path("plaudit.yaml").read_text(), re.MULTILINE)
    assert train.strip() == f"{found.method.name} plaudit.yaml"
    few = ["--max-steps", "1", "--max-new-tokens", "4"] if found.method.is_online() else ["--max-steps", "1"]
    done = call_plaudit(*shlex.split(train), *few)
    assert (done.status, Path(found.run.run.dir or "", "COMPLETE").exists()) == (0, True), done.err


def test_the_commands_that_come_next_exist(call_plaudit: Callable[..., Ended], tiny_model_dir: Path) -> None:
    write_jsonl(Path("rows.jsonl"), ROWS["completion"])
    written = init("rows.jsonl", "my runs.yaml", model=tiny_model_dir)
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    words = [shlex.split(command) for command, _ in written.commands]
    assert all(first == "plaudit" and name in known for first, name, *_ in words)
    for command in words[:-1]:  # the last one trains
        done = call_plaudit(*command[1:])
        assert done.status == 0, done.err


def test_without_a_model_only_the_model_is_missing(call_plaudit: Callable[..., Ended], tiny_model_dir: Path) -> None:
    write_jsonl(Path("rows.jsonl"), ROWS["preference"])
    assert call_plaudit("init", "rows.jsonl").status == 0
    done = call_plaudit("dpo", "plaudit.yaml")
    assert done.status == 2
    assert "has an error:\n" in done.err
    assert "model.path  is required  (for example --model PATH)" in done.err
    for flag in ("--model", "--model.path"):
        assert call_plaudit("config", "show", "plaudit.yaml", flag, tiny_model_dir).status == 0


# -- what fits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SUITED)
def test_the_methods_that_are_named_for_rows_take_them(kind: DataKind) -> None:
    write_jsonl(Path("rows.jsonl"), ROWS[kind])
    written = init("rows.jsonl", reward=["length:most=9"] if kind == "prompt" else ())
    assert [name.split()[0] for name, _ in written.fitting] == list(SUITED[kind])
    for name in (*SUITED[kind], *written.others[:3]):
        reward = ["length:most=9"] if find(name).is_online() else []
        assert init("rows.jsonl", method=name, reward=reward).method == name


@pytest.mark.parametrize(
    ("kind", "method", "convert"),
    [
        ("preference", "kto", "pairs_to_feedback"),
        ("ranking", "dpo", "ranking_to_pairs"),
        ("ranking", "kto", "ranking_to_feedback"),
        ("preference", "reward", None),
        ("completion", "raft", None),
    ],
)
def test_rows_of_another_kind_are_converted(kind: DataKind, method: str, convert: str | None) -> None:
    write_jsonl(Path("rows.jsonl"), ROWS[kind])
    written = init("rows.jsonl", "plaudit.yaml", method=method, reward=["length:most=9"] if method == "raft" else ())
    assert loaded().run.data.convert == convert
    if convert is not None:
        assert CONVERSIONS[convert] == (kind, find(method).data_kind)
        assert {"dpo": "12 rows became 36", "kto": "12 rows became 24"}[method] in " ".join(written.text.split())


def test_feedback_becomes_pairs_only_where_a_prompt_has_both_labels() -> None:
    write_jsonl(Path("rows.jsonl"), ROWS["feedback"])
    init("rows.jsonl", "plaudit.yaml", method="dpo")
    assert loaded().run.data.convert == "feedback_to_pairs"
    write_jsonl(Path("rows.jsonl"), [{**row, "prompt": f"Thing {i}?"} for i, row in enumerate(ROWS["feedback"])])
    assert [name for name, _ in init("rows.jsonl").fitting] == ["kto", "bco"]
    with pytest.raises(DataError, match="no row could be converted for dpo") as caught:
        init("rows.jsonl", method="dpo")
    assert caught.value.code == "PL207"


@pytest.mark.parametrize(
    ("kind", "method", "said"),
    [
        ("completion", "dpo", "dpo learns from pairs of a chosen and a rejected answer, and the rows are demonstr"),
        ("prompt", "dpo", "and the rows are prompts without answers"),
        ("feedback", "sft", "a thumb up or down, of which it would learn the disliked ones too"),
        ("feedback", "reward", None),
    ],
)
def test_a_method_that_does_not_fit_is_refused_with_those_that_do(
    kind: DataKind, method: str, said: str | None
) -> None:
    write_jsonl(Path("rows.jsonl"), ROWS[kind])
    if said is None:
        init("rows.jsonl", "plaudit.yaml", method=method)
        assert loaded().run.data.convert == "feedback_to_ranking"
        return
    with pytest.raises(DataError) as caught:
        init("rows.jsonl", "plaudit.yaml", method=method)
    assert (caught.value.code, said in caught.value.what) == ("PL203", True)
    assert next(iter(SUITED[kind])) in str(caught.value.mend)
    assert not Path("plaudit.yaml").exists()


def test_columns_with_names_that_say_the_same() -> None:
    rows = [{"question": f"Thing {i}?", "best": "Blue.", "worst": "No."} for i in range(8)]
    write_jsonl(Path("rows.jsonl"), rows)
    init("rows.jsonl", "plaudit.yaml")
    columns = {"prompt": "question", "chosen": "best", "rejected": "worst"}
    assert (loaded().method.name, loaded().run.data.train[0].columns) == ("dpo", columns)
    write_jsonl(Path("rows.jsonl"), [{"q": f"Thing {i}?", "said": "Blue."} for i in range(8)])
    with pytest.raises(DataError, match="the columns are those of no data kind") as caught:
        init("rows.jsonl")
    assert "--column prompt=q;" in str(caught.value.mend)
    init("rows.jsonl", "plaudit.yaml", columns={"prompt": "q", "completion": "said"}, overwrite=True)
    assert (loaded().method.name, loaded().run.data.train[0].columns) == ("sft", {"prompt": "q", "completion": "said"})


def test_text_for_a_chat_model_is_told_and_can_be_mended(
    call_plaudit: Callable[..., Ended], tiny_model_dir: Path
) -> None:
    write_jsonl(Path("rows.jsonl"), [{"question": f"Thing {i}?", "response": "Blue."} for i in range(8)])
    ended = call_plaudit("init", "rows.jsonl", "--model", str(tiny_model_dir))
    assert all(line == line.rstrip() for line in ended.out.splitlines())
    said = " ".join(ended.out.split())
    command = "convert rows.jsonl rows-chat.jsonl --to messages --column prompt=question --column completion=response"
    assert f"begin again with these: plaudit {command}" in said
    assert call_plaudit(*command.split()).status == 0
    ended = call_plaudit("init", "rows-chat.jsonl", "--model", str(tiny_model_dir), "--force")
    assert (ended.status, "chat template" in ended.out) == (0, False)


def test_conversations_are_demonstrations_or_prompts_by_who_speaks_last() -> None:
    turns = [{"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": "Blue."}]
    write_jsonl(Path("rows.jsonl"), [{"messages": turns}] * 8)
    assert (init("rows.jsonl", "plaudit.yaml").method, loaded().method.name) == ("sft", "sft")
    with pytest.raises(DataError, match="grpo learns from prompts without answers"):
        init("rows.jsonl", method="grpo", reward=["length"])
    write_jsonl(Path("open.jsonl"), [{"messages": turns[:1], "answer": "blue"}] * 8)
    written = init("open.jsonl", "open.yaml")
    assert (written.method, loaded("open.yaml").run.reward.rewards) == ("grpo", ("exact",))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("columns", "reward"),
    [
        ({"answer": "42"}, "math"),
        ({"solution": "so it is \\boxed{4}"}, "math"),
        ({"answer": "Paris"}, "exact"),
        ({"ground_truth": "Paris"}, "exact:column=ground_truth"),
        ({"answer": "B", "choices": ["a", "b"]}, "choice"),
        ({"tests": [{"input": "1", "output": "1"}]}, "code"),
        ({"schema": {"type": "object"}}, "json_schema"),
    ],
)
def test_the_reward_follows_from_the_columns(columns: dict[str, Any], reward: str) -> None:
    write_jsonl(Path("rows.jsonl"), [{"prompt": f"What is {i}?", **columns} for i in range(8)])
    init("rows.jsonl", "plaudit.yaml")
    found = loaded().run.reward
    assert found is not None
    assert found.rewards == (reward,)


def test_a_reward_that_a_run_would_refuse_is_refused() -> None:
    write_jsonl(Path("rows.jsonl"), ROWS["prompt"])
    with pytest.raises(PlauditError, match="give least, most or both"):
        init("rows.jsonl", "plaudit.yaml", method="grpo", reward=["length"])
    assert not Path("plaudit.yaml").exists()


def test_a_method_that_samples_needs_a_reward_and_no_other_takes_one() -> None:
    write_jsonl(Path("rows.jsonl"), [{"prompt": f"Thing {i}?"} for i in range(8)])
    with pytest.raises(PlauditError, match="no column of the rows says which are good") as caught:
        init("rows.jsonl", "plaudit.yaml")
    assert "found: prompt" in str(caught.value)
    assert (caught.value.code, "--reward NAME" in str(caught.value.mend)) == ("PL102", True)
    write_jsonl(Path("rows.jsonl"), ROWS["preference"])
    with pytest.raises(PlauditError, match="a reward has no meaning for dpo"):
        init("rows.jsonl", reward=["math"])


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_the_comments_say_what_the_file_says(tiny_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    rows = [{**row, "chosen": "It is blue. " * (i + 1)} for i, row in enumerate(ROWS["preference"])]
    write_jsonl(Path("rows.jsonl"), [*rows, {**rows[0], "rejected": "Never."}])
    characters = sorted(len(row["prompt"] + row["chosen"]) for row in [rows[0], *rows])
    text = " ".join(init("rows.jsonl").text.replace("\n  #", "").split())
    assert "13 rows of pairs of a chosen and a rejected answer (prompt + chosen + rejected), 12 different" in text
    assert f"In characters half of the 13 groups have up to {characters[6]}, " in text
    assert f"the longest has {characters[-1]}." in text
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokens = sorted(len(tokenizer(row["prompt"] + row["chosen"])["input_ids"]) + 1 for row in [rows[0], *rows])
    text = " ".join(init("rows.jsonl", "plaudit.yaml", model=tiny_model_dir).text.replace("\n  #", "").split())
    assert f"half of the 13 groups have up to {tokens[6]}, " in text
    limit = loaded().run.data.max_length
    assert limit == min(256, -(-tokens[-1] // 64) * 64)
    over = sum(n > limit for n in tokens)
    assert f"the longest has {tokens[-1]}. {over} are longer ({over / 13:.1%})." in text
    assert loaded().run.data.overlong == ("error" if over == 0 else "truncate_prompt")


def test_one_very_long_row_does_not_set_the_length(tiny_model_dir: Path) -> None:
    rows = [{"prompt": f"Thing {i}?", "completion": "Blue."} for i in range(150)]
    rows[7]["completion"] = "blue " * 40
    write_jsonl(Path("rows.jsonl"), rows)
    init("rows.jsonl", "plaudit.yaml", model=tiny_model_dir)
    assert (loaded().run.data.max_length, loaded().run.data.overlong) == (64, "drop")
    assert "1 are longer (0.7%)" in " ".join(Path("plaudit.yaml").read_text().replace("\n  #", "").split())


@pytest.mark.parametrize(
    ("prompt", "answer", "overlong"),
    [(300, 4, "truncate_prompt"), (4, 300, "truncate_completion")],
)
def test_rows_longer_than_the_positions_are_cut_so_that_they_stay(
    tiny_model_dir: Path, prompt: int, answer: int, overlong: str
) -> None:
    """256 positions: what is written passes its own check, and the command says what is cut."""
    write_jsonl(
        Path("rows.jsonl"),
        [{"prompt": f"{i}" + " more" * prompt, "completion": f"{i}" + " blue" * answer} for i in range(20)],
    )
    written = init("rows.jsonl", "plaudit.yaml", model=tiny_model_dir)
    assert (loaded().run.data.max_length, loaded().run.data.overlong) == (256, overlong)
    assert api.inspect(config="plaudit.yaml").problem is None
    assert any(f"data.overlong: {overlong}" in line for line in written.chosen)
    assert any("More does not fit into the model's positions" in line for line in written.chosen)


def test_rows_that_fit_in_no_way_are_said(tiny_model_dir: Path) -> None:
    rows = [{"prompt": f"{i}" + " more" * 300, "completion": f"{i}" + " blue" * 300} for i in range(20)]
    write_jsonl(Path("rows.jsonl"), rows)
    written = init("rows.jsonl", "plaudit.yaml", model=tiny_model_dir)
    assert any("100.0% of the rows do not fit even so" in line for line in written.chosen)


def test_held_out_rows_have_to_fit_too(tiny_model_dir: Path) -> None:
    """A limit from the training rows alone would refuse the file beside."""
    write_jsonl(Path("rows.jsonl"), [{"prompt": f"Thing {i}?", "completion": "Blue."} for i in range(20)])
    held_out = [{"prompt": f"Held out {i}?", "completion": "Blue." + " blue" * 60} for i in range(8)]
    write_jsonl(Path("rows-eval.jsonl"), held_out)
    init("rows.jsonl", "plaudit.yaml", model=tiny_model_dir)
    assert [source.path for source in loaded().run.data.eval] == ["rows-eval.jsonl"]
    assert api.inspect(config="plaudit.yaml").problem is None
    assert loaded().run.data.max_length > 64
    report = api.inspect(config="plaudit.yaml", data="rows-eval.jsonl")
    assert report.problem is None, "by the limit and the policy that were written"


def test_a_share_of_many_prompts_is_held_out(tiny_model_dir: Path) -> None:
    rows = [{"prompt": f"Thing {i}?", "completion": "Blue."} for i in range(200)]
    write_jsonl(Path("rows.jsonl"), rows)
    init("rows.jsonl", "plaudit.yaml", model=tiny_model_dir)
    run = loaded().run
    assert run.data.eval_fraction == 0.1
    assert "About 20 of the 200 prompts are held out" in Path("plaudit.yaml").read_text().replace("\n  #", "")
    trained = 200 - api.inspect(config="plaudit.yaml").held_out
    steps = -(-trained // run.train.groups_per_step) * 3
    assert (run.train.epochs, run.eval.every) == (3, steps // 4)
    assert f"of {steps}." in Path("plaudit.yaml").read_text()


def test_a_held_out_file_beside_is_used() -> None:
    write_jsonl(Path("pairs.jsonl"), ROWS["preference"])
    write_jsonl(Path("a_test.jsonl"), ROWS["completion"])  # of another kind
    write_jsonl(Path("contest.jsonl"), ROWS["preference"])  # its name does not say that it is held out
    init("pairs.jsonl", "plaudit.yaml")
    assert loaded().run.data.eval == ()
    held_out = [{**row, "prompt": f"Held out {i}?"} for i, row in enumerate(ROWS["preference"][:6])]
    write_jsonl(Path("pairs-eval.jsonl"), [*held_out, ROWS["preference"][0]])
    written = init("pairs.jsonl", "plaudit.yaml", overwrite=True)
    assert [source.path for source in loaded().run.data.eval] == ["pairs-eval.jsonl"]
    assert "7 rows, 7 different prompts, 1 of them are trained on too" in written.text.replace("\n  # ", " ")
    write_jsonl(Path("pairs-eval.jsonl"), ROWS["preference"])
    written = init("pairs.jsonl", "plaudit.yaml", overwrite=True)
    assert loaded().run.data.eval == ()
    assert any("not used: 12 of its 12 prompts are trained on" in line for line in written.seen)


def test_few_rows_that_cannot_be_used_are_dropped_and_many_are_an_error() -> None:
    rows = [{**row, "prompt": f"{row['prompt']} {i}"} for i in range(5) for row in ROWS["preference"]]
    rows[3]["rejected"] = rows[3]["chosen"]
    write_jsonl(Path("rows.jsonl"), rows)
    init("rows.jsonl", "plaudit.yaml")
    assert loaded().run.data.invalid == "drop"
    assert "# 1 rows have no content or signal" in Path("plaudit.yaml").read_text()
    write_jsonl(Path("rows.jsonl"), [*rows, *[rows[3]] * 5])
    with pytest.raises(DataError, match="6 of 65 rows cannot be used") as caught:
        init("rows.jsonl")
    assert (caught.value.code, "plaudit doctor rows.jsonl --fix" in str(caught.value.mend)) == ("PL206", True)


@pytest.mark.parametrize(("words", "new", "overlong"), [(1, 128, "error"), (60, 64, "drop")])
def test_prompts_leave_room_for_answers(tiny_model_dir: Path, words: int, new: int, overlong: str) -> None:
    """256 positions."""
    rows = [{"prompt": f"What is {i} + 1?" + " more" * (words if i == 3 else 0), "answer": "1"} for i in range(60)]
    write_jsonl(Path("rows.jsonl"), rows)
    init("rows.jsonl", "plaudit.yaml", model=tiny_model_dir)
    run = loaded().run
    assert run.rollout is not None
    assert (run.rollout.max_new_tokens, run.data.overlong) == (new, overlong)
    assert api.inspect(config="plaudit.yaml").problem is None


@pytest.mark.parametrize(("free", "lora"), [(0.05, True), (64.0, False)])
def test_an_adapter_where_the_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, free: float, lora: bool
) -> None:
    class Meter:
        def limit(self) -> int:
            return int(free * 1024**2) + 7

        def used(self) -> int:
            return 7

        def close(self) -> None: ...

    monkeypatch.setattr("plaudit.train.memory.meter_for", lambda device: Meter())
    write_jsonl(Path("rows.jsonl"), ROWS["completion"])
    text = init("rows.jsonl", "plaudit.yaml", model=tiny_model_dir).text
    assert (loaded().run.lora is not None) is lora
    parameters = int(re.findall(r"# ([\d,]+) parameters, up to 256 tokens", text)[0].replace(",", ""))
    assert f"all {parameters:,} weights with Adam take {18 * parameters / 1024**2:.1f} MiB" in " ".join(
        text.replace("\n  #", "").split()
    )
    rate = find("sft").default_learning_rate["lora" if lora else "full"]
    assert loaded().run.train.learning_rate == rate
    init("rows.jsonl", "plaudit.yaml", model=tiny_model_dir, lora=not lora, overwrite=True)
    assert (loaded().run.lora is not None) is not lora


# -- files and the terminal --------------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_no_column() -> None:
    text = "prompt,chosen,rejected\n" + "".join(f"Thing {i}?,Blue.,No.\n" for i in range(8))
    Path("rows.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert init("rows.csv").method == "dpo"
    Path("rows.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "Thing?", "completion": "Blue."}\n')
    assert init("rows.jsonl").method == "sft"


def test_data_that_cannot_be_read_is_one_error(
    call_plaudit: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty.jsonl").write_text("")
    Path("closed").mkdir()
    for data, said in (
        ("empty.jsonl", "[PL207] the source has no rows"),
        ("gone.jsonl", "[PL201] there is no such file or folder"),
        ("rows.txt", "[PL201] there is no such file"),
    ):
        done = call_plaudit("init", data if data != "rows.txt" else "./rows.txt")
        assert (done.status, said in done.err) == (2, True), done.err
    if os.geteuid() == 0:  # nothing is closed to root
        monkeypatch.setattr(Path, "iterdir", _denied)
    else:
        Path("closed").chmod(0)
    done = call_plaudit("init", "closed")
    assert (done.status, "[PL201] the folder cannot be read: Permission denied" in done.err) == (2, True), done.err
    assert not Path("plaudit.yaml").exists()


def _denied(self: Path) -> Any:
    raise PermissionError(13, "Permission denied")


def test_nothing_is_overwritten_unasked(call_plaudit: Callable[..., Ended]) -> None:
    write_jsonl(Path("rows.jsonl"), ROWS["preference"])
    Path("plaudit.yaml").write_text("mine\n")
    done = call_plaudit("init", "rows.jsonl")
    assert (done.status, "[PL102] the file exists already" in done.err) == (2, True)
    assert Path("plaudit.yaml").read_text() == "mine\n"
    assert call_plaudit("init", "rows.jsonl", "--force").status == 0
    assert loaded().method.name == "dpo"
    for output, said in (("c.json", "name it c.yaml"), ("no/c.yaml", "make no")):
        done = call_plaudit("init", "rows.jsonl", "-o", output)
        assert (done.status, said in done.err) == (2, True)


def test_printed_it_is_the_file_and_nothing_else(call_plaudit: Callable[..., Ended]) -> None:
    write_jsonl(Path("rows.jsonl"), ROWS["preference"])
    done = call_plaudit("init", "rows.jsonl", "-o", "-")
    assert done.status == 0
    assert done.out == init("rows.jsonl").text
    assert not Path(SCHEMA_FILE).exists()
    assert "dpo: the usual choice for pairs" in done.err


def test_without_data_it_says_how_rows_look(call_plaudit: Callable[..., Ended]) -> None:
    done = call_plaudit("init")
    assert (done.status, done.out.splitlines()[0][:24]) == (2, "Usage: plaudit init DATA")
    for kind in SUITED:
        assert next(iter(SUITED[kind])) in done.out
    for line in re.findall(r"^    (\{.*\})$", done.out, re.MULTILINE):
        write_jsonl(Path("rows.jsonl"), [json.loads(line)] * 8)
        assert init("rows.jsonl").method in SUITED["preference"] | SUITED["completion"] | SUITED["prompt"] | {
            "kto": "",
            "reward": "",
        }


def test_on_a_terminal_it_asks(monkeypatch: pytest.MonkeyPatch, call_plaudit: Callable[..., Ended]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)  # what `call_plaudit` makes of its stdin
    write_jsonl(Path("rows.jsonl"), ROWS["preference"])
    done = call_plaudit("init", stdin="rows.jsonl\nsimpo\n\n")
    assert (done.status, loaded().method.name) == (0, "simpo"), done.err
    done = call_plaudit("init", "--method", "kto", "--force", stdin="rows.jsonl\n\n")
    assert (done.status, loaded().run.data.convert) == (0, "pairs_to_feedback"), done.err


@pytest.mark.parametrize(
    "value",
    [
        "a b.jsonl", "name:train", "it's.jsonl", "@x", "- a", "off", "true", "1e5", "#1", "a: b", "ä/ö.jsonl", "a,b",
        "", " a", "*x", 0.1, 5e-7, 3, True, {"a b": ["x", "y,z"]}, "a\nb", "[x]", "{y}", "null", "~", "%d", "&a",
        "a #b",
    ],
)  # fmt: skip
def test_a_value_is_read_back_as_it_was(value: Any) -> None:
    Path("c.yaml").write_text(f"section:\n  key: {scalar(value)}\n", encoding="utf-8")
    problems: list[Any] = []
    assert tree.plain(tree.read_yaml(Path("c.yaml"), problems)) == {"section": {"key": value}}
    assert problems == []
