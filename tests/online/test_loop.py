"""The loop: what is sampled is what is trained, every answer once a pass, and what a batch says about itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from plaudit.config.schema import RolloutSection
from plaudit.errors import ConfigError, DataError, ModelError, RewardError, RunError, TrainingError
from plaudit.models.forest_model import ForestModel
from plaudit.online.sampling import PolicySampler
from plaudit.online.source import RolloutSource
from plaudit.runs.observer import SilentObserver
from plaudit.train.parallel import World
from plaudit.types import PromptGroup
from tests.online.conftest import METHOD, Run, metrics_of
from tests.train import runs

HERE = Path(__file__).parent


class Steps:
    """Looks at the streams of every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[list[Any]] = []
        original = RolloutSource.streams

        def streams(source: RolloutSource, step: int, totals: Any) -> Any:
            found = original(source, step, totals)
            self.seen.append(found)
            return found

        monkeypatch.setattr(RolloutSource, "streams", streams)


def test_every_answer_is_trained_on_once_in_each_pass(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    train(rollout__prompts_per_batch=12, rollout__ppo_epochs=2, train__groups_per_step=4)
    assert len(steps.seen) == 6
    parts = [tuple(s[0].indices) for s in steps.seen]
    for epoch in (parts[:3], parts[3:]):
        assert sorted(i for part in epoch for i in part) == list(range(12))
    assert parts[:3] != parts[3:]  # a new order in every pass
    assert len({id(s[0].batch) for s in steps.seen}) == 1


def test_trained_ids_are_sampled_ids(train: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    steps = Steps(monkeypatch)
    train(rollout__save=str(tmp_path / "r.jsonl"))
    rows = runs.lines(tmp_path / "r.jsonl")[1:]
    written = [[tuple(c["token_ids"]) for c in row["completions"]] for row in rows]
    batches = {id(s[0].batch): s[0].batch for s in steps.seen}
    trained = [[tuple(c.token_ids.tolist()) for c in g.completions] for b in batches.values() for g in b.groups]
    assert trained == written
    rewards = [[c.reward for c in g.completions] for b in batches.values() for g in b.groups]
    assert rewards == [[c["reward"] for c in row["completions"]] for row in rows]
    assert [row["rollout"] for row in rows] == sorted(row["rollout"] for row in rows)
    assert all(row["row"]["answer"] for row in rows)


def test_the_first_ratio_is_one_and_the_gap_is_rounding(train: Run) -> None:
    """fp32: the engine's log-probs are the trainer's."""
    first = metrics_of(train(rollout__temperature=0.7))[0]
    assert first["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert 0 <= first["rollout/gap_max"] < 1e-4
    assert first["rollout/ess"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("filtered", [{"rollout__top_k": 5}, {"rollout__top_p": 0.5}, {"rollout__min_p": 0.9}])
def test_filtered_sampling_shows_its_gap_and_is_corrected(train: Run, filtered: dict[str, Any]) -> None:
    """The scored distribution is the whole softmax: what was sampled is another one, and the log says so."""
    first = metrics_of(train(rollout__correction="token_truncate", **filtered))[0]
    assert first["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert first["rollout/gap_mean"] > 0.1
    assert first["rollout/correction"] < 0.95
    assert 0 <= first["rollout/corrected"] < 1


def test_one_line_a_batch_with_what_people_watch(train: Run) -> None:
    lines = metrics_of(train(rollout__prompts_per_batch=4, rollout__ppo_epochs=2, log__every=None))
    # The first step is shown by itself, then a line for every batch (two steps), and one where a checkpoint is.
    assert [line["step"] for line in lines] == [1, 2, 4, 6]
    batch = {"reward", "reward_std", "completions/mean_length", "completions/clipped_ratio", "frac_reward_zero_std",
             "rewards/error_rate", "completions/repetition", "rollout/seconds", "rewards/vowels/mean"}  # fmt: skip
    assert batch <= lines[0].keys()
    assert "reward" not in lines[1]  # the same batch
    assert batch <= lines[2].keys()


def test_samples_with_rewards_without_any_tracker(train: Run) -> None:
    result = train(rollout__prompts_per_batch=4, rollout__samples_every=2, log__samples=2)
    rows = runs.lines(result.run_dir / "samples.jsonl")
    assert Counter(row["step"] for row in rows) == {0: 2, 2: 2}
    assert all({"prompt", "completion", "reward"} <= row.keys() for row in rows)


def test_what_decides_is_reproducible(train: Run) -> None:
    a, b, c = train("a"), train("b"), train("c", train__seed=1)
    strip = [[runs.without_timing(line) for line in metrics_of(r)] for r in (a, b, c)]
    assert strip[0] == strip[1]
    assert strip[0] != strip[2]


def test_replayed_rollouts_are_the_same_run(train: Run, tmp_path: Path) -> None:
    """What was sampled and scored comes from the file: every loss is the same."""
    saved = train("a", rollout__save=str(tmp_path / "r.jsonl"), rollout__ppo_epochs=2)
    replayed = train("b", rollout__replay=str(tmp_path / "r.jsonl"), rollout__ppo_epochs=2, reward__rewards=None)
    again = train("c", rollout__replay=str(tmp_path / "r.jsonl"), rollout__ppo_epochs=2)
    losses = [[line["loss"] for line in metrics_of(r)] for r in (saved, replayed, again)]
    # The old log-probs come from a forward pass now.
    assert np.allclose(losses[0], losses[1], atol=1e-5)
    assert losses[1] == losses[2]


def test_a_replay_takes_its_sizes_from_the_file(train: Run, options: Any, tmp_path: Path) -> None:
    """With other ones steps were smaller than train.groups_per_step, and the limit of an answer was another."""
    file = str(tmp_path / "r.jsonl")
    sizes = {"prompts_per_batch": 8, "completions_per_prompt": 3, "max_new_tokens": 7}
    saved = train("a", rollout__save=file, **{f"rollout__{name}": value for name, value in sizes.items()})
    unsaid = {f"rollout.{name}": None for name in sizes}
    found = runs.resolved(METHOD, options("b", **unsaid, **{"rollout.replay": file}))
    assert found.run.rollout is not None
    assert {name: getattr(found.run.rollout, name) for name in sizes} == sizes
    assert {name.partition(".")[2]: value for name, value in found.defaulted.items()}.items() >= sizes.items()
    replayed = train("b", rollout__replay=file, **{key.replace(".", "__"): None for key in unsaid})
    losses = [[line["loss"] for line in metrics_of(r)] for r in (saved, replayed)]
    assert np.allclose(losses[0], losses[1], atol=1e-5)
    for name, other in (("prompts_per_batch", 4), ("completions_per_prompt", 2), ("max_new_tokens", 256)):
        given = options("c", **unsaid | {f"rollout.{name}": other, "rollout.replay": file})
        with pytest.raises(
            ConfigError, match=rf"rollout\.{name}  is {other}, and the answers [\s\S]*taken from the file"
        ):
            runs.resolved(METHOD, given)
    runs.resolved(METHOD, options("c", **unsaid | {"rollout.max_new_tokens": 7, "rollout.replay": file}))
    with pytest.raises(ConfigError, match=r"8, no multiple of train\.groups_per_step = 16"):
        runs.resolved(METHOD, options("c", **unsaid | {"train.groups_per_step": 16, "rollout.replay": file}))
    buffer = {"method.overlong_buffer": 100, "rollout.replay": file}
    with pytest.raises(ConfigError, match="more than the 7 tokens"):
        runs.resolved("dapo", options("c", **unsaid | buffer))


def test_a_file_that_does_not_say_what_it_was_sampled_with_is_replayed_with_a_note(train: Run, tmp_path: Path) -> None:
    train("a", rollout__save=str(tmp_path / "r.jsonl"))
    head, *rows = (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    older = json.dumps({"rollouts_of": json.loads(head)["rollouts_of"]}) + "\n"
    (tmp_path / "old.jsonl").write_text("".join([older, *rows]), encoding="utf-8")

    class Heard(SilentObserver):
        said: ClassVar[list[str]] = []

        def on_message(self, text: str) -> None:
            self.said.append(text)

    for name, number in (("old", 1), ("r", 1)):  # the other one has nothing to be said of
        train(name, observers=[Heard()], rollout__replay=str(tmp_path / f"{name}.jsonl"))
        assert sum("does not say what it was sampled with" in text for text in Heard.said) == number


def test_an_edited_reward_in_the_file_is_what_is_trained_on(train: Run, tmp_path: Path) -> None:
    train("a", rollout__save=str(tmp_path / "r.jsonl"))
    head, *rows = (tmp_path / "r.jsonl").read_text(encoding="utf-8").strip().split("\n")
    edited = []
    for row in map(json.loads, rows):
        for answer in row["completions"]:
            answer["reward"] = 5.0
        edited.append(json.dumps(row))
    (tmp_path / "e.jsonl").write_text("\n".join([head, *edited]) + "\n", encoding="utf-8")
    lines = metrics_of(train("b", rollout__replay=str(tmp_path / "e.jsonl"), reward__rewards=None))
    assert {line["reward"] for line in lines if "reward" in line} == {5.0}
    assert all(line["frac_reward_zero_std"] == 1 for line in lines if "reward" in line)


def test_groups_with_a_failed_reward_are_left_out_and_counted(
    train: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "picky.py").write_text(
        "def picky(completions, prompts=None, answer=None, **_):\n"
        "    return [None if 'red' in a or 'blue' in a else float(len(c)) for c, a in zip(completions, answer)]\n",
        encoding="utf-8",
    )
    steps = Steps(monkeypatch)
    reward = {"reward__rewards": [f"{tmp_path / 'picky.py'}:picky"], "reward__retries": 0}
    result = train(**reward, reward__max_error_fraction=1.0)
    lines = metrics_of(result)
    assert sum(line.get("rewards/error_rate", 0) for line in lines) > 0
    trained = {g.extras["answer"] for s in steps.seen for stream in s for g in stream.batch.groups}
    assert trained
    assert not any("red" in a or "blue" in a for a in trained)
    with pytest.raises(RewardError, match="PL706"):
        train("strict", **reward, reward__max_error_fraction=0.0)


def test_a_batch_without_any_reward_is_said_and_changes_nothing(train: Run, tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text("def never(completions, **_):\n    return [None] * len(completions)\n")

    class Notes(SilentObserver):
        def __init__(self) -> None:
            self.texts: list[str] = []

        def on_message(self, text: str) -> None:
            self.texts.append(text)

    notes = Notes()
    rewards = [f"{tmp_path / 'never.py'}:never"]
    result = train(observers=[notes], reward__rewards=rewards, reward__retries=0, reward__max_error_fraction=1.0)
    assert sum("no prompt has rewards" in text for text in notes.texts) == 2
    assert result.steps == 4
    assert all("grad_norm" not in line for line in metrics_of(result))


def test_a_step_in_which_no_answer_counts_changes_nothing(train: Run) -> None:
    """The tiny model hardly ever ends an answer of one token: with truncated=mask there is nothing to divide by."""
    lines = metrics_of(train(method="grpo", method__truncated="mask", rollout__max_new_tokens=1))
    assert all(line["completions/clipped_ratio"] > 0.9 for line in lines if "completions/clipped_ratio" in line)
    assert any("grad_norm" not in line for line in lines)


def test_an_evaluation_does_not_change_a_replay(train: Run, tmp_path: Path) -> None:
    """Old log-probs of a replay are the trainer's, whatever engine is there for held-out prompts."""
    rows = runs.write_rows(tmp_path / "held.jsonl", runs.rows_of("prompt", 3, seed=5))
    train("a", rollout__save=str(tmp_path / "r.jsonl"), train__learning_rate=2e-2)
    held = {"data__eval": [{"path": str(rows)}], "eval__every": 1}
    replays = [
        metrics_of(train(name, rollout__replay=str(tmp_path / "r.jsonl"), train__learning_rate=1e-2, **more))
        for name, more in (("b", {}), ("c", {**held, "data__eval_fraction": 0.0}))
    ]
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in replays]
    assert losses[0] == losses[1]


def test_a_changed_weight_of_a_reward_is_another_run(train: Run, tmp_path: Path) -> None:
    path = tmp_path / "rewards.yaml"
    path.write_text("rewards:\n  - {kind: length, least: 1, weight: 1}\n")
    with pytest.raises(KeyboardInterrupt):
        train(observers=[Interrupting(4)], reward__rewards=[str(path)])
    path.write_text("rewards:\n  - {kind: length, least: 1, weight: -5}\n")
    with pytest.raises(RunError, match="the rewards changed since the run was started"):
        train(reward__rewards=[str(path)])


FAILING = "def never(completion):\n    raise RuntimeError('the service is down')\n"
GONE_LATER = """
calls = 0

def sometimes(completions, **columns):
    global calls
    calls += 1
    return [0.25 if calls > 6 else 1.0 for _ in completions]
"""


def test_held_out_answers_that_all_fail_say_why(train: Run, tmp_path: Path) -> None:
    (tmp_path / "failing_of_test_loop.py").write_text(FAILING)
    rewards = {"reward__rewards": [f"{tmp_path}/failing_of_test_loop.py:never"], "reward__max_error_fraction": 1.0}
    with pytest.raises(RewardError, match="the service is down") as raised:
        train(data__eval_fraction=0.3, eval__every=1, **rewards)
    assert raised.value.code == "PL706"


def test_an_evaluation_without_the_best_metric_is_no_better_and_ends_nothing(train: Run, tmp_path: Path) -> None:
    (tmp_path / "gone_of_test_loop.py").write_text(GONE_LATER)
    own = {"reward__rewards": [f"{tmp_path}/gone_of_test_loop.py:sometimes"], "eval__best_metric": "eval/avg@1"}
    result = train(data__eval_fraction=0.3, eval__every=1, eval__at_start=True, **own)
    evaluated = [line for line in metrics_of(result) if "eval/reward" in line]
    assert "eval/avg@1" in evaluated[0]
    assert "eval/avg@1" not in evaluated[-1]
    assert result.summary["best"] == 1


def test_held_out_prompts_are_answered_and_scored(train: Run) -> None:
    result = train(data__eval_fraction=0.3, eval__every=1, rollout__eval_temperature=1.0, rollout__eval_completions=3)
    evaluated = [line for line in metrics_of(result) if "eval/reward" in line]
    assert [line["step"] for line in evaluated][:2] == [0, 1]
    assert result.summary["best_metric"] == "eval/reward"
    assert {"eval/completions/mean_length", "eval/rewards/vowels/mean", "eval/reward_std"} <= evaluated[0].keys()
    last = sorted((result.run_dir / "checkpoints").iterdir())[-1]  # written before the evaluation of its step
    seen = json.loads((last / "progress.json").read_text(encoding="utf-8"))["alerts"]["points"]
    assert seen["eval/reward"] == [[line["step"], line["eval/reward"]] for line in evaluated[:-1]]
    assert [step for step, _ in seen["reward/when_evaluated"]] == [line["step"] for line in evaluated[1:-1]]


def test_it_learns_what_is_rewarded(train: Run) -> None:
    """Vowels, and long answers: both rise well beyond what chance gives."""
    lines = metrics_of(
        train(train__max_steps=40, train__epochs=None, train__learning_rate=5e-3, train__groups_per_step=6,
              rollout__prompts_per_batch=6, rollout__completions_per_prompt=8, train__warmup_steps=2)
    )  # fmt: skip
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.15


WAYS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 4, "temperature": 1.5},
    "top_p": {"top_p": 0.4},
    "min_p": {"min_p": 0.7},
    "all": {"temperature": 0.8, "top_k": 40, "top_p": 0.7, "min_p": 0.3},
}


def filtered_logits(logits: torch.Tensor, temperature: float = 1.0, **filters: float) -> torch.Tensor:
    """[L, V] log-probs of what is sampled, −∞ for what a filter leaves out; written without sorting in place."""
    scores = logits.double() / temperature
    if "top_k" in filters:
        least = scores.topk(int(filters["top_k"]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if "top_p" in filters:
        shares = scores.softmax(-1)
        more_likely = (shares[:, None, :] * (shares[:, None, :] > shares[:, :, None])).sum(-1)
        scores = scores.masked_fill(more_likely >= filters["top_p"], -torch.inf)
    if "min_p" in filters:
        shares = scores.softmax(-1)
        least = filters["min_p"] * shares.max(-1, keepdim=True).values
        scores = scores.masked_fill(shares < least, -torch.inf)
    return scores.log_softmax(-1)


@pytest.mark.parametrize("engine", ["auto", "generate"])
@pytest.mark.parametrize("way", WAYS)
def test_answers_are_drawn_as_asked_for(
    way: str, engine: str, train: Run, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The log-prob of every sampled token is that of the filtered distribution of the model as it was."""
    options = {f"rollout__{name}": value for name, value in WAYS[way].items()}
    changes = {"rollout__save": str(tmp_path / "r.jsonl"), "train__max_steps": 1, "train__epochs": None}
    train(rollout__engine=engine, **changes, **options)
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir)
    for row in runs.lines(tmp_path / "r.jsonl")[1:]:
        prompt = row["prompt_ids"]
        for answer in row["completions"]:
            ids = torch.tensor([prompt + answer["token_ids"]])
            with torch.no_grad():
                logits = model(ids).logits[0, len(prompt) - 1 : -1]
            targets = torch.tensor(answer["token_ids"])[:, None]
            expected = filtered_logits(logits, **WAYS[way]).gather(1, targets)[:, 0]
            assert answer["sampling_logprobs"] == pytest.approx(expected.tolist(), abs=1e-4)
            # The local engine knows the whole distribution too; transformers' generate does not say.
            whole = filtered_logits(logits, WAYS[way].get("temperature", 1.0)).gather(1, targets)[:, 0].tolist()
            assert answer["full_logprobs"] == (None if engine == "generate" else pytest.approx(whole, abs=1e-4))


def test_answers_are_drawn_with_the_adapter(train: Run) -> None:
    """What is sampled is what is scored, also after the adapter has moved away from the base."""
    changes = {"train__learning_rate": 5e-2, "rollout__prompts_per_batch": 4}
    lines = metrics_of(train(method="grpo", lora={"r": 4}, **changes))
    assert [line["rollout/gap_max"] < 1e-4 for line in lines if "rollout/gap_max" in line] == [True] * 3
    assert lines[-1]["kl"] > 0.02  # nats per answer: far more than what the gap allows


def test_ahead_samples_with_weights_that_are_one_batch_old(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    lines = metrics_of(train(rollout__ahead=1, rollout__prompts_per_batch=4, rollout__ppo_epochs=2))
    batches = {id(s[0].batch): s[0].batch for s in steps.seen if s}
    versions = [b.groups[0].completions[0].weight_version for b in batches.values()]
    assert versions == [0, 0, 2]
    gaps = [line["rollout/gap_mean"] for line in lines if "rollout/gap_mean" in line]
    assert gaps[0] < 1e-5
    assert gaps[2] > 1e-4  # two steps lie between


# -- what is wrong is said before anything is sampled ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward__rewards": None}, r"reward(.|\n)*is required"),
        ({"rollout__prompts_per_batch": 6}, r"no multiple of train\.groups_per_step = 4"),
        ({"rollout__correction_cap": 3.0}, r"correction_cap  has no effect without rollout\.correction"),
        ({"rollout__correction": "token_truncate", "rollout__correction_floor": 0.1}, "only has a cap"),
        ({"rollout__min_new_tokens": 99}, "more than max_new_tokens"),
        ({"critic__separate": True}, "critic  has no effect with"),
        ({"rollout__replay": "x.jsonl", "rollout__top_k": 4}, "has no effect beside rollout.replay"),
        ({"rollout__eval_completions": 2}, "has no effect without held-out data"),
        ({"lora": {"r": 4, "dropout": 0.1}}, "differ from the sampled one"),
        ({"rollout__temprature": 1.0}, r"unknown key(.|\n)*rollout\.temperature"),
        ({"reward__rewards": ["mth"]}, r"did you mean math"),
    ],
)
def test_options_that_cannot_be_meant(train: Run, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(**changes)


def test_a_baseline_of_one_answer_is_refused_before_anything_is_loaded(options: Any) -> None:
    key, group = "rollout.completions_per_prompt", {"method.baseline": "group"}
    for completions in (1, None):  # the method's default is 1
        with pytest.raises(ConfigError, match=r"rollout\.completions_per_prompt  is 1, and method\.baseline=group"):
            runs.resolved("reinforce_pp", options(**group, **{key: completions}))
    assert runs.resolved("reinforce_pp", options(**group, **{key: 2})).run.rollout
    # The answers of a file are as many as they are.
    runs.resolved("reinforce_pp", options(**group, **{key: None, "rollout.replay": METHOD}))


def test_sections_of_sampling_are_refused_by_offline_methods(options: Any) -> None:
    with pytest.raises(ConfigError, match=r"reward  has no effect with dpo(.|\n)*rollout  has no effect with dpo"):
        runs.resolved("dpo", options())


def test_a_column_that_no_row_has(train: Run) -> None:
    with pytest.raises(RewardError, match=r"PL709(.|\n)*'solution'(.|\n)*answer"):
        train(reward__rewards=["math:column=solution"])


def test_prompts_must_leave_room_for_answers(train: Run) -> None:
    with pytest.raises(ModelError, match=r"PL307(.|\n)*rollout\.max_new_tokens"):
        train(rollout__max_new_tokens=256)
    with pytest.raises(DataError, match="PL20"):
        train("b", rollout__max_new_tokens=250)


def test_a_changed_reward_is_another_run(train: Run, tmp_path: Path) -> None:
    path = tmp_path / "r.py"
    path.write_text("def r(completions, **_):\n    return [float(len(c)) for c in completions]\n")
    observer = Interrupting(4)
    with pytest.raises(KeyboardInterrupt):
        train(observers=[observer], reward__rewards=[f"{path}:r"])
    path.write_text("def r(completions, **_):\n    return [float(-len(c)) for c in completions]\n")
    with pytest.raises(Exception, match=r"the rewards changed since the run was started"):
        train(reward__rewards=[f"{path}:r"])


def test_processes_draw_apart_on_transformers_generate(tiny_model_dir: Path) -> None:
    """The second process samples the second half of equal prompts: none of its draws are the first one's."""
    model, tokenizer = LlamaForCausalLM.from_pretrained(tiny_model_dir), AutoTokenizer.from_pretrained(tiny_model_dir)
    forest = ForestModel(model)
    options = RolloutSection(engine="generate", completions_per_prompt=2, max_new_tokens=12, max_rows=2)
    prompts = [PromptGroup(np.arange(5, 9, dtype=np.int32), []) for _ in range(4)]

    def drawn(world: World) -> list[list[int]]:
        sampler = PolicySampler(forest, tokenizer, options, stop_token_ids=(), seed=3, world=world)
        found = sampler.rollout(prompts, 0, 0)
        return [c.token_ids.tolist() for g in found for c in g.completions]

    halves = [drawn(World(rank, 2)) for rank in (0, 1)]
    assert [len(half) for half in halves] == [4, 4]
    assert len({tuple(ids) for half in halves for ids in half}) == 8
    assert halves == [drawn(World(rank, 2)) for rank in (0, 1)]  # a function of seed, batch and place
    assert halves[0] == drawn(World())[:4]


def test_a_further_round_of_sampling_draws_apart(tiny_model_dir: Path) -> None:
    """The same prompt may stand in two rows, and be asked in two rounds of dynamic sampling."""
    model, tokenizer = LlamaForCausalLM.from_pretrained(tiny_model_dir), AutoTokenizer.from_pretrained(tiny_model_dir)
    options = RolloutSection(completions_per_prompt=2, max_new_tokens=12)
    sampler = PolicySampler(ForestModel(model), tokenizer, options, stop_token_ids=(), seed=3, world=World())

    def drawn(attempt: int) -> list[list[int]]:
        prompts = [PromptGroup(np.arange(5, 9, dtype=np.int32), [])]
        found = sampler.rollout(prompts, 0, 0, attempt=attempt)
        return [c.token_ids.tolist() for g in found for c in g.completions]

    assert len({tuple(ids) for attempt in (0, 1, 2) for ids in drawn(attempt)}) == 6
    assert drawn(1) == drawn(1)


class Interrupting(SilentObserver):
    """Ends the run after a step, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, total_steps: int, metrics: Any) -> None:
        if step == self.step:
            raise KeyboardInterrupt


def test_ahead_needs_one_process(options: Any) -> None:
    from plaudit.online.session import OnlineSession
    from plaudit.runs.observer import Observers
    from plaudit.train.parallel import World

    resolved = runs.resolved(METHOD, options(**{"rollout.ahead": 1}))
    with pytest.raises(TrainingError, match=r"PL405(.|\n)*rollout\.ahead"):
        OnlineSession(resolved, World(0, 2), None, Observers())
