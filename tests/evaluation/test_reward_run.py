"""`plaudit evaluate reward` end to end: a real model, given scores, files and the command line."""

from __future__ import annotations

import html.parser
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from plaudit.api import evaluate_reward
from plaudit.cli import main
from plaudit.errors import ConfigError, EvaluationError, PlauditError, RewardError
from plaudit.evaluation.reward_run import PAGE_NAME, RESULT_NAME, SCORES_NAME, default_folder
from tests.conftest import write_jsonl
from tests.evaluation.conftest import HOSTILE

Rows = list[dict[str, Any]]


def test_a_real_model_is_evaluated(reward_model_dir: Path, preference_file: Path, tmp_path: Path) -> None:
    from plaudit.rewards.models.model import RewardModel

    found = evaluate_reward(str(reward_model_dir), str(preference_file), output=tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / SCORES_NAME).read_text().splitlines()]
    items = [(r["prompt"], [r["chosen"], r["rejected"]]) for r in rows]
    scores = RewardModel.load(str(reward_model_dir)).score(items)
    assert [[r["chosen_score"], r["rejected_score"]] for r in rows] == [pytest.approx(s, abs=1e-5) for s in scores]
    right = sum(chosen > rejected for chosen, rejected in scores)
    assert found.accuracy.accuracy.value == pytest.approx(right / 16)
    assert found.calibration.log_loss.value == pytest.approx(
        sum(math.log1p(math.exp(rejected - chosen)) for chosen, rejected in scores) / 16, abs=1e-5
    )
    assert (found.rows, found.accuracy.prompts, found.no_curve is None) == (16, 16, False)


def test_scores_that_were_written_can_be_read_again(scored_files: list[str], tmp_path: Path) -> None:
    first = evaluate_reward(None, scored_files, output=tmp_path / "first", by=["topic"])
    again = evaluate_reward(None, str(tmp_path / "first" / SCORES_NAME), output=tmp_path / "again", by=["topic"])
    one, other = first.to_json(), again.to_json()
    assert one.pop("data") != other.pop("data")
    assert one == other
    lines = [(tmp_path / name / SCORES_NAME).read_text() for name in ("first", "again")]
    assert [json.loads(x) for x in lines[0].splitlines()] == [json.loads(x) for x in lines[1].splitlines()]


def test_strata_of_given_scores(scored_files: list[str], scored_pairs: Rows) -> None:
    found = evaluate_reward(None, scored_files, by=["topic"])
    columns = {(s.column, s.value): s.result for s in found.strata}
    even = sum(r["preference"] == 0.5 for r in scored_pairs)
    assert found.even == even == 20
    assert columns[("file", scored_files[0])].pairs == 120 - even
    assert columns[("annotator", "ann")].pairs + columns[("annotator", "bob")].pairs == 60
    code = [r for r in scored_pairs if r["topic"] == "code" and r["preference"] > 0.5]
    assert columns[("topic", "code")].pairs == len(code)
    points = sum((r["chosen_score"] > 0) + 0.5 * (r["chosen_score"] == 0) for r in code)
    assert columns[("topic", "code")].accuracy.value == pytest.approx(points / len(code))
    assert {v for c, v in columns if c == "agreement"} == {"60 to 70 %", "80 to 90 %", "all agree"}
    assert {v for c, v in columns if c == "rank gap"} == {"1", "2", "3 or more"}
    assert {v for c, v in columns if c == "length"} <= {"chosen is longer", "chosen is shorter", "equal length"}
    assert [(p.n, p.prompts) for p in found.best_of_n] == [(n, 40) for n in (1, 2, 3, 4, 5)]
    assert found.notes == ["the best-of-n curve is of the 40 rows with gold scores"]


def test_what_weighs_one(scored_files: list[str], scored_rankings: Rows) -> None:
    by_pair, by_prompt = (evaluate_reward(None, scored_files, weigh=w).accuracy for w in ("pair", "prompt"))
    assert by_pair.pairs == by_prompt.pairs
    assert by_pair.accuracy.value != by_prompt.accuracy.value
    found = evaluate_reward(None, scored_files, weigh="prompt")
    shorter = next(s.result.accuracy for s in found.strata if s.value == "chosen is shorter")
    assert found.length.right_when_shorter == shorter
    alone = [evaluate_reward(None, scored_files[1], weigh=w).accuracy.accuracy.value for w in ("pair", "prompt")]
    assert alone[0] == pytest.approx(alone[1], abs=0.02)  # nearly all prompts have ten pairs


