"""`plaudit evaluate frontier` end to end: a real run of GRPO on the tiny model, its checkpoints, and the command."""

from __future__ import annotations

import html.parser
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plaudit.api import evaluate_frontier, generate
from plaudit.cli import main
from plaudit.errors import ConfigError, EvaluationError, ModelError, PlauditError, RewardError
from plaudit.evaluation.frontier import sampled
from plaudit.evaluation.frontier.run import ANSWERS, PAGE_NAME, RESULT_NAME
from plaudit.inference.locate import load_located, locate
from plaudit.online.session import OnlineSession
from plaudit.train.running import run_training
from tests.conftest import write_jsonl
from tests.evaluation.conftest import HOSTILE
from tests.train import runs

GOLD = f"{Path(__file__).with_name('gold_reward.py')}:variety"
SMALL: dict[str, Any] = {"gold": GOLD, "n": 2, "best_of": (1, 2, 3, 4), "max_new_tokens": 8}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def grpo(folder: Path, model: Path, steps: int, **changes: Any) -> Path:
    """Some steps of GRPO, all of them kept; the run's own held-out prompts are no part of what it trains on."""
    data = runs.write_rows(folder / "prompt.jsonl", runs.rows_of("prompt", 24))
    options = runs.options_for(model, data, folder / "run")
    options |= {"train.max_steps": steps, "train.epochs": None, "train.learning_rate": 1e-2, "eval.every": 100}
    options |= {"checkpoint.every": 1, "checkpoint.keep": 9, **changes}
    found = {key: value for key, value in options.items() if value is not None}
    run_training(runs.resolved("grpo", found), session=OnlineSession)
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    torch.set_num_threads(1)
    return grpo(tmp_path_factory.mktemp("frontier"), tiny_model_dir, 4)


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    torch.set_num_threads(1)
    return grpo(tmp_path_factory.mktemp("frontier-lora"), tiny_model_dir, 2, lora={"r": 4})


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six prompts that no run has seen."""
    rows = [{"prompt": f"What is {word}?", "answer": word} for word in ("a", "be", "sea", "deer", "e", "if")]
    return write_jsonl(tmp_path_factory.mktemp("held") / "held.jsonl", rows)


@pytest.fixture(scope="module")
def measured(run: Path, held: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole evaluation; do not write into it."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampled, "_CHUNK", 8)  # chunks of two prompts of the reference, and of four of a model
        evaluate_frontier(run, held, output=folder, **SMALL)
    return folder


def lines_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {f.stem: runs.lines(f) for f in sorted((folder / ANSWERS).glob("*.jsonl"))}


@pytest.mark.parametrize("kind", ["run", "lora_run"])
def test_a_checkpoint_is_read_as_the_model_that_it_holds(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    last = load_located(locate(folder / "checkpoints" / f"step-{4 if kind == 'run' else 2:08d}")).model
    model = load_located(locate(folder)).model
    first = load_located(locate(folder / "checkpoints" / "step-00000001")).model
    weights, expected, other = (dict(m.named_parameters()) for m in (last, model, first))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(w, expected[name]) for name, w in weights.items())
    assert not all(torch.equal(w, other[name]) for name, w in weights.items())


def test_a_checkpoint_of_another_model_or_without_its_run_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints" / "step-00000001", tmp_path / "alone")
    with pytest.raises(ModelError, match=r"PL301[\s\S]*config.yaml of its run"):
        locate(tmp_path / "alone")
    shutil.copytree(run, tmp_path / "copy")
    weights = tmp_path / "copy" / "checkpoints" / "step-00000001" / "weights.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    name = next(iter(tensors))
    save_file({**{n: t for n, t in tensors.items() if n != name}, "model.odd": tensors[name]}, weights)
    with pytest.raises(ModelError, match=r"PL301[\s\S]*1 weights do not fit, 1 are missing"):
        load_located(locate(weights.parent))
    weights.write_bytes(b"half")
    with pytest.raises(ModelError, match=r"PL301[\s\S]*cannot be read"):
        load_located(locate(weights.parent))


def test_every_number_comes_from_the_written_answers(run: Path, measured: Path) -> None:
    result = json.loads((measured / RESULT_NAME).read_text())
    assert [p["name"] for p in result["points"]] == ["step 1", "step 2", "step 3", "step 4"]
    assert [p["n"] for p in result["best_of"]] == [1, 2, 3, 4]
    files = lines_of(measured)
    assert len(files) == 5
    start = files["reference"]
    assert len(start) == 6 * 4
    assert all(row["logprob"] == row["reference_logprob"] for row in start)
    own = {row["row"]: [r for r in start if r["row"] == row["row"]] for row in start}
    assert result["start"]["gold"] == pytest.approx(np.mean([r["gold"] for r in start]))
    step4 = next(rows for name, rows in files.items() if name.startswith("step-00000004"))
    assert [(r["row"], r["sample"]) for r in step4] == [(i, k) for i in range(6) for k in range(2)]
    point = result["points"][3]
    assert point["kl"]["value"] == pytest.approx(np.mean([r["logprob"] - r["reference_logprob"] for r in step4]))
    gains = [
        np.mean([r["gold"] for r in step4 if r["row"] == i]) - np.mean([r["gold"] for r in own[i]]) for i in range(6)
    ]
    assert point["gold"]["value"] == pytest.approx(np.mean(gains))
    for row in step4:  # the proxy is what the run was trained with, the gold what was named
        vowels = sum(c in "aeiou" for c in row["completion"]) / max(len(row["completion"]), 1)
        assert row["proxy"] == pytest.approx(vowels + 0.01 * len(row["completion"]))
        assert row["gold"] == pytest.approx(len(set(row["completion"])))
    assert point["proxy"]["value"] > 0  # it has learned what it was trained for


def test_log_probs_are_those_of_the_models(run: Path, measured: Path, held: Path, tiny_model_dir: Path) -> None:
    """Against `plaudit generate`: the same seed gives the same answers, with the log-prob that was sampled with."""
    rows = next(rows for name, rows in lines_of(measured).items() if name.startswith("step-00000004"))
    sampled_again = list(generate(run, prompts_file=held, n=2, max_new_tokens=8))
    assert [r["completion"] for r in rows] == [r["completion"] for r in sampled_again]
    assert [r["logprob"] for r in rows] == pytest.approx([r["logprob"] for r in sampled_again], abs=1e-3)
    start = lines_of(measured)["reference"]
    again = list(generate(tiny_model_dir, prompts_file=held, n=4, max_new_tokens=8))
    assert [r["logprob"] for r in start] == pytest.approx([r["logprob"] for r in again], abs=1e-3)


def test_the_reference_itself_is_at_distance_zero(tiny_model_dir: Path, held: Path, tmp_path: Path) -> None:
    found = evaluate_frontier(
        [tiny_model_dir], held, reference=tiny_model_dir, proxy=GOLD, output=tmp_path / "o", **SMALL
    )
    point = found.points[0]
    assert (point.kl.value, point.kl.low, point.kl.high) == (0, 0, 0)
    assert any("proxy and gold are the same reward" in note for note in found.notes)
    assert any("cannot be told from 0" in note for note in found.notes)


class Stopped(Exception):
    """Somebody pulls the plug."""


def test_interrupted_and_gone_on_with_is_uninterrupted(
    run: Path, held: Path, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled, "_CHUNK", 8)
    parts = tmp_path / "parts"
    for last in (5, 30):  # in the middle of a chunk of the reference, and of a model

        def stop(done: int, total: int, last: int = last) -> None:
            assert total == 6 * (4 + 4 * 2)
            if done == last:
                raise Stopped

        with pytest.raises(Stopped):
            evaluate_frontier(run, held, output=parts, **SMALL, on_progress=stop)
        torn = max((parts / ANSWERS).glob("*.jsonl"), key=lambda f: f.stat().st_mtime_ns)
        with torn.open("a") as file:  # as a kill in the middle of a line leaves it
            file.write('{"row": 0, "sam')
    evaluate_frontier(run, held, output=parts, **SMALL)
    assert lines_of(parts) == lines_of(measured)
    for name in (RESULT_NAME, PAGE_NAME):
        assert (parts / name).read_text() == (measured / name).read_text()
    calls: list[tuple[int, int]] = []
    evaluate_frontier(run, held, output=parts, **SMALL, on_progress=lambda *c: calls.append(c))
    assert calls == [(24 + 12 * i, 72) for i in range(5)]  # everything is there already


def test_other_options_do_not_go_on_with_the_same_files(measured: Path, run: Path, held: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"PL102[\s\S]*other sampling options"):
        evaluate_frontier(run, held, output=tmp_path / "out", **SMALL | {"max_new_tokens": 7})
    with pytest.raises(ConfigError, match=r"PL102[\s\S]*other gold"):
        evaluate_frontier(run, held, output=tmp_path / "out", **SMALL | {"gold": "length:most=5"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(EvaluationError, match="PL803"):
        evaluate_frontier(run, held, output=tmp_path / "mine", **SMALL)


def test_answers_that_had_no_reward_are_scored_again(run: Path, held: Path, tmp_path: Path) -> None:
    broken: list[str] = []  # the text that has no reward, and afterwards has one

    def gold(completions: list[str], **columns: Any) -> list[float]:
        if not broken:
            broken.append(completions[0])
        return [float("nan") if text == broken[0] else float(len(text)) for text in completions]

    options: dict[str, Any] = {"n": 2, "best_of": (1, 2), "max_new_tokens": 8, "gold": gold}
    models = [run / "checkpoints" / "step-00000004"]
    first = evaluate_frontier(models, held, output=tmp_path / "o", **options)
    assert first.start.failed == 1
    assert any(note.startswith("1 of 24 answers lack a reward") for note in first.notes)
    assert (first.best_of[1].prompts, first.start.prompts) == (5, 6)
    broken[0] = "mended"
    second = evaluate_frontier(models, held, output=tmp_path / "o", **options)
    assert second.start.failed + second.points[0].failed == 0
    assert any(note.startswith("1 answers had failed") for note in second.notes)
    row = lines_of(tmp_path / "o")["reference"][0]
    assert (row["gold"], row["gold_error"]) == (len(row["completion"]), None)


def test_gold_is_what_the_run_has_watched_if_nothing_else_is_said(run: Path, held: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text() + f"watch:\n  gold: {{rewards: ['{GOLD}']}}\n")
    found = evaluate_frontier(tmp_path / "run", held, output=tmp_path / "o", **SMALL | {"gold": None})
    rows = lines_of(tmp_path / "o")["reference"]
    assert [r["gold"] for r in rows] == [len(set(r["completion"])) for r in rows]
    assert [p.name for p in found.points] == ["step 4"]


# -- what is said


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.classes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.classes.append(f"{tag}:{found.get('class')}")
        self.urls += [v for k in ("href", "src", "action") if (v := found.get(k)) and not v.startswith("#")]


def test_the_page_has_both_curves_and_asks_for_nothing(measured: Path) -> None:
    text = (measured / PAGE_NAME).read_text()
    page = _Page()
    page.feed(text)
    assert page.urls == []
    assert "script" not in page.tags
    assert "http:" not in text
    assert "https:" not in text
    assert page.tags.count("svg") == 2
    for name in ("gold", "proxy"):
        assert page.classes.count(f"path:{name}") == 2
        assert page.classes.count(f"path:{name} fit") >= 1
        assert f"path:{name} whisker" in page.classes
        assert f"span:dot {name}" in page.classes
    assert "stroke-dasharray" in text
    assert "step 4" in text


def test_the_page_is_safe_whatever_things_are_called(run: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "held.jsonl", [{"prompt": f"{HOSTILE} {i}", "answer": "x"} for i in range(2)])
    odd = tmp_path / "<b>odd"
    shutil.copytree(run / "model", odd)
    found = evaluate_frontier([odd], rows, reference=run / "model", proxy=GOLD, output=tmp_path / "o", **SMALL)
    assert found.folder is not None
    text = (found.folder / PAGE_NAME).read_text()
    assert "<b>odd" not in text
    assert "&lt;b&gt;odd" in text


def test_prompts_that_were_trained_on_are_counted(run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    file = run.parent / "prompt.jsonl"
    options = {"gold": GOLD, "n": 1, "best_of": (), "max_new_tokens": 2}
    models = [run / "checkpoints" / "step-00000004"]
    found = evaluate_frontier(models, file, output=tmp_path / "o", on_message=said.append, **options)
    report = json.loads((run / "data_report.json").read_text())
    assert report["train"]["files"][0]["rows"] == 24
    note = next(n for n in found.notes if "were trained on by run" in n)
    count = int(note.split()[4])
    assert 0 < count < 24  # the run held some of them out itself
    assert f"of the 24 prompts, {count} were trained on by run" in note
    assert f"warning: {note}" in said
    shutil.copytree(run, tmp_path / "moved")
    config = tmp_path / "moved" / "config.yaml"
    config.write_text(config.read_text().replace(str(file), str(tmp_path / "gone.jsonl")))
    moved = evaluate_frontier(tmp_path / "moved" / "model", file, output=tmp_path / "m", **options)
    assert any("is not known, its data cannot be read" in n for n in moved.notes)


def test_the_command(
    run: Path, held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: object) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["plaudit", "evaluate", "frontier", *map(str, arguments)])
        with pytest.raises(SystemExit):
            main()
        found = capsys.readouterr()
        return found.out, found.err

    small = ("--n", 2, "--best-of", "1,2,4", "--max-new-tokens", 4, "--output", "out")
    steps = [run / "checkpoints" / f"step-{s:08d}" for s in (1, 4)]
    out, err = call(*steps, "--data", held, "--gold", GOLD, *small)
    assert "reference" in err
    assert "step 4" in out
    assert "no fit: a fit needs 3 points at different distances" in out
    assert "do not compare the two" in out
    assert f"out/{PAGE_NAME}, {RESULT_NAME}" in out
    assert max(map(len, out.partition("\n\n")[2].partition("\n\n")[0].splitlines())) <= 80
    _, err = call(run, "--data", held, "--gold", GOLD, "--best-of", "one")
    assert "PL102" in err
    (run / "metrics.jsonl").exists()
    _, err = call(run, "--from-log")
    assert "PL806" in err


def test_two_runs_are_two_curves(
    run: Path,
    lora_run: Path,
    held: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(run, tmp_path / "full", ignore=shutil.ignore_patterns("step-00000001"))
    shutil.copytree(lora_run, tmp_path / "lora")
    config = tmp_path / "lora" / "config.yaml"
    config.write_text(config.read_text().replace("temperature: 1.0", "temperature: 0.5", 1))
    small = ("--data", held, "--gold", GOLD, "--n", 2, "--best-of", "none", "--max-new-tokens", 4, "--output", "out")
    arguments = ["plaudit", "evaluate", "frontier", "full", "lora", *map(str, small)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        main()
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if "gold" in line and "corr." in line] == [
        "full",
        "lora",
    ]  # a table each
    assert {f"full step {s}" for s in (2, 3, 4)} | {f"lora step {s}" for s in (1, 2)} <= {
        " ".join(line.split()[:3]) for line in out.splitlines()
    }
    verdicts = [line for line in out.splitlines() if line.startswith(("full: ", "lora: "))]
    assert len(verdicts) == 2
    assert "lora" not in verdicts[0]
    assert "full" not in verdicts[1]
    assert "best" not in out
    assert "temperature is that of full, and not that of lora: name one with --temperature" in out
    assert "max_new_tokens is that" not in out
    result = json.loads((tmp_path / "out" / RESULT_NAME).read_text())
    assert [(p["curve"], p["step"]) for p in result["points"]] == [
        *(("full", s) for s in (2, 3, 4)),
        *(("lora", s) for s in (1, 2)),
    ]
    assert [f["curve"] for f in result["fits"]] == ["full", "full", "lora", "lora"]
    assert list(result["losses"]) == ["full", "lora"]


def test_answers_that_were_begun_before_the_step_was_known_are_gone_on_with(
    run: Path, held: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"gold": GOLD, "n": 2, "best_of": (), "max_new_tokens": 4, "output": tmp_path / "o"}
    found = evaluate_frontier(run / "model", held, **options)
    assert [(p.name, p.step) for p in found.points] == [("step 4", 4)]
    for file in list((tmp_path / "o" / ANSWERS).glob("step-*")):  # the answers, and what they were begun with
        file.rename(file.with_name(file.name.removeprefix("step-00000004-")))
    calls: list[tuple[int, int]] = []
    evaluate_frontier(run / "model", held, **options, on_progress=lambda *c: calls.append(c))
    assert calls == [(12, 24), (24, 24)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gold": None}, r"PL102[\s\S]*no gold reward is named"),
        ({"temperature": 0}, r"PL102[\s\S]*no KL"),
        ({"pool": 2}, r"PL102[\s\S]*best of 4 cannot be chosen among 2"),
        ({"best_of": (0,)}, r"PL102[\s\S]*at least 1"),
        ({"models": []}, r"PL102[\s\S]*no model is named"),
        ({"data": None}, r"PL102[\s\S]*no prompts are named"),
        ({"from_log": True}, r"PL102[\s\S]*data, gold, n, best_of, max_new_tokens has no effect"),
        ({"from_log": True, "models": ["a", "b"]}, r"PL102"),
        ({"gold": "lenght"}, r"PL100[\s\S]*did you mean length"),
        ({"gold": "math"}, r"PL709|PL204"),
    ],
)
def test_options_that_do_not_fit(
    run: Path, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "What?"}]
    options = {"models": run, "data": rows, "output": tmp_path / "o", **SMALL} | changes
    with pytest.raises(PlauditError, match=message):
        evaluate_frontier(options.pop("models"), options.pop("data"), **options)
    assert not (tmp_path / "o").exists()


def test_what_a_model_folder_does_not_say_has_to_be_named(tiny_model_dir: Path, held: Path) -> None:
    with pytest.raises(ConfigError, match=r"PL102[\s\S]*no proxy reward is named"):
        evaluate_frontier(tiny_model_dir, held, **SMALL)
    with pytest.raises(ConfigError, match=r"PL102[\s\S]*--reference[\s\S]*training started from"):
        evaluate_frontier(tiny_model_dir, held, proxy=GOLD, **SMALL)


def test_another_tokenizer_or_template_has_no_kl(tiny_model_dir: Path, held: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for name in ("vocabulary", "template"):
        shutil.copytree(tiny_model_dir, tmp_path / name)
        tokenizer = AutoTokenizer.from_pretrained(str(tiny_model_dir))
        if name == "vocabulary":
            tokenizer.add_tokens(["plaudit"])
        else:
            tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        tokenizer.save_pretrained(str(tmp_path / name))
    chat = [{"prompt": [{"role": "user", "content": "What?"}]}]
    for name, what in (("vocabulary", "other tokenizers"), ("template", "other chat templates")):
        with pytest.raises(EvaluationError, match=rf"PL805[\s\S]*{what}[\s\S]*--reference"):
            evaluate_frontier(
                tmp_path / name, chat, reference=tiny_model_dir, proxy=GOLD, output=tmp_path / f"o-{name}", **SMALL
            )


def test_a_reward_that_fails_everywhere_stops_the_work(run: Path, held: Path, tmp_path: Path) -> None:
    def gold(completions: list[str], **columns: Any) -> list[float]:
        raise RuntimeError("out of order")

    options = {"n": 2, "best_of": (1, 2), "max_new_tokens": 4, "gold": gold, "output": tmp_path / "o"}
    with pytest.raises(RewardError, match=r"PL706[\s\S]*out of order"):
        evaluate_frontier([run / "model"], held, **options)
