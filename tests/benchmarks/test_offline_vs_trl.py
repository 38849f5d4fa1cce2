"""The comparison of offline methods: the same rows and settings on both sides, refusals, what is counted, the table.

The last tests run the real workers on a tiny model, without TRL.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import matmul_peak, offline_table, offline_techniques, offline_vs_trl, ranks_worker, two_ranks, without
from benchmarks.flops import attention_flops, counting
from benchmarks.harness import MIB, BenchmarkError, Measurement, Session, Variant
from benchmarks.measure import Recorder
from benchmarks.offline_methods import METHODS, check_reference, data_of, relative_gap
from benchmarks.workload import ARCHITECTURES, LENGTHS, PreferenceRow, named_workload, preference_rows
from plaudit.forest import layout, pack
from plaudit.methods import find
from plaudit.models import forest_model
from plaudit.train import planning
from plaudit.types import Completion, PromptGroup

PAIRS = [{"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(4)]
SIZES = [(10 * (i + 1), i + 1, i + 2) for i in range(4)]


def measurement(seconds: float = 10.0, **changes: Any) -> Measurement:
    base = Measurement(
        steps=2,
        seconds=seconds,
        cpu_seconds=seconds,
        peak_bytes=100 * MIB,
        baseline_bytes=1,
        grad_tokens=1000,
        reference_tokens=1000,
        ahead_seconds=0.0,
        uncharged_tokens=0,
        losses=(0.6931, 0.5),
        versions={"torch": "2.13.0", "transformers": "5.23.0"},
        threads=1,
    )
    return dataclasses.replace(base, **changes)


def variant(name: str = "ours", **changes: Any) -> Variant:
    return dataclasses.replace(Variant(name, "ours", Path("python"), "worker", {}), **changes)


# -- the same work on both sides


def test_pairs_become_the_rows_of_each_method() -> None:
    pairs = data_of(METHODS["dpo"], PAIRS, SIZES, 2)
    assert (pairs.rows, pairs.unique) == (PAIRS, [sum(n) for n in SIZES])
    shown = data_of(METHODS["sft"], PAIRS, SIZES, 2)
    assert shown.rows[1] == {"prompt": "p1", "completion": "c1"}
    assert shown.unique == [p + c for p, c, _ in SIZES]


def test_feedback_rows_are_those_of_the_steps_own_pairs_and_no_neighbours_share_a_prompt() -> None:
    data = data_of(METHODS["kto"], PAIRS, SIZES, 2)
    texts = [row["completion"] for row in data.rows]
    assert texts == ["c0", "r1", "r0", "c1", "c2", "r3", "r2", "c3"]
    assert [row["label"] for row in data.rows] == [text[0] == "c" for text in texts]
    assert data.unique[1] == SIZES[1][0] + SIZES[1][2]
    prompts = [row["prompt"] for row in data.rows]
    for start in (0, 4):  # TRL rotates the answers of a batch by one
        step = prompts[start : start + 4]
        assert all(a != b for a, b in zip(step, [step[-1], *step], strict=False))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_our_options_exist_and_defaults_of_the_rival_are_its_own(name: str) -> None:
    method = METHODS[name]
    find(name).Config(**method.ours)
    assert ("reference" in find(name).roles) == (method.reference != "none")
    assert find(name).fresh_completions == (method.reference == "given and new")
    default, best = (
        offline_vs_trl.trl_variant(method, Path("python"), n, 8, best=n == "best") for n in ("default", "best")
    )
    assert default.options["arguments"] == {"gradient_checkpointing": True, "logging_steps": 10}
    assert best.options["arguments"]["gradient_checkpointing"] is False
    assert best.warm_reference == ("precompute_ref_log_probs" in best.options["arguments"])
    assert best.warm_reference == (method.reference != "none")


def test_forwards_without_padding_have_no_limit_of_length() -> None:
    """TRL refuses one there; packing has the length of its bins."""
    found = offline_vs_trl.trl_variant(METHODS["sft"], Path("p"), "x", 4, best=True, padding_free=True)
    assert found.options["arguments"]["max_length"] is None
    packed = offline_vs_trl.bfd_variant(Path("p"), tokens_per_step=5000, length=1024)
    assert (packed.options["accumulation"], packed.same_rows) == (5, False)


def test_a_row_of_every_workload_fits() -> None:
    for name, lengths in LENGTHS.items():
        rows = list(preference_rows(named_workload(name, "tiny", 50)))
        assert max(r.prompt_tokens + max(r.chosen_tokens, r.rejected_tokens) for r in rows) <= lengths["max_length"]
    means = {n: np.mean([r.prompt_tokens for r in preference_rows(named_workload(n, "tiny", 300))]) for n in LENGTHS}
    assert means["short-prompt"] < 40 < 150 < means["mixed"] < 250 < 700 < means["long-prompt"]


def test_the_shape_of_smollm() -> None:
    shape = ARCHITECTURES["135m"]
    assert shape.parameters(shape.vocabulary) == pytest.approx(134.5e6, rel=2e-3)
    assert named_workload("mixed", "135m", 1).vocabulary == 49152
    assert isinstance(next(iter(preference_rows(named_workload("mixed", "tiny", 1)))), PreferenceRow)


def test_a_batch_that_does_not_divide_the_rows_is_refused() -> None:
    with pytest.raises(SystemExit):
        offline_vs_trl.parse(["--pairs-per-step", "6", "--trl-batch", "4"])
    assert offline_vs_trl.parse(["--method", "kto", "--pairs-per-step", "4", "--trl-batch", "8"]).trl_batch == 8


# -- refusals


def test_a_cold_reference_must_be_in_the_time_and_a_warm_one_nowhere() -> None:
    dpo, kto, sft = METHODS["dpo"], METHODS["kto"], METHODS["sft"]
    check_reference(dpo, variant(), measurement())
    with pytest.raises(BenchmarkError, match="not in the time"):
        check_reference(dpo, variant(), measurement(reference_tokens=400))
    warm = variant(warm_reference=True)
    check_reference(dpo, warm, measurement(reference_tokens=0, uncharged_tokens=50))  # a self-test is small
    for changes in ({"reference_tokens": 1000}, {"reference_tokens": 0, "uncharged_tokens": 1000}):
        with pytest.raises(BenchmarkError, match="a warm cache means none"):
            check_reference(dpo, warm, measurement(**changes))
    # KTO scores answers that are paired anew in every step, with a warm cache too.
    check_reference(kto, warm, measurement(reference_tokens=1000))
    with pytest.raises(BenchmarkError, match="not in the time"):
        check_reference(kto, variant(), measurement(reference_tokens=1000))
    check_reference(sft, variant(), measurement(reference_tokens=0))


def test_the_gap_of_losses_is_relative_and_refuses_what_cannot_be_compared() -> None:
    assert relative_gap([10.0, 2.0], [10.1, 2.0]) == pytest.approx(0.1 / 10.1)
    for other in ([10.0], [10.0, float("nan")], []):
        assert relative_gap([10.0, 2.0], other) == float("inf")


class Answers(Session):
    """A session whose workers answer at once, with the losses that `train` holds for them."""

    def run(self, contender: Variant, steps: int) -> Measurement:
        return measurement(losses=self.train["losses"][contender.name])


@pytest.mark.parametrize(("theirs", "same"), [((9.0, 8.0), True), ((9.0, 8.01), False)])
def test_the_proof(theirs: tuple[float, ...], same: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session = Answers(tmp_path, {"losses": {"ours, proof": (9.0, 8.0), "TRL, proof": theirs}}, 1, tmp_path)
    prepared = offline_vs_trl.Prepared(session, named_workload("mixed", "tiny", 8), 1)
    monkeypatch.setattr(offline_vs_trl, "prepare", lambda *_: prepared)
    options = offline_vs_trl.parse(["--method", "orpo"])
    if same:
        found = offline_vs_trl.prove(options, Path("python"))
        assert (found["relative_gap"], found["rows_per_batch"]) == (0.0, offline_vs_trl.PROOF_PAIRS)
    else:
        with pytest.raises(BenchmarkError, match="not the same function"):
            offline_vs_trl.prove(options, Path("python"))


class Machine(Session):
    """A session whose larger batches are faster until they do not fit."""

    def run(self, contender: Variant, steps: int) -> Measurement:
        batch = contender.options["per_device_batch"]
        if batch > 8:
            raise BenchmarkError("ended with status -9:\nKilled")
        return measurement(20.0 - batch - 5.0 * ("padding_free" in contender.options["arguments"]))


def test_a_batch_of_the_sweep_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {}, 1, tmp_path)
    table = offline_vs_trl.sweep_trl(machine, METHODS["sft"], Path("p"), [1, 4, 8, 16])
    assert list(table) == ["1", "4", "8", "4 without padding", "8 without padding"]
    best = offline_vs_trl.fastest(table, 1)
    assert (best["batch"], best["padding_free"]) == (8, True)
    with pytest.raises(BenchmarkError, match="no batch"):
        offline_vs_trl.sweep_trl(machine, METHODS["dpo"], Path("p"), [16])


# -- what is counted


def test_steps_with_other_rows_are_scaled_to_the_same_tokens() -> None:
    found = offline_vs_trl.per_token(variant(same_rows=False), measurement(10.0, grad_tokens=2000), 1000)
    assert (found.seconds, found.cpu_seconds, found.grad_tokens) == (5.0, 5.0, 1000)
    same = measurement()
    assert offline_vs_trl.per_token(variant(), same, 500) is same


def test_operations_of_products_and_attention() -> None:
    recorder, layer = Recorder(), torch.nn.Linear(4, 6, bias=False)
    query = torch.randn(1, 2, 8, 16, requires_grad=True)
    with counting(recorder):
        layer(torch.randn(5, 4, requires_grad=True)).sum().backward()
        assert recorder.count_flops is not None
        assert recorder.count_flops() == 3 * 2 * 5 * 4 * 6
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()
        attention = 2 * 7 * 2 * (8 * 9 // 2) * 16
        assert recorder.count_flops() == 3 * 2 * 5 * 4 * 6 + attention
    assert attention_flops((1, 2, 8, 16), (1, 1, 5, 16), False, 2) == 2 * 2 * 2 * 8 * 5 * 16
    untouched = Recorder()
    with counting(untouched, wanted=False):
        assert untouched.count_flops is None


def test_the_peak_is_that_of_all_layers_together() -> None:
    counts = matmul_peak.products({(3, 5): 2})
    assert counts == {(4096, 3, 5): 2, (4096, 5, 3): 2, (5, 4096, 3): 2}
    # One product is twice as slow as the others: 3 units of work in 4 units of time.
    seconds = matmul_peak.best_of([dict.fromkeys(counts, 1.0), {p: 2.0 - (p[0] == 5) for p in counts}])
    assert set(seconds.values()) == {1.0}
    slow = {p: 2.0 if p[0] == 5 else 1.0 for p in counts}
    assert matmul_peak.peak_rate(counts, slow) == pytest.approx(matmul_peak.flops((4096, 3, 5)) * 3 / 4)
    measured = offline_vs_trl.Measured({"ours": [measurement(4.0)]}, slow, {"ours": 1.5 * 2 * 4096 * 15})
    assert measured.shares(counts, 1)["ours"] == pytest.approx(0.5)


# -- techniques


def pair() -> PromptGroup:
    answers = [Completion(np.arange(n, dtype=np.int32) + 20, np.ones(n, np.bool_)) for n in (3, 4)]
    return PromptGroup(np.arange(10, dtype=np.int32), answers)


def test_without_sharing_every_answer_has_its_own_prompt_and_the_targets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((pack, "piece_tokens"), (planning, "piece_tokens"), (planning, "build_forest")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    piece = layout.Piece(pair(), 0, (0, 1))
    shared = planning.build_forest([piece], bos_id=None)
    without.switch_off("sharing")
    copied = planning.build_forest([piece], bos_id=None)
    assert (shared.num_tokens, copied.num_tokens) == (9 + 3 + 4, 9 + 3 + 9 + 4)
    assert pack.piece_tokens(piece, None, False) == copied.num_tokens
    assert copied.keys == shared.keys == [(0, 0), (0, 1)]
    assert torch.equal(copied.targets_N, shared.targets_N)


def test_without_the_fused_head(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM

    head: Any = forest_model._LmHead
    monkeypatch.setattr(head, "__init__", head.__init__)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert head(model).fused
    without.switch_off("fused head")
    assert not head(model).fused
    with pytest.raises(KeyError):
        without.switch_off("luck")


def test_each_method_has_the_techniques_that_it_can_lose() -> None:
    names = {m: [v.name for v in offline_techniques.contenders(METHODS[m], 4096)] for m in ("dpo", "sft", "reward")}
    everything = [
        "all on",
        "no prompt sharing",
        "no packing",
        "padded path",
        "no reference cache",
        "module head",
        "plain layers",
    ]
    assert names["dpo"] == everything
    assert names["sft"] == [n for n in everything if n not in ("no prompt sharing", "no reference cache")]
    assert names["reward"] == [n for n in everything if n not in ("no reference cache", "module head")]


def test_the_table_of_techniques_is_in_units_of_all() -> None:
    runs = {"all on": [measurement(10.0)], "no packing": [measurement(15.0, peak_bytes=50 * MIB)]}
    row = offline_techniques.technique_table(runs).splitlines()[2]
    assert row == "| no packing | **1.50 (1.50–1.50)** | 1.50 (1.50–1.50) | 0.50 (0.50–0.50) |"


# -- two processes


def test_time_in_collectives_is_counted_once_however_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 11.0])
    monkeypatch.setattr(ranks_worker.time, "perf_counter", lambda: next(now))
    clock = ranks_worker.Clock()
    inner = clock.timed(lambda: None)  # reads the clock when it begins; only the outermost reads it at its end
    outer = clock.timed(lambda: (inner(), inner()))
    clock.mark()
    outer()  # from 0 to 6, the inner ones at 1 and 3
    clock.mark()
    assert (clock.window(), clock.seconds) == ((6.0, 1), 6.0)
    inner()
    assert clock.seconds == 7.0


def ranks(seconds: float, losses: list[float], communication: float = 1.0) -> two_ranks.Run:
    one = {"seconds": seconds, "steps": 1, "losses": losses, "communication_seconds": communication, "peak_bytes": MIB}
    one["grad_tokens"] = 30
    return [one, {**one, "communication_seconds": 2 * communication, "grad_tokens": 10}]


def test_one_and_two_processes_must_have_the_same_losses() -> None:
    runs = {two_ranks.ONE: [ranks(10.0, [1.0, 0.5])], two_ranks.TWO: [ranks(8.0, [1.0, 0.5])]}
    assert two_ranks.check_losses(runs) == 0.0
    page = two_ranks.report(two_ranks.parse([]), runs, 0.0)
    assert "| two processes | 8.00 (8.00–8.00) | **1.25 (1.25–1.25)** | 12.5 %, 25.0 % | 1.50 | 1 MiB |" in page
    with pytest.raises(BenchmarkError, match="differ"):
        two_ranks.check_losses({**runs, two_ranks.TWO: [ranks(8.0, [1.0, 0.5001])]})


def test_sharding_is_passed_to_the_two_processes_and_only_when_given() -> None:
    assert all("train" not in v.options for v in two_ranks.contenders(4096, None))
    sharded = two_ranks.contenders(4096, "fsdp")
    assert [v.options.get("train") for v in sharded] == [None, None, {"sharding": "fsdp"}]
    assert [v.threads for v in sharded] == [1, 2, 1]


# -- the whole way


@pytest.mark.slow
def test_our_side_runs_and_its_result_fills_no_table_by_itself(tmp_path: Path) -> None:
    asked = ["--method", "orpo", "--size", "tiny", "--workload", "short-prompt", "--only", "ours", "--quick"]
    assert offline_vs_trl.main(asked, folder=tmp_path) == 0
    (file,) = tmp_path.glob("*.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    run = result["runs"]["ours"][0]
    assert run["steps"] == 1
    assert len(run["losses"]) == 2
    # No padding and no prompt twice; the last token of an answer need not be computed.
    assert 0.98 < run["grad_tokens"] / result["unique_tokens"] <= 1
    # Three times the weights without the head for each position, and more.
    trunk = ARCHITECTURES["tiny"].parameters(0)
    assert result["flops"]["ours"] > 6 * trunk * run["grad_tokens"]
    assert 0 < result["share_of_peak"]["ours"] < 1.5
    assert offline_table.table(tmp_path) == ""

    # The same file as one of both sides.
    comparison = offline_vs_trl.compare("ours", "TRL", {"ours": [measurement(5.0)], "TRL": [measurement()]})
    result["comparisons"] = [dataclasses.asdict(comparison)]
    result["runs"]["TRL"] = [{**run, "grad_tokens": 2 * run["grad_tokens"]}]
    result["arguments"]["quick"] = False
    file.write_text(json.dumps(result), encoding="utf-8")
    header, _, line = offline_table.table(tmp_path).splitlines()
    assert header.count("|") == line.count("|") == len(offline_table.COLUMNS) + 1
    assert "| orpo | 0.1M | short-prompt | 1 | 1 × 1 | ours | TRL | **2.00 (2.00–2.00)**" in line


@pytest.mark.slow
def test_every_technique_can_be_switched_off(tmp_path: Path) -> None:
    assert offline_techniques.main(["--method", "dpo", "--size", "tiny", "--quick"], folder=tmp_path) == 0
    (file,) = tmp_path.glob("*.json")
    runs = {n: r[0] for n, r in json.loads(file.read_text(encoding="utf-8"))["runs"].items()}
    assert runs["no prompt sharing"]["grad_tokens"] > 1.2 * runs["all on"]["grad_tokens"]
    assert runs["padded path"]["grad_tokens"] > runs["no prompt sharing"]["grad_tokens"]
    assert runs["no reference cache"]["reference_tokens"] > 0 == runs["all on"]["reference_tokens"]


@pytest.mark.slow
def test_two_processes_take_the_same_steps(tmp_path: Path) -> None:
    assert two_ranks.main(["--method", "sft", "--size", "tiny", "--quick"], folder=tmp_path) == 0
    (file,) = tmp_path.glob("*.json")
    processes = json.loads(file.read_text(encoding="utf-8"))["runs"][two_ranks.TWO][0]
    assert len(processes) == 2
    assert all(0 < p["communication_seconds"] < p["seconds"] for p in processes)
