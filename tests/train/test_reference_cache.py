"""The reference is the starting state, and its log-probs are computed once for a model and its tokens.

F1 to F6 are the numbers of faults that TRL 1.16 shows without a word; here they are regression tests.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from plaudit.errors import ModelError, TrainingError
from plaudit.methods.base import Scored
from plaudit.train import loop
from plaudit.train.reference import ReferenceCache
from plaudit.train.schedule import Schedule
from plaudit.types import Completion, PromptGroup
from tests.train import runs

BOTH = pytest.mark.parametrize("variant", ["full", "lora"])


@pytest.fixture
def asked(options, tmp_path):
    """Options of a DPO run; all runs of a test share one cache."""

    def of(name: str, variant: str = "full", **changes: Any) -> dict[str, Any]:
        return options(
            "dpo", name, **{"run.reference_cache": str(tmp_path / "shared"), **runs.VARIANTS[variant], **changes}
        )

    return of


def metrics(run: Path) -> list[dict[str, Any]]:
    return [runs.without_timing(line) for line in runs.lines(run / "metrics.jsonl")]


def load(path: str) -> tuple[Any, Any]:
    return transformers.AutoModelForCausalLM.from_pretrained(path), transformers.AutoTokenizer.from_pretrained(path)


# -- F3: what the key of a score is


@BOTH
def test_another_rate_beta_or_place_computes_nothing(variant, asked):
    assert runs.train_here("dpo", asked("a", variant)).reference_tokens > 0
    changes = {
        "train.learning_rate": 1e-4,
        "method.beta": 0.3,
        "train.tokens_per_microbatch": 90,
        "train.groups_per_step": 3,
        "train.seed": 3,
    }
    assert runs.train_here("dpo", asked("b", variant, **changes)).reference_tokens == 0


def test_full_and_lora_share_the_scores_of_their_base(asked):
    assert runs.train_here("dpo", asked("a", "full")).reference_tokens > 0
    assert runs.train_here("dpo", asked("b", "lora")).reference_tokens == 0


@BOTH
def test_other_model_bytes_are_another_model(variant, asked, tmp_path):
    first = asked("a", variant)
    assert runs.train_here("dpo", first).reference_tokens > 0
    model, tokenizer = load(first["model.path"])
    with torch.no_grad():
        # One bit of one weight.
        value = model.model.norm.weight[5:6].view(torch.int32)
        value ^= 1
    model.save_pretrained(str(tmp_path / "other"))
    tokenizer.save_pretrained(str(tmp_path / "other"))
    assert runs.train_here("dpo", asked("b", variant, **{"model.path": str(tmp_path / "other")})).reference_tokens > 0


def test_other_tokens_are_computed_and_only_they(asked, tmp_path):
    whole = runs.train_here("dpo", asked("a")).reference_tokens
    rows = runs.rows_of("preference")
    rows[3]["chosen"] += " indeed"
    path = runs.write_rows(tmp_path / "other.jsonl", rows)
    assert 0 < runs.train_here("dpo", asked("b", **{"data.train": [{"path": str(path)}]})).reference_tokens < whole / 5


@BOTH
def test_answers_that_are_paired_anew_are_known_to_the_next_run(variant, options, tmp_path):
    """Which answer KTO scores behind which prompt depends on the seed and the step; another β changes nothing."""

    def run(name: str, **changes: Any) -> Any:
        shared = {"run.reference_cache": str(tmp_path / "shared"), **runs.VARIANTS[variant]}
        return runs.train_here("kto", options("kto", name, **{**shared, **changes}))

    first, again = run("a"), run("b", **{"method.beta": 0.4})
    assert (first.reference_tokens > 0, again.reference_tokens) == (True, 0)
    other = run("c", **{"train.seed": 11})
    assert 0 < other.reference_tokens < first.reference_tokens, "the answers to their own prompts are known"


def test_another_precision_is_another_score(asked):
    assert runs.train_here("dpo", asked("a")).reference_tokens > 0
    assert runs.train_here("dpo", asked("b", "bf16")).reference_tokens > 0


@BOTH
def test_a_cached_run_equals_a_fresh_one(variant, asked, tmp_path):
    fresh = runs.train_here("dpo", asked("a", variant))
    cached = runs.train_here("dpo", asked("b", variant))
    alone = runs.train_here("dpo", asked("c", variant, **{"run.reference_cache": str(tmp_path / "another")}))
    off = runs.train_here("dpo", asked("d", variant, **{"run.reference_cache": "off"}))
    assert cached.reference_tokens == 0
    assert off.reference_tokens >= alone.reference_tokens == fresh.reference_tokens
    for other in (cached, alone):
        assert runs.difference(metrics(other.run_dir), metrics(fresh.run_dir)) is None
    assert off.metrics["loss"] == pytest.approx(fresh.metrics["loss"], abs=1e-5)


def test_the_default_cache_is_the_users(options, tmp_path):
    runs.train_here("dpo", options("dpo", **{"run.reference_cache": None, "train.max_steps": 1}))
    assert list((tmp_path / "cache" / "plaudit" / "reference").glob("*.sqlite"))


def test_off_leaves_nothing_on_the_disk(options, tmp_path):
    runs.train_here("dpo", options("dpo", **{"run.reference_cache": "off", "train.max_steps": 1}))
    assert not list(tmp_path.rglob("*.sqlite"))


# -- the cache itself


def group(prompt: list[int], completion: list[int], mask: list[bool] | None = None) -> PromptGroup:
    ids = np.array(completion, dtype=np.int32)
    return PromptGroup(
        np.array(prompt, dtype=np.int32), [Completion(ids, np.array(mask if mask else [True] * len(ids)))]
    )


def test_a_key_tells_context_completion_and_targets_apart():
    different = [
        group([1, 2], [3, 4]),
        group([1], [2, 3, 4]),
        group([1, 2, 3], [4]),
        group([1, 2], [3, 4], [True, False]),
        group([1, 2], [3, 4], [False, True]),
        group([], [3, 4]),
    ]
    keys = {ReferenceCache.key(g, g.completions[0], None) for g in different}
    assert len(keys) == len(different)
    # BOS stands in for an empty prompt, so these two are the same score.
    first, second = group([], [3, 4]), group([9], [3, 4])
    assert ReferenceCache.key(first, first.completions[0], 9) == ReferenceCache.key(second, second.completions[0], 9)


def scores(value: float) -> list[list[Scored]]:
    return [[Scored(logprobs=np.full(2, value, np.float32))]]


@pytest.mark.parametrize("on_disk", [True, False])
def test_the_first_value_of_a_key_stays(on_disk, tmp_path):
    """A second computation differs in its last bits; a run must go on with those it has used."""
    cache = ReferenceCache(tmp_path if on_disk else None, "model", "options")
    other = ReferenceCache(tmp_path, "model", "options") if on_disk else cache
    g = group([1, 2], [3, 4])
    for writer, value in ((cache, 1.0), (other, 2.0)):
        writer.store([g], scores(value), None)
        found = writer.find([g], None)[0]
        assert found is not None
        assert found[0].logprobs.tolist() == [1.0, 1.0]
    for c in (cache, other):
        c.close()


def test_a_score_has_one_value_in_a_run_and_in_the_next(asked, tmp_path, monkeypatch):
    """Copies of a row in one step, later epochs, another run: all see the value that was computed first.

    Each computation is made to differ, as micro-batches of a large model do.
    """
    from plaudit.train.scorer import GroupScorer

    rng, compute = np.random.default_rng(0), GroupScorer._compute

    def rounded(self: GroupScorer, role: Any, groups: Any) -> Any:
        found = compute(self, role, groups)
        for scored in (s for row in found for s in row):
            scored.logprobs = scored.logprobs + rng.normal(0, 1e-5, len(scored.logprobs)).astype(np.float32)
        return found

    monkeypatch.setattr(GroupScorer, "_compute", rounded)
    rows = runs.rows_of("preference", 12)
    path = runs.write_rows(tmp_path / "double.jsonl", [*rows, *rows])
    changes = {"data.train": [{"path": str(path), "weight": 1.5}], "train.tokens_per_microbatch": 300}
    first = runs.train_here("dpo", asked("a", "lora", **changes))
    second = runs.train_here("dpo", asked("b", "lora", **changes))
    assert second.reference_tokens == 0
    assert runs.difference(metrics(first.run_dir), metrics(second.run_dir)) is None


# -- F1: the reference is the starting state


@BOTH
def test_f1_in_process_sft_then_dpo_starts_from_the_model_in_memory(variant, options, asked):
    """In TRL the reference was read from disk again: the first loss was 0.616."""
    path = options("sft")["model.path"]
    model, tokenizer = load(path)
    sft = runs.train_here(
        "sft", options("sft", "sft", **{"train.learning_rate": 5e-3}), model=model, tokenizer=tokenizer
    )
    assert not torch.equal(sft.model.model.norm.weight, load(path)[0].model.norm.weight)
    dpo = runs.train_here("dpo", asked("dpo", variant), model=sft.model, tokenizer=sft.tokenizer)
    first = next(line for line in metrics(dpo.run_dir) if line["step"] == 1)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert first[name] == pytest.approx(0, abs=1e-4)
    before = next(line for line in metrics(dpo.run_dir) if line["step"] == 0)
    assert before["eval/rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_a_reference_that_is_not_the_start_stops_the_run(asked, tmp_path):
    """The check at the first step: a cache with wrong values in it."""
    import sqlite3

    runs.train_here("dpo", asked("a"))
    for file in (tmp_path / "shared").glob("*.sqlite"):
        with sqlite3.connect(file) as database:
            rows = [
                (np.frombuffer(v, np.float32) - 1, k) for k, v in database.execute("SELECT key, value FROM logprobs")
            ]
            database.executemany("UPDATE logprobs SET value = ? WHERE key = ?", [(v.tobytes(), k) for v, k in rows])
        database.close()
    with pytest.raises(TrainingError, match="PL404"):
        runs.train_here("dpo", asked("b"))


def test_a_group_that_was_not_scored_ahead_is_not_scored_by_the_trained_model(asked, monkeypatch):
    """In full fine-tuning nobody is the reference any more once training has begun."""
    monkeypatch.setattr(Schedule, "all_groups", lambda self: self.groups_of(0))
    with pytest.raises(AssertionError, match="nobody plays 'reference'"):
        runs.train_here("dpo", asked("short", "full"))


# -- F2: masters stay fp32


@BOTH
def test_f2_masters_stay_fp32_and_small_updates_are_kept(variant, options):
    """At a rate of 1e-6 almost every update is below a bf16 step; in TRL's case 98 % of the weights stood still."""
    changes = {
        **runs.VARIANTS[variant],
        "model.precision": "bf16",
        "train.learning_rate": 1e-6,
        "train.max_steps": 10,
        "train.epochs": 4.0,
    }
    result = runs.train_here("sft", options("sft", **changes))
    from plaudit.runs import checkpoints
    from plaudit.train import checkpoint

    steps = [checkpoint.load(p) for p in checkpoints.complete(result.run_dir / "checkpoints")]
    first, last = steps[0].weights, steps[-1].weights
    assert {w.dtype for w in last.values()} == {torch.float32}
    assert {p.dtype for p in result.model.parameters() if p.requires_grad} == {torch.bfloat16}
    moments = {t.dtype for state in steps[-1].optimizer["state"].values() for t in state.values()}
    assert moments == {torch.float32}
    touched = [n for n in last if "embed" not in n]  # most rows of the embedding are never read
    moved = sum(int((first[n] != last[n]).sum()) for n in touched) / sum(last[n].numel() for n in touched)
    assert moved > 0.9