def rewardbench_rows() -> Rows:
    rows = []
    for i in range(6):
        rows.append(
            {"id": i, "prompt": f"Say {i}", "chosen": "I can.", "rejected": "I will not do it.", "subset": "hep-go"}
        )
    return rows


def test_rewardbench_rows_are_a_chat_where_the_model_has_a_template(reward_model_dir: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "bench.jsonl", rewardbench_rows())
    found = evaluate_reward(str(reward_model_dir), str(file), output=tmp_path / "out")
    line = json.loads((tmp_path / "out" / SCORES_NAME).read_text().splitlines()[0])
    assert line["prompt"] == [{"role": "user", "content": "Say 0"}]
    assert (line["id"], line["subset"]) == (0, "hep-go")
    assert found.rewardbench is not None
    assert found.rewardbench.overall is None
    assert found.rewardbench.sections[3].score is not None
    assert found.rewardbench.sections[3].score.n == 6
    assert found.notes[0] == "text is written as chat messages (6 of 6 rows)"
    assert found.notes[1].startswith("not the published rows of RewardBench")
    text = evaluate_reward(str(reward_model_dir), str(file), chat=False)
    assert not any("chat" in note for note in text.notes)


def test_the_default_folder_is_new_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "rm"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("model: {}\n")
    assert default_folder(str(run), ["data/held out.jsonl"]) == run / "evaluations" / "held-out"
    (run / "evaluations" / "held-out").mkdir(parents=True)
    assert default_folder(str(run), ["data/held out.jsonl"]) == run / "evaluations" / "held-out-2"
    assert default_folder("org/model", ["x.jsonl"]) == Path("evaluations/model-x")
    assert default_folder(None, []) == Path("evaluations/rows")


def test_a_folder_with_other_things_is_not_touched(scored_pairs: Rows, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(EvaluationError, match="PL803"):
        evaluate_reward(None, scored_pairs, output=tmp_path)
    with pytest.raises(EvaluationError, match=r"PL803.*no folder"):
        evaluate_reward(None, scored_pairs, output=tmp_path / "mine.txt")
    out = tmp_path / "out"
    for _ in range(2):  # an earlier evaluation is replaced
        assert evaluate_reward(None, scored_pairs, output=out).folder == out
    assert sorted(p.name for p in out.iterdir()) == sorted([PAGE_NAME, RESULT_NAME, SCORES_NAME])
    assert evaluate_reward(None, scored_pairs).folder is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weigh": "row"}, r"PL102.*weigh is 'row'"),
        ({"invalid": "skip"}, "PL102.*invalid"),
        ({"overlong": "cut"}, "PL102.*overlong"),
        ({"bins": 3}, "PL102.*even"),
        ({"by": ["topics"]}, r"PL102.*'topics'[\s\S]*did you mean 'topic'"),
        ({"chat": True}, "PL102.*chat has no effect"),
        ({"base": "x"}, "PL102.*base has no effect"),
        ({"precision": "fp32"}, "PL102.*precision has no effect"),
        ({"overlong": "truncate"}, "PL102.*overlong has no effect"),
    ],
)
def test_options_that_do_not_fit(scored_pairs: Rows, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_reward(None, scored_pairs, **options)


def test_even_votes_alone_are_nothing_to_evaluate(scored_pairs: Rows) -> None:
    with pytest.raises(EvaluationError, match="PL801"):
        evaluate_reward(None, [r for r in scored_pairs if r["preference"] == 0.5])


def test_bad_rows_are_an_error_or_counted(scored_pairs: Rows) -> None:
    rows = [*scored_pairs, {**scored_pairs[0], "rejected": ""}]
    with pytest.raises(PlauditError, match=r"PL204[\s\S]*--invalid drop"):
        evaluate_reward(None, rows)
    assert evaluate_reward(None, rows, invalid="drop").dropped == 1


def test_a_row_too_long_for_the_model_is_named_or_cut_and_counted(reward_model_dir: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "Hello", "chosen": "a", "rejected": "b"}, {"prompt": "x" * 900, "chosen": "a", "rejected": "b"}]
    file = write_jsonl(tmp_path / "long.jsonl", rows)
    with pytest.raises(RewardError, match=r"PL705[\s\S]*long.jsonl:2"):
        evaluate_reward(str(reward_model_dir), str(file))
    found = evaluate_reward(str(reward_model_dir), str(file), overlong="truncate")
    assert found.notes == ["2 answers were longer than the model's positions: their oldest tokens were not read"]


