"""The cleaned copy passes the doctor, has the form of the source, and its log accounts for every row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plaudit.data.doctor.checkup import Checkup
from plaudit.data.doctor.clean import FIXES
from plaudit.data.doctor.workers import Task, look
from plaudit.data.interface import doctor
from plaudit.data.readers import read
from plaudit.errors import ConfigError, DataError
from tests.conftest import write_jsonl
from tests.data.doctor.rows import Row, bad, chats, feedback, pairs, prose


def log_of(done: Checkup) -> list[dict[str, Any]]:
    assert done.cleaned is not None
    return [json.loads(line) for line in Path(done.cleaned.log).read_text(encoding="utf-8").splitlines()]


def rows_of(path: Path) -> list[Row]:
    return [row for _, row in read(str(path)).rows]


def dirty() -> list[Row]:
    """A row for every fault that is mended."""
    rows = pairs(40)
    rows[1] = dict(rows[0])
    rows[2]["rejected"] = rows[2]["chosen"]
    rows[3]["chosen"] = ""
    rows[5] = {"prompt": rows[4]["prompt"], "chosen": rows[4]["rejected"], "rejected": rows[4]["chosen"]}
    rows[6]["chosen"] = f"{rows[6]['prompt']}\n{rows[6]['chosen']}<|im_end|>"
    rows[7]["prompt"] += " Write to john@acme-corp.com"
    rows[8]["rejected"] = "\ufeff" + rows[8]["rejected"]
    rows[9]["chosen"] = "bro\ufffdken " + rows[9]["chosen"]
    rows[10]["chosen"] = "cafÃ© " + rows[10]["chosen"]
    rows[11]["chosen"] = "a <|im_start|> b"
    rows[12]["chosen"] = rows[12]["prompt"]
    rows[13]["margin"] = "high"
    return rows


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", dirty())
    before = source.read_bytes()
    done = doctor(str(source), fix=tmp_path / "out.jsonl")
    assert source.read_bytes() == before
    assert done.after is not None
    assert bad(done.after) == {}
    assert not done.failed
    assert done.diagnosis.failed
    log = {line["row"]: line for line in log_of(done)}
    removed = {row: line["check"] for row, line in log.items() if line["action"] == "removed"}
    assert removed == {
        2: "duplicates", 3: "identical_pairs", 4: "empty", 5: "contradictions", 6: "contradictions",
        10: "replacement_characters", 12: "special_tokens", 13: "empty", 14: "malformed",
    }  # fmt: skip
    assert {row: line["checks"] for row, line in log.items() if line["action"] == "changed"} == {
        7: {"prompt_leak": 1, "special_tokens": 1},
        8: {"emails": 1},
        9: {"invisible_characters": 1},
        11: {"mojibake": 1},
    }
    assert log[2]["like_row"] == 1
    assert log[13]["reason"] == "it only repeats its prompt (seen once prompt_leak was mended)"
    assert list(log) == sorted(log)
    lines = before.splitlines(keepends=True)
    kept = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    assert len(kept) == len(lines) - len(removed)
    untouched = [line for number, line in enumerate(lines, start=1) if number not in log]
    assert [line for line in kept if line in set(untouched)] == untouched  # byte for byte, in order
    out = rows_of(tmp_path / "out.jsonl")
    clean = pairs(40)
    changed = {row["prompt"]: row for row in out if row not in clean}
    assert clean[6] in out  # the prompt and the token are cut off
    assert changed[clean[7]["prompt"] + " Write to [EMAIL]"]["chosen"] == clean[7]["chosen"]


def test_a_copy_of_a_clean_file_is_the_file(tmp_path: Path) -> None:
    text = '{"prompt": "One?",   "chosen": "1.0", "rejected": "2", "x": 1e5}\n\n'
    text += '{"rejected": "b", "chosen": "a", "prompt": "p"}'
    (tmp_path / "in.jsonl").write_text(text)
    done = doctor(str(tmp_path / "in.jsonl"), fix=tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == text.replace("\n\n", "\n") + "\n"
    assert log_of(done) == []


def test_the_majority_is_kept(tmp_path: Path) -> None:
    rows = pairs(30)
    one, other = rows[4], {**rows[4], "chosen": rows[4]["rejected"], "rejected": rows[4]["chosen"]}
    rows += [{**one, "annotator": "b"}, other]
    done = doctor(rows, fix=tmp_path / "out.jsonl")
    assert [(line["row"], line["check"]) for line in log_of(done)] == [(31, "duplicates"), (32, "contradictions")]


def test_rows_of_the_evaluation_data_go(tmp_path: Path) -> None:
    rows, other = pairs(30), pairs(40)[30:]
    rows[3]["prompt"] = prose(500, 60)
    other[0]["prompt"], other[1]["prompt"] = rows[2]["prompt"], rows[3]["prompt"].replace("of the", "of a", 1)
    done = doctor(rows, against=other, fix=tmp_path / "out.jsonl")
    found = [(line["row"], line["check"], line["like_row"]) for line in log_of(done)]
    assert found == [(3, "eval_overlap", 1), (4, "eval_near_overlap", 2)]
    assert not done.failed


def test_keep_leaves_a_check_alone(tmp_path: Path) -> None:
    rows = dirty()
    done = doctor(rows, fix=tmp_path / "out.jsonl", keep=["emails", "duplicates", "empty", "prompt_leak"])
    assert done.cleaned is not None
    assert done.cleaned.rows == 34
    assert not {"emails", "duplicates", "empty", "prompt_leak"} & {*done.cleaned.removed, *done.cleaned.changed}
    assert done.failed
    assert rows_of(tmp_path / "out.jsonl")[6 - 2]["prompt"].endswith("john@acme-corp.com")


def test_files_keep_their_form(tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    rows = [{**r, "tags": ["x", "y"], "n": i} for i, r in enumerate(pairs(10))]
    rows[1] = dict(rows[0])
    rows[2]["chosen"] += " john@acme-corp.com"
    wanted = [rows[0], {**rows[2], "chosen": rows[2]["chosen"].replace("john@acme-corp.com", "[EMAIL]")}, *rows[3:]]
    (tmp_path / "in.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "lines.json").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=3)
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows({**r, "tags": '["x",  "y"]', "n": f"0{r['n']}"} for r in rows)
    for name in ("in.json", "lines.json", "in.parquet", "in.csv"):
        output = tmp_path / f"out-{name}"
        done = doctor(str(tmp_path / name), fix=output, log=tmp_path / f"{name}.log")
        assert [line["row"] for line in log_of(done)] == [2, 3], name
        found = rows_of(output)
        if name == "in.csv":
            assert '"[""x"",  ""y""]",00' in output.read_text(encoding="utf-8")
            found = [{**r, "n": int(r["n"])} for r in found]
        assert found == wanted, name
    assert pq.read_schema(tmp_path / "out-in.parquet") == pq.read_schema(tmp_path / "in.parquet")
    assert (tmp_path / "out-in.json").read_text().startswith("[")
    assert not (tmp_path / "out-lines.json").read_text().startswith("[")


def test_messages_and_own_column_names_are_mended_in_place(tmp_path: Path) -> None:
    rows: Any = chats(10, "Write to boss@acme-corp.com")
    rows[2]["messages"][2]["content"] += "<|im_end|>"
    done = doctor(rows, fix=tmp_path / "out.jsonl")
    out = rows_of(tmp_path / "out.jsonl")
    assert [m["role"] for m in out[0]["messages"]] == ["system", "user", "assistant"]
    assert out[0]["messages"][0]["content"] == "Write to [EMAIL]"
    assert out[2]["messages"][2]["content"] == chats(10)[2]["messages"][1]["content"]
    assert done.after is not None
    assert bad(done.after) == {}
    own = [{"question": r["prompt"], "good": r["chosen"] + " a@acme-corp.com", "rejected": r["rejected"],
            "prompt_id": "a@acme-corp.com"} for r in pairs(10)]  # fmt: skip
    source = write_jsonl(tmp_path / "own.jsonl", own)
    doctor(str(source), fix=tmp_path / "own-out.jsonl", columns={"prompt": "question", "chosen": "good"})
    first = rows_of(tmp_path / "own-out.jsonl")[0]
    assert list(first) == list(own[0])
    assert first["good"].endswith("[EMAIL]")
    assert first["prompt_id"] == "a@acme-corp.com"


def test_a_conversation_as_one_text(tmp_path: Path) -> None:
    def said(i: int, answer: str) -> str:
        return f"\n\nHuman: {prose(i, 12)}\n\nAssistant: {answer}"

    rows = [{"chosen": said(i, prose(i + 100)), "rejected": said(i, prose(i + 200))} for i in range(10)]
    rows[3]["chosen"] = said(3, f"{prose(3, 12)} {prose(103)}</s>")
    done = doctor(rows, fix=tmp_path / "out.jsonl")
    assert [line["checks"] for line in log_of(done)] == [{"prompt_leak": 1, "special_tokens": 1}]
    assert rows_of(tmp_path / "out.jsonl")[3]["chosen"].startswith(f"\n\nHuman: {prose(3, 12)}\n\nAssistant:")
    assert rows_of(tmp_path / "out.jsonl")[3]["chosen"].endswith(f"Assistant: {prose(103)}".partition(":")[2].strip())


def test_half_a_surrogate_pair_survives_where_it_is_kept(tmp_path: Path) -> None:
    rows = [*pairs(5), {"prompt": "half \ud83d a@acme-corp.com", "chosen": "a", "rejected": "b"}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    doctor(str(source), fix=tmp_path / "out.jsonl", keep=["replacement_characters"])
    assert rows_of(tmp_path / "out.jsonl")[5]["prompt"] == "half \ud83d [EMAIL]"


def test_nothing_is_left(tmp_path: Path) -> None:
    done = doctor([{"prompt": "p", "chosen": "a", "rejected": "a"}], fix=tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == ""
    assert done.failed


FAULTS = [
    "{}",
    "{}<|im_end|>",
    "{prompt}\n{}",
    "\ufeff{}",
    " ",
    "cafÃ© {}",
    "{} a@acme-corp.com",
    "<s>{prompt}",
    "{}\ufffd",
]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.sampled_from(FAULTS), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["preference", "feedback"]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_faults(tmp_path: Path, drawn: list[tuple[int, int, int, str, bool]], kind: str) -> None:
    """What is mended is gone, the counts agree, and mending again does nothing."""
    rows: list[Row] = []
    for p, a, b, fault, swap in drawn:
        prompt, chosen = prose(p, 12), fault.replace("{prompt}", prose(p, 12)).replace("{}", prose(10 + a))
        if kind == "feedback":
            rows.append({"prompt": prompt, "completion": chosen, "label": swap})
        else:
            pair = (prose(20 + b), chosen) if swap else (chosen, prose(10 + b))
            rows.append({"prompt": prompt, "chosen": pair[0], "rejected": pair[1]})
    done = doctor(rows, fix=tmp_path / "once.jsonl", overwrite=True)
    assert done.cleaned is not None
    assert done.after is not None
    log = log_of(done)
    removed = [line for line in log if line["action"] == "removed"]
    assert done.cleaned.rows + len(removed) == len(rows)
    assert sum(done.cleaned.removed.values()) == len(removed)
    assert len({line["row"] for line in log}) == len(log)
    if not done.cleaned.rows:
        return
    assert set(bad(done.after)) & set(FIXES) == set()
    again = doctor(str(tmp_path / "once.jsonl"), fix=tmp_path / "twice.jsonl", overwrite=True)
    assert log_of(again) == []
    assert (tmp_path / "twice.jsonl").read_bytes() == (tmp_path / "once.jsonl").read_bytes()


# ---------------------------------------------------------------- processes


def test_processes_find_the_same() -> None:
    rows = list(enumerate([r for i in range(30) for r in dirty() if i or r], start=1))
    task = Task("preference", {}, "rows", mend=True, keep=("emails",))
    one, two = look(rows, task, 1), look(rows, task, 2)
    assert len(one.facts) == 1200
    assert one.facts == two.facts
    assert one.shapes == two.shapes
    assert one.shapes.total() == 1200 - 90


def test_a_worker_that_fails_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plaudit.data.doctor.workers._PROGRAM", "import sys; sys.exit(3)")
    with pytest.raises((RuntimeError, BrokenPipeError)):
        look(enumerate(pairs(600), start=1), Task("preference", {}, "rows"), 2)


# ---------------------------------------------------------------- arguments


def test_files_are_not_overwritten_unless_asked(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", dirty())
    taken = tmp_path / "taken.jsonl"
    taken.write_text("mine")
    for options, problem in [
        ({"fix": source}, "never overwritten"),
        ({"fix": source, "overwrite": True}, "never overwritten"),
        ({"fix": tmp_path / "new.jsonl", "log": source, "overwrite": True}, "never overwritten"),
        ({"fix": taken}, "exists already"),
        ({"fix": tmp_path / "new.jsonl", "log": taken}, "exists already"),
        ({"fix": tmp_path / "new.csv"}, "form of the input"),
        ({"fix": tmp_path / "none" / "new.jsonl"}, "no such folder"),
        ({"fix": tmp_path / "new.jsonl", "log": tmp_path / "new.jsonl"}, "same file"),
        ({"overwrite": True}, "no effect without fix"),
        ({"keep": ["emails"]}, "no effect without fix"),
        ({"fix": tmp_path / "new.jsonl", "keep": ["email"]}, "did you mean emails?"),
        ({"kind": "pairs"}, "no kind of data"),
        ({"workers": 0}, "at least 1"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match="PL102") as error:
            doctor(str(source), **options)  # type: ignore[arg-type]
        assert problem in str(error.value)
    assert taken.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "taken.jsonl"]
    done = doctor(str(source), fix=taken, log=tmp_path / "log.jsonl", overwrite=True)
    assert done.cleaned is not None
    assert len(rows_of(taken)) == done.cleaned.rows


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (pairs(3), "preference"),
        (feedback(3), "feedback"),
        (chats(3), "completion"),
        ([{"prompt": "Why?", "answer": "7"}], "prompt"),
        ([{"messages": [{"role": "user", "content": "Why?"}]}], "prompt"),
        ([{"prompt": "Why?", "completions": ["a", "b"], "scores": [1, 2]}], "ranking"),
        ([{"text": "words"}], "completion"),
        ([{"instruction": "Why?", "output": "So."}], "completion"),
        ([{"instruction": "Why?", "output": "So.", "kto_tag": "true"}], "feedback"),
    ],
)
def test_kinds_are_recognised(rows: Any, kind: str) -> None:
    assert doctor(rows).diagnosis.kind == kind


def test_errors_are_those_of_the_readers(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": \n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "other.jsonl").write_text('{"x": 1}\n')
    for name, code in [("bad", "PL202"), ("empty", "PL207"), ("other", "PL203"), ("gone", "PL201")]:
        with pytest.raises(DataError, match=code) as error:
            doctor(str(tmp_path / f"{name}.jsonl"))
        assert str(tmp_path) in str(error.value)
    with pytest.raises(ConfigError, match="PL102"):
        doctor(pairs(3), columns={"prompt": "x"})