# -- F4: what survives a resume


def test_f4_the_reference_and_the_counters_survive(asked, tmp_path):
    from tests.train.test_checkpoint import Listener, interrupt

    for variant in ("full", "lora"):
        run = asked(variant, variant, **{"run.reference_cache": str(tmp_path / f"own-{variant}")})
        control = runs.train_here(
            "dpo",
            run
            | {"run.dir": str(tmp_path / f"control-{variant}"), "run.reference_cache": str(tmp_path / f"c-{variant}")},
        )
        interrupt("dpo", run, 2)
        listener = Listener()
        again = runs.train_here("dpo", run, observers=[listener])
        assert listener.plan["resumed"]
        assert runs.difference(metrics(again.run_dir), metrics(control.run_dir)) is None


# -- a continued adapter


@pytest.fixture
def adapter(options) -> Path:
    """The adapter that an SFT run left."""
    result = runs.train_here("sft", options("sft", "first", **runs.VARIANTS["lora"], **{"train.learning_rate": 2e-2}))
    return result.run_dir / "model"


def test_a_continued_adapter_has_its_frozen_twin_as_reference(adapter, asked):
    import safetensors.torch

    result = runs.train_here("dpo", asked("dpo", lora={"path": str(adapter)}))
    first = next(line for line in metrics(result.run_dir) if line["step"] == 1)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    stored = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    twin = {n: p for n, p in result.model.named_parameters() if ".reference." in n}
    assert len(twin) == len(stored)
    for name, value in stored.items():
        assert torch.equal(twin[name.replace(".weight", ".reference.weight")], value)
    own = {n: p for n, p in result.model.named_parameters() if ".default." in n}
    assert any(not torch.equal(p, twin[n.replace(".default.", ".reference.")]) for n, p in own.items())
    # The run saves the trained one, alone.
    saved = safetensors.torch.load_file(result.run_dir / "model" / "adapter_model.safetensors")
    assert saved.keys() == stored.keys()
    assert torch.equal(saved[next(iter(saved))], own[next(iter(saved)).replace(".weight", ".default.weight")])
    assert not (result.run_dir / "model" / "reference").exists()


