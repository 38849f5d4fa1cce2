"""`plaudit harden` end to end on tiny models: what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import plaudit
import plaudit.api
from benchmarks.facts_model import write_untaught
from plaudit.cli import main
from plaudit.errors import ConfigError, PlauditError
from plaudit.recipes.harden import scores
from plaudit.recipes.harden.report import Hardened, PolicyCount
from plaudit.runs.ledger import verify_ledger
from plaudit.runs.rundir import read_config
from tests.conftest import write_jsonl

ROWS = [
    {"prompt": f"Which colour is thing {i}?", "chosen": f" It is {'blue' if i % 2 else 'green'}.", "rejected": " No."}
    for i in range(12)
]
SMALL: dict[str, Any] = {"n": 3, "max_new_tokens": 6, "keep_truncated": True, "held_out": 0.3}
EASY: dict[str, Any] = {**SMALL, "quantile": 0.0, "z": -1e9}
"""Every answer that scores above the worst chosen one is taken for adversarial."""
OUTCOMES = ("truncated", "empty", "repeated", "chosen", "rejected", "low", "usual", "right", "unknown", "over_limit",
            "held_out", "added")  # fmt: skip


def worse_than_chosen(prompt: str, completion: str) -> float:
    """A gold reward that likes the data's chosen answers only."""
    return float(completion.strip().startswith("It is"))


def better_than_chosen(prompt: str, completion: str) -> float:
    """A gold reward that likes whatever is no chosen answer."""
    return float(not completion.strip().startswith("It is"))


