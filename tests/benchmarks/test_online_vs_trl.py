"""The online benchmark: phases that add up, refusals of unequal work, bars, and prompts that every machine gets.

The phases are measured on a real optimiser and real memory, in a process of its own, because the hook is global.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import MIB, ROOT, BenchmarkError, Variant
from benchmarks.online_vs_trl import (
    OURS,
    VERSIONS,
    OnlineMeasurement,
    check_same_update,
    check_same_work,
    compare,
    comparison_table,
    fastest,
    our_variant,
    parse,
    trl_variant,
    variant_table,
)
from benchmarks.trl_online import arguments, recorded
from benchmarks.workload import EOS, PromptWorkload, build_tokenizer, even_words, materialise, prompt_rows
from plaudit.methods import find

LENGTHS = [241, 137, 86]
EQUAL = {"completions": 4, "generated_tokens": 32, "trained_tokens": 32, "rewarded": 4}
ROLLOUTS = """
import time
import torch
from benchmarks.phases import PhaseRecorder

class Trunk(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 4)
    def forward(self, input_ids):
        return self.table(input_ids)

first = torch.nn.Linear(1, 1)  # the first step of a process imports more
first(torch.ones(1)).sum().backward()
torch.optim.AdamW(first.parameters()).step()
recorder = PhaseRecorder(updates=2)
recorder.count_tokens(Trunk)
recorder.start()
trunk, ids = Trunk(), torch.zeros(2, 3, dtype=torch.long)
optimizer = torch.optim.AdamW(trunk.parameters())
reward = recorder.rewarding(lambda texts, **columns: [float(len(t)) for t in texts])
for batch in range(3):
    with recorder.phase("generation"), torch.no_grad():
        held = torch.ones(96 * 2**20 // 4) if batch == 1 else None
        trunk(ids)
        with recorder.phase("reward"):
            assert reward(["a", "bc"]) == [1.0, 2.0]
            time.sleep(0.05)
        del held
    recorder.sampled([3, 3])
    with torch.no_grad():
        trunk(ids[:1])  # old log-probs
    for update in range(2):
        held = torch.ones(48 * 2**20 // 4)
        recorder.work.trained_tokens += 6
        trunk(ids).sum().backward()
        optimizer.step()
        del held
result = recorder.result([0.1, 0.2, 0.3])
phases, work = result["phases"], result["work"]
assert result["steps"] == 2, result
assert abs(sum(p["seconds"] for p in phases.values()) - result["seconds"]) < 1e-6, result
assert abs(sum(p["cpu_seconds"] for p in phases.values()) - result["cpu_seconds"]) < 1e-6, result
assert 0.1 <= phases["reward"]["seconds"] < 1, phases
assert (phases["generation"]["no_grad_tokens"], phases["generation"]["grad_tokens"]) == (12, 0), phases
assert (phases["update"]["no_grad_tokens"], phases["update"]["grad_tokens"]) == (6, 24), phases
assert work["completions"] == 4 and work["generated_tokens"] == 12 and work["trained_tokens"] == 24, work
assert work["rewarded"] == 4 and work["reward_seconds"] < 0.05, work
assert 96 * 2**20 <= phases["generation"]["peak_bytes"] == result["peak_bytes"] < 140 * 2**20, result
assert 48 * 2**20 <= phases["update"]["peak_bytes"] < 90 * 2**20, result
for losses in ([0.1], [0.1] * 6):
    try:
        recorder.result(losses)
    except RuntimeError:
        continue
    raise AssertionError(losses)
"""


def measurement(seconds: float = 10.0, peak: int = 100 * MIB, **changes: Any) -> OnlineMeasurement:
    spent = {"grad_tokens": 10, "no_grad_tokens": 0, "peak_bytes": peak}
    base = OnlineMeasurement(
        steps=1,
        seconds=seconds,
        cpu_seconds=seconds,
        peak_bytes=peak,
        baseline_bytes=1,
        grad_tokens=10,
        reference_tokens=0,
        ahead_seconds=0.0,
        uncharged_tokens=0,
        losses=(0.1, 0.2),
        versions={"python": "3.11.7", "torch": "2.13.0"},
        threads=1,
        phases={
            "generation": {"seconds": 0.2 * seconds, "cpu_seconds": 0.2 * seconds, **spent},
            "reward": {"seconds": 0.1 * seconds, "cpu_seconds": 0.1 * seconds, **spent},
            "update": {"seconds": 0.7 * seconds, "cpu_seconds": 0.7 * seconds, **spent},
        },
        work=EQUAL,
        gradient_norms=(1.0, 2.0),
    )
    return dataclasses.replace(base, **changes)


@pytest.mark.slow
def test_phases_add_up_and_hold_their_tokens_and_memory() -> None:
    done = subprocess.run([sys.executable, "-c", ROLLOUTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_speeds_are_rival_over_ours_and_scoring_belongs_to_generation() -> None:
    ours = [measurement(10.0, 40 * MIB), measurement(12.0, 45 * MIB)]
    # Ours has no phase of its own for scoring, which goes on in the background.
    ours = [dataclasses.replace(m, phases={k: v for k, v in m.phases.items() if k != "reward"}) for m in ours]
    result = compare(ours, "TRL", [measurement(40.0), measurement(36.0)])
    assert (result.step.low, result.step.high) == (3.0, 4.0)
    assert result.generation_cpu.high == pytest.approx(40 * 0.3 / 2)
    assert result.update_cpu.high == pytest.approx(4.0)
    assert (result.memory.low, result.memory.high) == (0.4, 0.45)


def test_tables_say_which_bar_is_missed() -> None:
    table = comparison_table([compare([measurement(10.0, 46)], "TRL", [measurement(35.0, 100)])])
    assert table.count("3.50 (3.50–3.50)** ≥ 3.5: met") == 2
    assert "**0.46 (0.46–0.46)** ≤ 0.45: NOT met" in table
    slower = comparison_table([compare([measurement(10.0)], "TRL", [measurement(34.0)])])
    assert slower.count("≥ 3.5: NOT met") == 2
    row = variant_table([Variant("ours", "ours", Path("python"), "w", {})], {"ours": [measurement(8.0)]}).splitlines()[
        2
    ]
    assert row == "| ours | 8.0 (8.0–8.0) | 8.0 | 1.6 | 5.6 | 100 MiB | 100, 100 MiB | 10, 0 |"


def test_equal_work_is_accepted() -> None:
    check_same_work({"TRL": [measurement()], "ours": [measurement()]}, EQUAL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"work": {**EQUAL, "generated_tokens": 31}}, "generated_tokens is 31 in 1 steps, not 32"),
        ({"work": {**EQUAL, "trained_tokens": 24}}, "trained_tokens is 24"),
        ({"work": {**EQUAL, "rewarded": 3}}, "rewarded is 3"),
        ({"versions": {"python": "3.11.7", "torch": "2.12.0"}}, "torch differs"),
        ({"threads": 2}, "ran 1 threads"),
        ({"losses": (0.1, float("nan"))}, "losses"),
    ],
)
def test_unequal_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        check_same_work({"TRL": [measurement()], "ours": [measurement(**changes)]}, EQUAL)


def test_updates_must_have_the_same_gradient_norms() -> None:
    assert check_same_update(measurement(), measurement(gradient_norms=(1.001, 2.0))) == pytest.approx(1e-3, rel=1e-2)
    for norms in ((1.01, 2.0), (1.0, float("nan")), (1.0,), ()):
        with pytest.raises(BenchmarkError, match="the updates differ"):
            check_same_update(measurement(), measurement(gradient_norms=norms))


@pytest.mark.parametrize("method", sorted(VERSIONS))
def test_contenders_have_the_same_settings(method: str) -> None:
    find(method).Config(**OURS[method])
    options = parse(["--method", method])
    default, best = (trl_variant(options, Path("python"), name, 8) for name in ("TRL default", "TRL best"))
    assert (default.options["logging_steps"], best.options["logging_steps"]) == (10, 10**6)
    if method != "ppo":
        assert (default.options["gradient_checkpointing"], best.options["gradient_checkpointing"]) == (True, False)
    assert our_variant(options).options["method"] == OURS[method]


def test_one_generation_for_each_optimiser_step() -> None:
    train = {"prompts_per_step": 4, "samples": 8, "new_tokens": 16, "kl_weight": 0.0, "precision": "fp32"}
    job = {"train": {**train, "learning_rate": 1e-5, "max_grad_norm": 1.0, "device": "cpu", "seed": 1}}
    chosen = {"per_device_batch": 8, "gradient_checkpointing": False, "logging_steps": 1, "cache_implementation": None}
    found = arguments({**job, "options": chosen, "scratch": "s", "steps": 2})
    assert found["gradient_accumulation_steps"] * found["per_device_train_batch_size"] == 32
    assert "steps_per_generation" not in found  # follows gradient_accumulation_steps
    assert found["generation_kwargs"]["min_new_tokens"] == found["max_completion_length"] == 16
    assert found["max_steps"] == 3


def test_a_batch_that_does_not_divide_the_answers_is_refused() -> None:
    with pytest.raises(SystemExit):
        parse(["--prompts", "3", "--trl-batch", "16"])


def test_the_fastest_of_a_sweep() -> None:
    table = {"8": {"cpu_seconds": 3.0, "batch": 8}, "16": {"cpu_seconds": 2.0, "batch": 16}}
    assert fastest(table)["batch"] == 16


def test_answers_of_a_file_are_read_by_batch(tmp_path: Path) -> None:
    rows = [
        {"rollout": number, "completions": [{"token_ids": [number, group]}, {"token_ids": [number, group + 10]}]}
        for number in (0, 1)
        for group in (0, 1)
    ]
    file = tmp_path / "r.jsonl"
    file.write_text("\n".join(["{}", *map(json.dumps, rows)]) + "\n", encoding="utf-8")
    assert recorded(str(file)) == [[[0, 0], [0, 10], [0, 1], [0, 11]], [[1, 0], [1, 10], [1, 1], [1, 11]]]


def test_prompts_are_those_of_every_machine_and_of_their_length() -> None:
    workload = PromptWorkload(rows=3, vocabulary=64)
    rows = list(prompt_rows(workload))
    assert [len(words) for words in rows] == LENGTHS
    assert list(prompt_rows(dataclasses.replace(workload, rows=5)))[:3] == rows
    tokenizer = build_tokenizer(64)
    assert len(tokenizer(" ".join(rows[0]))["input_ids"]) == len(rows[0])
    equal = PromptWorkload(rows=4, vocabulary=64, prompt_mean=40, sigma=0)
    assert {len(words) for words in prompt_rows(equal)} == {40}
    short = PromptWorkload(rows=200, vocabulary=64, max_length=210)
    assert max(len(words) for words in prompt_rows(short)) <= 210


def test_the_reward_is_the_share_of_even_words_on_both_sides() -> None:
    import torch

    from benchmarks.trl_ppo import EvenWords

    assert even_words(["w0 w13 w2 w8", "", "w1"]) == [0.75, 0.0, 0.0]
    tokenizer = build_tokenizer(64)
    ids = tokenizer("w1 w2 w0 w13 w2 w8")["input_ids"]
    model = EvenWords(window=4)
    hidden = model.share(torch.tensor([ids])).hidden_states[-1]
    assert model.score(hidden)[0, -1, 0].item() == 0.75
    assert EOS not in tokenizer.decode(ids)


def test_a_written_prompt_workload_is_complete(tmp_path: Path) -> None:
    workload = PromptWorkload(rows=3, vocabulary=64)
    folder = materialise(workload, tmp_path)
    content = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert content["unique_tokens"] == [len(row["prompt"].split()) for row in rows]
    assert (folder / "model" / "config.json").exists()