def test_the_scores_of_a_continued_adapter_are_its_own(adapter, asked):
    """Not those of the base with the adapter off, which lie in the same cache."""
    assert runs.train_here("dpo", asked("fresh", "lora")).reference_tokens > 0
    changes = {"lora": {"path": str(adapter)}}
    assert runs.train_here("dpo", asked("a", **changes)).reference_tokens > 0
    assert runs.train_here("dpo", asked("b", **changes, **{"train.learning_rate": 1e-4})).reference_tokens == 0


def test_a_continued_adapter_resumes(adapter, asked, tmp_path):
    from tests.train.test_checkpoint import interrupt

    run = asked("run", **{"lora": {"path": str(adapter)}, "run.reference_cache": str(tmp_path / "own")})
    control = runs.train_here(
        "dpo", run | {"run.dir": str(tmp_path / "control"), "run.reference_cache": str(tmp_path / "c")}
    )
    interrupt("dpo", run, 3)
    again = runs.train_here("dpo", run)
    assert runs.difference(metrics(again.run_dir), metrics(control.run_dir)) is None
    assert runs.difference(dict(again.model.named_parameters()), dict(control.model.named_parameters())) is None


def test_an_adapter_of_another_base_is_refused(adapter, asked, tmp_path):
    from tests.conftest import write_tiny_model

    other = write_tiny_model(tmp_path / "other", seed=4)
    with pytest.raises(ModelError, match="PL306"):
        runs.train_here("dpo", asked("dpo", **{"lora": {"path": str(adapter)}, "model.path": str(other)}))