def silent(prompt: str, completion: str) -> float | None:
    """A gold reward that has nothing to say about what is no chosen answer."""
    return 1.0 if completion.strip().startswith("It is") else None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "pairs.jsonl", ROWS)


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, data: Path) -> list[Path]:
    """Two runs that saw the data in another order."""
    folder = tmp_path_factory.mktemp("rewards")
    small: dict[str, Any] = {"max_steps": 4, "groups_per_step": 4, "learning_rate": 3e-3, "observers": ()}
    options = small | {"model": str(tiny_model_dir), "data": str(data)}
    return [
        plaudit.train("reward", seed=seed, output_dir=str(folder / str(seed)), **options).run_dir for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> list[str]:
    """The model that the reward models started from, and one with another tokenizer."""
    return [str(tiny_model_dir), str(write_untaught(tmp_path_factory.mktemp("policy") / "words"))]


@pytest.fixture
def harden(rewards: list[Path], policies: list[str], tmp_path: Path) -> Callable[..., Hardened]:
    """The first reward model, with the second one to disagree with."""

    def call(name: str = "out", **options: Any) -> Hardened:
        given = {"second": rewards[1], "policies": policies, "observers": (), **options}
        return plaudit.api.harden(rewards[0], output_dir=tmp_path / name, **given)

    return call


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def total(counts: list[PolicyCount], name: str) -> int:
    return sum(getattr(c, name) for c in counts)


def test_find_only_writes_the_pairs_and_every_answer_is_counted_once(
    harden: Callable[..., Hardened], tmp_path: Path, policies: list[str]
) -> None:
    done = harden(find_only=True, **EASY)
    found = done.rounds[0].found
    for count in found.policies:
        assert count.sampled == 36
        assert sum(getattr(count, name) for name in OUTCOMES) == count.sampled, count
    rows, held_out = lines(tmp_path / "out" / "adversarial.jsonl"), lines(tmp_path / "out" / "held-out.jsonl")
    assert (len(rows), len(held_out)) == (found.added, found.held_out)
    assert rows
    assert held_out
    assert not {r["prompt"] for r in rows} & {r["prompt"] for r in held_out}
    assert len({r["prompt"] for r in rows}) == len(rows)  # per_prompt is 1
    chosen = {row["prompt"]: row["chosen"] for row in ROWS}
    for row in rows:
        assert row["chosen"] == chosen[row["prompt"]]
        assert row["rejected"].startswith(" ")
        assert row["rejected"] not in (row["chosen"], " No.")
        details = row["adversarial"]
        assert details["policy"] in policies
        assert details["score"] == details["member_scores"][0]  # of a single model, the first member's decides
    assert done.reward is None
    assert not (tmp_path / "out" / "reward").exists()
    # The file is training data as it is.
    assert len(list(plaudit.api.score_answers(str(found.members[0]), str(tmp_path / "out/adversarial.jsonl")))) == len(
        rows
    )


def test_it_takes_the_highest_of_each_prompt_and_as_many_as_are_allowed(
    harden: Callable[..., Hardened], tmp_path: Path
) -> None:
    few, many = harden("few", find_only=True, **EASY), harden("many", find_only=True, per_prompt=9, **EASY)
    one, all_ = few.rounds[0].found.policies, many.rounds[0].found.policies
    assert total(all_, "over_limit") == 0
    assert total(one, "over_limit") == total(all_, "added") + total(all_, "held_out") - total(one, "added") - total(
        one, "held_out"
    )
    best: dict[str, float] = {}
    for row in lines(tmp_path / "many" / "adversarial.jsonl"):
        best[row["prompt"]] = max(best.get(row["prompt"], -9e9), row["adversarial"]["score"])
    assert {r["prompt"]: r["adversarial"]["score"] for r in lines(tmp_path / "few" / "adversarial.jsonl")} == best


@pytest.mark.parametrize(
    ("gold", "outcome"),
    [
        (better_than_chosen, "right"),
        ({"rewards": [silent], "max_reward_error_fraction": 1.0}, "unknown"),
        (worse_than_chosen, "added"),
    ],
    ids=["better", "silent", "worse"],
)
def test_what_the_gold_reward_finds_good_is_not_added(
    harden: Callable[..., Hardened], tmp_path: Path, gold: Any, outcome: str
) -> None:
    found = harden(find_only=True, gold=gold, **(EASY | {"z": float("-inf")})).rounds[0].found
    by_scores = total(found.policies, "adversarial")
    assert by_scores > 0
    rows = lines(tmp_path / "out" / "adversarial.jsonl")
    if outcome == "added":
        assert rows
        assert all((r["adversarial"]["gold"], r["adversarial"]["chosen_gold"]) == (0.0, 1.0) for r in rows)
        assert total(found.policies, "right") == total(found.policies, "unknown") == 0
    else:
        assert rows == []
        assert total(found.policies, outcome) == by_scores


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of scores can then be cut in the middle of a chunk, too."""
    monkeypatch.setattr(scores, "_CHUNK", 5)


RESULTS = ("adversarial.jsonl", "held-out.jsonl", "round-1/found.json")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


@pytest.mark.parametrize(
    ("file", "kept", "gone"),
    [
        ("answers-0", 4, ("answers-1", "scores-0", "scores-1")),
        ("answers-1", 22, ("scores-0", "scores-1")),
        ("scores-0", 7, ("scores-1",)),
        ("scores-1", 11, ()),
    ],
)
@pytest.mark.usefixtures("small_chunks")
def test_stopped_anywhere_it_ends_with_the_same(
    harden: Callable[..., Hardened], tmp_path: Path, file: str, kept: int, gone: tuple[str, ...]
) -> None:
    harden("whole", find_only=True, **EASY)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    part = tmp_path / "cut" / "round-1"
    for name in (*RESULTS, *(f"round-1/{g}.jsonl{more}" for g in gone for more in ("", ".about.json")), "report.json"):
        (tmp_path / "cut" / name).unlink()
    content = (part / f"{file}.jsonl").read_bytes().splitlines(keepends=True)
    (part / f"{file}.jsonl").write_bytes(b"".join(content[:kept]) + content[kept][:9])  # killed while writing
    harden("cut", find_only=True, **EASY)
    for name in (*RESULTS, *(f"round-1/{f}.jsonl" for f in ("answers-0", "answers-1", "scores-0", "scores-1"))):
        cut, whole = ((tmp_path / folder / name).read_text(encoding="utf-8") for folder in ("cut", "whole"))
        assert _NUMBER.sub("#", cut) == _NUMBER.sub("#", whole), name
        # What is computed in other company differs in its last digits, on some processors.
        assert [float(x) for x in _NUMBER.findall(cut)] == pytest.approx(
            [float(x) for x in _NUMBER.findall(whole)], rel=1e-4, abs=1e-5
        ), name


class Killed(Exception):
    """Stands for whatever ends a program in the middle."""


def test_found_edited_stopped_in_training_and_hardened(
    harden: Callable[..., Hardened], rewards: list[Path], tmp_path: Path
) -> None:
    """The whole way: the pairs are edited, the first training is stopped, and the same command ends it."""
    out = tmp_path / "out"
    harden(find_only=True, **EASY)
    kept = lines(out / "adversarial.jsonl")[1:]
    write_jsonl(out / "adversarial.jsonl", kept)
    before = (out / "adversarial.jsonl").read_bytes()

    def stop(text: str) -> None:
        if "hardened-second" in text:
            raise Killed

    with pytest.raises(Killed):
        harden(on_message=stop, **EASY)
    trained = (out / "reward" / "ledger.jsonl").read_bytes()
    done = harden(**EASY)
    assert (out / "reward" / "ledger.jsonl").read_bytes() == trained  # what was complete was not opened again
    assert (out / "adversarial.jsonl").read_bytes() == before
    assert any("it was edited" in note for note in done.notes)
    entry = done.rounds[0]
    assert entry.before is not None
    assert entry.after is not None
    assert done.reward == out / "reward"
    assert done.pairs == 12
    assert json.loads((out / "report.json").read_text())["reward"] == str(out / "reward")
    config = read_config(out / "reward")
    original = read_config(rewards[0])
    assert [s["path"] for s in config["data"]["train"]] == [
        original["data"]["train"][0]["path"],
        str(out / "adversarial.jsonl"),
    ]
    for section in ("model", "train", "method", "lora"):
        assert config[section] == original[section]
    report = json.loads((out / "reward" / "data_report.json").read_text())["train"]
    assert report["groups"] == 12 + len(kept)
    assert verify_ledger(out / "ledger.jsonl").ok
    assert [e["event"] for e in verify_ledger(out / "ledger.jsonl").events] == [
        "started", "found", "resumed", "resumed", "hardened"
    ]  # fmt: skip


@pytest.mark.slow
def test_rounds_score_fresh_answers_with_the_hardened_model(
    harden: Callable[..., Hardened], tmp_path: Path, policies: list[str]
) -> None:
    done = harden(rounds=2, weight=0.5, policies=policies, **(EASY | {"n": 24}))
    out = tmp_path / "out"
    assert [r.found.round for r in done.rounds] == [1, 2]
    assert done.rounds[1].found.members == [str(out / "round-1" / n) for n in ("reward", "hardened-second")]
    first, second = ((out / f"round-{k}" / "answers-0.jsonl").read_text() for k in (1, 2))
    assert first != second
    more = read_config(out / "reward")["data"]["train"][1:]
    assert [(s["path"], s["weight"]) for s in more] == [
        (str(out / name), 0.5) for name in ("adversarial.jsonl", "adversarial-2.jsonl")
    ]


@pytest.mark.slow
def test_a_round_that_finds_nothing_leaves_the_model_of_the_one_before(
    harden: Callable[..., Hardened], tmp_path: Path, policies: list[str]
) -> None:
    done = harden(rounds=2, weight=2.0, policies=policies[1:], **EASY)
    assert [r.after is None for r in done.rounds] == [False, True]
    assert done.reward == tmp_path / "out" / "round-1" / "reward"
    assert any("round 2: there is no adversarial pair" in note for note in done.notes)


def test_an_ensemble_is_made_again_and_judges_by_the_mean(
    rewards: list[Path], policies: list[str], data: Path, tmp_path: Path
) -> None:
    plaudit.api.ensemble_reward_models(tmp_path / "both", rewards, str(data), combine="min")
    out = tmp_path / "out"
    done = plaudit.api.harden(
        tmp_path / "both", policies=policies[1:], output_dir=out, observers=(), eval_data=ROWS[:3], **EASY
    )
    assert done.reward == out / "ensemble"
    assert done.members == [str(out / "reward-0"), str(out / "reward-1")]
    made = plaudit.api.load_reward_model(out / "ensemble")
    assert (made.how, len(made.members)) == ("min", 2)  # type: ignore[attr-defined]
    assert (done.pairs, done.pairs_held_out) == (3, True)
    details = lines(out / "adversarial.jsonl")[0]["adversarial"]
    assert details["score"] == pytest.approx(sum(details["member_scores"]) / 2, abs=1e-4)


def test_the_runs_own_held_out_prompts_stay_held_out(tiny_model_dir: Path, policies: list[str], tmp_path: Path) -> None:
    """Rows in memory are written down; a run that holds out a share of its prompts holds out their answers as well."""
    run = plaudit.train(
        "reward", model=str(tiny_model_dir), data=ROWS, eval_fraction=0.4, max_steps=2, groups_per_step=4,
        learning_rate=3e-3, output_dir=str(tmp_path / "run"), observers=(),
    ).run_dir  # fmt: skip
    out = tmp_path / "out"
    done = plaudit.api.harden(
        run, data=ROWS, policies=policies[1:], output_dir=out, observers=(), **(EASY | {"held_out": 0.0})
    )
    assert done.pairs_held_out
    assert 0 < done.pairs < 12
    assert done.rounds[0].found.held_out_prompts == done.pairs
    assert [s["path"] for s in read_config(out / "reward")["data"]["train"]] == [
        str(out / "data.jsonl"),
        str(out / "adversarial.jsonl"),
    ]
    assert (out / "second" / "COMPLETE").exists()
    groups = json.loads((out / "reward" / "data_report.json").read_text())["train"]["groups"]
    assert groups == 12 + done.rounds[0].found.added
    # All adversarial pairs are on the training side of the run's own split: 12 − held out + added.
    log = (out / "reward" / "ledger.jsonl").read_text()
    assert "completed" in log


def test_when_nothing_is_found_nothing_is_trained(harden: Callable[..., Hardened], tmp_path: Path) -> None:
    done = harden(**(EASY | {"z": 1e9}))
    assert done.reward is None
    assert any("no adversarial pair" in note for note in done.notes)
    assert (tmp_path / "out" / "adversarial.jsonl").read_bytes() == b""


def refused(code: str, what: str, call: Callable[..., Any], **options: Any) -> None:
    with pytest.raises(PlauditError, match=what) as caught:
        call(**options)
    assert caught.value.code == code, caught.value


def test_a_policy_that_cannot_answer_is_known_before_a_second_model_is_trained(
    harden: Callable[..., Hardened], tmp_path: Path, data: Path
) -> None:
    refused("PL602", "exceed the model's", harden, second=None, data=str(data), **{**SMALL, "max_new_tokens": 10**6})
    assert not (tmp_path / "out" / "second").exists()


def test_another_command_does_not_go_on(harden: Callable[..., Hardened], tmp_path: Path) -> None:
    harden(find_only=True, **EASY)
    refused("PL102", "other z", harden, **(EASY | {"z": 0.5}))
    refused("PL102", "other sampling", harden, seed=3, **EASY)
    refused("PL102", "other data, sides", harden, data=ROWS[:6], **EASY)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused("PL102", "holds something else", harden, name="mine", **EASY)


def test_mistakes(
    harden: Callable[..., Hardened], rewards: list[Path], policies: list[str], tmp_path: Path, data: Path
) -> None:
    refused("PL102", "no policy is given", harden, policies=[])
    refused("PL301", "there is no folder", harden, name="a", policies=[str(tmp_path / "nowhere")], **SMALL)
    refused("PL102", "z is -inf.*needs gold", harden, z=float("-inf"))
    refused("PL102", "held_out is at least 0.*; rounds", harden, held_out=1.0, rounds=0)
    refused("PL102", "temperature", harden, temperature=0.0)
    refused("PL102", "score is one of", harden, score="median")
    refused("PL201", "no such file", harden, name="b", data=str(tmp_path / "nothing.jsonl"))
    refused("PL207", "no rows", harden, name="c", data=str(write_jsonl(tmp_path / "empty.jsonl", [])))
    refused("PL203", "columns", harden, name="d", data=[{"prompt": "only prompts"}])
    alone = tmp_path / "alone"
    shutil.copytree(rewards[0] / "model", alone)

    def foreign(name: str, **options: Any) -> Hardened:
        return plaudit.api.harden(alone, policies=policies[:1], output_dir=tmp_path / name, observers=(), **options)

    refused("PL102", "not known how the reward model was trained", foreign, name="e", data=str(data))
    refused("PL102", "nobody to disagree with", foreign, name="f", data=str(data), find_only=True)
    refused("PL102", "not known which pairs", foreign, name="g", second=rewards[1], find_only=True)
    refused("PL703", "equally far apart", foreign, name="h", data=str(data), second=rewards[0], find_only=True, **SMALL)
    found = foreign("i", data=str(data), second=rewards[1], find_only=True, **SMALL)  # this much it can do
    assert found.rounds[0].found.prompts == 12
    plaudit.api.ensemble_reward_models(tmp_path / "both", rewards, str(data))
    with pytest.raises(ConfigError, match="a second model has no effect"):
        plaudit.api.harden(tmp_path / "both", policies=policies, second=rewards[0], output_dir=tmp_path / "j")


def test_the_command_shows_what_was_found(
    rewards: list[Path], policies: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arguments = ["harden", rewards[0], "--policy", policies[0], "--policy", policies[1], "--second", rewards[1],
                 "--output-dir", tmp_path / "out", "--n", 3, "--max-new-tokens", 6, "--keep-truncated", "--quantile", 0,
                 "--z", "-1e9", "--find-only", "--held-out", 0.3]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["plaudit", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown, said = capsys.readouterr()
    assert "round 1: 12 prompts" in shown
    assert f"policy 2: {policies[1]}" in shown
    assert "adversarial by the scores" in shown
    assert f"pairs: {tmp_path / 'out' / 'adversarial.jsonl'}" in shown
    assert max(len(line) for line in shown.splitlines() if "policy" not in line and "pairs:" not in line) <= 100
    assert "sampling 3 answers to each of 12 prompts" in said
