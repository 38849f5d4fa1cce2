"""`plaudit doctor` as it is typed: what it prints, writes, and ends with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from plaudit.cli import main
from tests.conftest import write_jsonl
from tests.data.doctor.rows import chats, feedback, pairs, prose


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """(exit status, stdout, stderr) of `plaudit doctor …` in a temporary directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plaudit", "doctor", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return command


def test_a_clean_file(run: Any) -> None:
    write_jsonl(Path("pairs.jsonl"), pairs())
    status, out, err = run("pairs.jsonl")
    assert (status, err) == (0, "")
    assert out.startswith(
        "pairs.jsonl: 40 rows of preference data (prompt + chosen + rejected), 40 different prompts\n\nOK\n"
    )
    assert "length bias: the better answer is the longer one in 50.0 % of cases" in out
    assert "position balance: no column says where the better answer was shown" in out
    assert out.rstrip().endswith("0 FAIL, 0 WARN, 28 OK")


def test_findings_are_told_with_rows_and_mends(run: Any) -> None:
    rows = pairs()
    rows[3]["chosen"] = rows[3]["prompt"] + " " + rows[3]["chosen"]
    rows[5]["chosen"] = " "
    rows[7]["prompt"] += " Write to jane.roe@acme-corp.com."
    write_jsonl(Path("pairs.jsonl"), rows)
    status, out, _ = run("pairs.jsonl")
    assert status == 1
    lines = [line.strip() for line in out.splitlines()]
    at = lines.index("FAIL  empty prompts or answers   1 row, 2.5 %   empty")
    assert lines[at + 2] == "row 6: chosen is empty"
    assert lines[at + 3].startswith("→ leave them out")
    assert "FAIL  answers that begin with their prompt   1 row, 2.6 %   prompt_leak" in lines
    assert "WARN  e-mail addresses   1 row, 2.6 %   emails" in lines
    assert "row 8: j•••@•••.com" in lines
    assert "jane.roe" not in out
    assert "Training refuses 1 of the rows; the checks of texts are on the other 39." in lines
    assert "2 FAIL, 1 WARN, 25 OK" in lines
    assert lines[-1] == "--fix OUT writes a cleaned copy with a log of every row."
    assert all(line == line.rstrip() for line in out.splitlines())


def test_warnings_alone_are_no_failure(run: Any) -> None:
    write_jsonl(Path("pairs.jsonl"), [*pairs(), pairs()[3]])
    assert run("pairs.jsonl")[0] == 0


def test_the_exit_status_is_that_of_the_cleaned_copy(run: Any) -> None:
    rows = pairs()
    rows[5]["chosen"] = " "
    rows[6] = dict(rows[7])
    write_jsonl(Path("pairs.jsonl"), rows)
    status, out, _ = run("pairs.jsonl", "--fix", "clean.jsonl")
    assert status == 0
    assert "wrote clean.jsonl: 38 rows, 2 removed" in out
    assert "every one of them is in clean.log.jsonl" in out
    assert "the copy, examined again: nothing to complain about" in out
    assert len(Path("clean.jsonl").read_text().splitlines()) == 38
    log = [json.loads(line) for line in Path("clean.log.jsonl").read_text().splitlines()]
    assert [(line["row"], line["action"], line["check"]) for line in log] == [
        (6, "removed", "empty"),
        (8, "removed", "duplicates"),
    ]
    status, _, err = run("pairs.jsonl", "--fix", "clean.jsonl")
    assert status == 2
    assert "PL102" in err
    assert "add --overwrite" in err
    assert run("pairs.jsonl", "--fix", "clean.jsonl", "--overwrite", "--keep", "empty")[0] == 1


def test_a_copy_in_which_nothing_is_mended_names_no_log(run: Any) -> None:
    write_jsonl(Path("pairs.jsonl"), pairs())
    status, out, _ = run("pairs.jsonl", "--fix", "clean.jsonl")
    assert status == 0
    assert "40 rows, 0 removed" in out
    assert "every one of them" not in out


def test_json_for_machines(run: Any) -> None:
    rows = pairs()
    rows[5]["chosen"] = " "
    write_jsonl(Path("pairs.jsonl"), rows)
    write_jsonl(Path("eval.jsonl"), [{"prompt": rows[0]["prompt"]}])
    write_jsonl(Path("more.jsonl"), [{"prompt": prose(999)}])
    status, out, err = run("pairs.jsonl", "--json", "--against", "eval.jsonl", "--against", "more.jsonl")
    assert (status, err) == (1, "")
    found = json.loads(out)
    assert (found["version"], found["failed"], found["kind"], found["rows"], found["usable"]) == (
        *(1, True, "preference", 40, 39),
    )
    by_title = {f["title"]: f for f in found["findings"]}
    assert by_title["prompts of eval.jsonl"]["verdict"] == "FAIL"
    assert by_title["prompts of more.jsonl"]["verdict"] == "OK"
    assert by_title["empty prompts or answers"] | {"mend": ""} == {
        "check": "empty",
        "title": "empty prompts or answers",
        "verdict": "FAIL",
        "count": 1,
        "of": 40,
        "share": 0.025,
        "detail": "nothing in it, or white space only: training refuses the file",
        "numbers": {},
        "examples": [{"rows": [6], "text": "chosen is empty"}],
        "mend": "",
        "fixed": True,
    }
    fixed = json.loads(run("pairs.jsonl", "--json", "--fix", "c.jsonl", "--log", "l.jsonl")[1])
    assert (fixed["failed"], fixed["cleaned"]["rows"], fixed["cleaned"]["removed"]) == (False, 39, {"empty": 1})
    assert fixed["after"]["rows"] == 39


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone.jsonl"], "PL201"),
        (["pairs.jsonl", "--kind", "pair"], "use one of feedback, preference, ranking, completion, prompt"),
        (["pairs.jsonl", "--column", "prompt"], "is not FIELD=COLUMN"),
        (["pairs.jsonl", "--column", "prompt=question"], "PL203"),
        (["pairs.jsonl", "--kind", "feedback"], "PL203"),
        (["pairs.jsonl", "--keep", "emails"], "add --fix OUT"),
        (["pairs.jsonl", "--against", "gone.jsonl"], "PL201"),
        ([], "Missing argument 'DATA'"),
    ],
)
def test_mistakes_are_explained(run: Any, arguments: list[str], says: str) -> None:
    write_jsonl(Path("pairs.jsonl"), pairs(3))
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (feedback(), "feedback"),
        (chats(), "completion"),
        ([{"prompt": prose(i), "answer": "7"} for i in range(5)], "prompt"),
        ([{"prompt": prose(9 * i), "completions": [prose(9 * i + 1), prose(9 * i + 2)], "ranks": [2, 1]}
          for i in range(5)], "ranking"),
    ],
)  # fmt: skip
def test_every_kind_of_data(run: Any, rows: Any, kind: str) -> None:
    write_jsonl(Path("rows.jsonl"), rows)
    status, out, _ = run("rows.jsonl")
    assert status == 0
    assert f"{len(rows)} rows of {kind} data" in out


def test_columns_with_other_names_are_told_as_options(run: Any) -> None:
    write_jsonl(
        Path("rows.jsonl"), [{"objective": f"Thing {i}", "assistant_response": "Blue.", "id": i} for i in range(8)]
    )
    status, _, err = run("rows.jsonl")
    told = "--column prompt=objective --column completion=assistant_response"
    assert (status, f"{told} makes them completion data" in err) == (2, True)
    status, out, _ = run("rows.jsonl", *told.split())
    assert (status, out.startswith("rows.jsonl: 8 rows of completion data")) == (0, True)