# ---------------------------------------------------------------- the page and the command line


class Page(html.parser.HTMLParser):
    """Tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("href", "src")]
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data


def test_the_page_has_everything_and_runs_nothing(scored_files: list[str], tmp_path: Path) -> None:
    found = evaluate_reward(None, scored_files, output=tmp_path / "out")
    page = Page((tmp_path / "out" / PAGE_NAME).read_text(encoding="utf-8"))
    assert HOSTILE in page.text
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert page.tags.count("svg") == 3
    for part in (
        f"{100 * found.accuracy.accuracy.value:.1f} %",
        "by annotator",
        "chosen is shorter",
        "Fitted temperature T = ",
        "The model is right in",
        "20 with even votes count in the calibration only",
        "share of gain",
    ):
        assert part in page.text, part


def test_without_gold_scores_the_page_says_why_there_is_no_curve(scored_pairs: Rows, tmp_path: Path) -> None:
    evaluate_reward(None, scored_pairs, output=tmp_path / "out")
    page = Page((tmp_path / "out" / PAGE_NAME).read_text(encoding="utf-8"))
    assert page.tags.count("svg") == 2
    assert "There is no curve: no row has gold scores" in page.text


def test_extreme_evaluations_have_a_page(tmp_path: Path) -> None:
    one = {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_score": 0.0, "rejected_score": 0.0}
    for name, rows in {
        "one tie": [one],
        "one right": [one | {"chosen_score": 1e6}],
        "reversed": [one | {"chosen_score": -1.0}, one | {"prompt": "q", "chosen_score": -2.0}],
        "rewardbench": [one | {"subset": "hep-go", "chosen_score": 1.0}],
    }.items():
        evaluate_reward(None, rows, output=tmp_path / name)
        result = json.loads((tmp_path / name / RESULT_NAME).read_text())
        assert result["accuracy"]["pairs"] == len(rows)
        assert (tmp_path / name / PAGE_NAME).read_text().endswith("</html>")


def run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["plaudit", *arguments])
    status = 0
    try:
        main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command(
    reward_model_dir: Path,
    preference_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(["evaluate", "reward", str(reward_model_dir), str(preference_file)], monkeypatch, capsys)
    assert (status, err) == (0, "")
    result = json.loads((tmp_path / "evaluations" / "tiny-reward-pairs" / RESULT_NAME).read_text())
    assert f"{100 * result['accuracy']['accuracy']['value']:.1f} %" in out
    assert "no curve: no row has gold scores" in out
    assert "* fewer than 30 prompts" in out
    assert str(Path("evaluations") / "tiny-reward-pairs" / PAGE_NAME) in out


def test_the_command_on_given_scores(
    scored_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ["evaluate", "reward", "--scored", *scored_files, "--by", "topic", "-o", "out"]
    status, out, _ = run(arguments, monkeypatch, capsys)
    assert status == 0
    assert all("…" not in line for line in out.splitlines() if line.startswith(("all pairs", "accuracy", "best of n")))
    for part in ("by topic", "by rank gap", "best of n", "Fitted temperature", "longer is right in"):
        assert part in out, part
    status, _, err = run([*arguments[:4], "--by", "colour"], monkeypatch, capsys)
    assert status == 2
    assert "PL102" in err


def test_the_command_without_data(
    reward_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(["evaluate", "reward", str(reward_model_dir)], monkeypatch, capsys)
    assert status == 2
    assert "no data is named" in err


def test_what_the_model_is_not_shown_is_counted(reward_model_dir: Path) -> None:
    def turn(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    rows = [
        {"messages": turn("user", f"q{i}"), "chosen": turn("assistant", "Blue."), "rejected": turn("assistant", "No.")}
        for i in range(5)
    ]
    for row in (rows[0], rows[4]):
        row["tools"] = [tool]  # type: ignore[assignment]
    for row in rows[1:4]:
        row["chat_template_kwargs"] = {"enable_thinking": False}  # type: ignore[assignment]
    found = evaluate_reward(str(reward_model_dir), rows)
    assert found.model == str(reward_model_dir)
    said = "\n".join(found.notes)
    assert "rows have tools, which the reward model is not shown (2 of 5 rows)" in said
    assert "rows have chat_template_kwargs, which the reward model is not shown (3 of 5 rows)" in said