# -- F5 and F6


def test_f5_no_dropout_but_the_adapters_own_and_none_where_nothing_is_trained(tmp_path, options, asked):
    """Reference and evaluation see no dropout: with the adapter's own at 0.5 both are the same in every run."""
    path = asked("x")["model.path"]
    tokenizer = load(path)[1]
    config = transformers.GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(str(tmp_path / "gpt2"))
    tokenizer.save_pretrained(str(tmp_path / "gpt2"))
    changes = {"model.path": str(tmp_path / "gpt2"), "run.reference_cache": "off", "train.max_steps": 2}
    plain = runs.train_here("dpo", asked("plain", **changes))
    first = next(line for line in metrics(plain.run_dir) if line["step"] == 1)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    found = [
        runs.train_here(
            "dpo", asked(f"seed{seed}", **changes, **{"lora": {"r": 4, "dropout": 0.5}, "train.seed": seed})
        )
        for seed in (1, 2)
    ]
    before = [next(line for line in metrics(r.run_dir) if line["step"] == 0) for r in found]
    assert before[0] == before[1]
    assert before[0]["eval/rewards/margins"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("method", runs.METHODS)
def test_f6_fewer_rows_than_a_step_takes_are_one_step(method, options, tmp_path):
    """TRL's GRPO took 0 steps then, and ended well."""
    path = runs.write_rows(tmp_path / "few.jsonl", runs.rows_of(runs.available()[method].data_kind, 5))
    changes = {
        "data.train": [{"path": str(path)}],
        "data.eval_fraction": 0.0,
        "eval.every": None,
        "train.groups_per_step": 64,
    }
    if runs.available()[method].is_online():
        changes["rollout.prompts_per_batch"] = 64
    result = runs.train_here(method, options(method, **changes, **{"train.epochs": 1.0}))
    assert result.steps == 1
    assert result.metrics["epoch"] == 1.0
    start = load(options(method)["model.path"])[0]
    assert not torch.equal(start.model.norm.weight, result.model.model.norm.weight)


def test_peak_memory_is_that_of_the_process():
    assert 0.05 < loop.peak_memory_gb(torch.device("cpu")) < 50
