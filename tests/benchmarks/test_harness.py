"""The benchmark's statistics, order of runs and refusals, on made-up measurements."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from benchmarks.compare import check_same_work, compare, comparison_table, paired_ratio, variant_table
from benchmarks.harness import BenchmarkError, Measurement, Session, Variant, interleave, worker_environment

VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "tokenizers": "0.23.3"}


def variant(name: str, *, warm: bool = False) -> Variant:
    return Variant(name, "ours" if name == "ours" else "rival", Path("python"), "worker", {}, warm_reference=warm)


def measurement(seconds: float = 10.0, peak: int = 100, **changes: Any) -> Measurement:
    base = Measurement(
        steps=2,
        seconds=seconds,
        cpu_seconds=seconds,
        peak_bytes=peak,
        baseline_bytes=1,
        grad_tokens=10,
        reference_tokens=10,
        ahead_seconds=0.0,
        uncharged_tokens=0,
        losses=(0.6931, 0.5),
        versions=VERSIONS,
        threads=1,
    )
    return dataclasses.replace(base, **changes)


def test_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_the_medians() -> None:
    # Rounds: 10/1 = 10, 20/10 = 2, 30/6 = 5. Median ratio 5; the ratio of the medians would be 20/6.
    ratio = paired_ratio([10.0, 20.0, 30.0], [1.0, 10.0, 6.0])
    assert (ratio.median, ratio.low, ratio.high) == (5.0, 2.0, 10.0)
    assert str(ratio) == "5.00 (2.00–10.00)"


def test_ratio_of_an_even_number_of_rounds_is_the_mean_of_the_middle_two() -> None:
    assert paired_ratio([1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 1.0, 1.0]).median == 3.0


@pytest.mark.parametrize(("above", "below"), [([], []), ([1.0], [1.0, 2.0])])
def test_ratio_of_unequal_or_no_rounds_is_refused(above: list[float], below: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no rounds|shorter|longer"):
        paired_ratio(above, below)


def test_comparison_has_speed_as_rival_time_over_ours_and_memory_as_ours_over_rival() -> None:
    runs = {
        "ours": [measurement(10.0, 40), measurement(12.0, 45)],
        "TRL": [measurement(40.0, 100), measurement(36.0, 90)],
    }
    result = compare("ours", "TRL", runs)
    assert (result.speed.low, result.speed.median, result.speed.high) == (3.0, 3.5, 4.0)
    assert (result.memory.low, result.memory.high) == (0.4, 0.5)


def test_comparison_table_says_which_bar_is_missed() -> None:
    runs = {"ours": [measurement(10.0, 50)], "TRL": [measurement(31.0, 100)]}
    table = comparison_table([compare("ours", "TRL", runs)], (3.0, 0.45))
    assert "**3.10 (3.10–3.10)** ≥ 3: met" in table
    assert "**0.50 (0.50–0.50)** ≤ 0.45: NOT met" in table
    assert "met" not in comparison_table([compare("ours", "TRL", runs)])


def test_variant_table_gives_computed_over_unique_tokens_and_pairs_per_second() -> None:
    runs = {"ours": [measurement(8.0, 50 * harness.MIB, grad_tokens=102, reference_tokens=101)]}
    row = variant_table([variant("ours")], runs, 16, 100, shares={"ours": 0.456}).splitlines()[2]
    assert row == "| ours | 4.00 (4.00–4.00) | 4.00 | 4.00 | 50 MiB | 1.020 | 1.010 | 46 % |"


def test_rounds_are_interleaved() -> None:
    order: list[str] = []

    def run(contender: Variant) -> Measurement:
        order.append(contender.name)
        return measurement(float(len(order)))

    runs = interleave([variant("TRL"), variant("ours")], 3, run)
    assert order == ["TRL", "ours"] * 3
    assert [m.seconds for m in runs["ours"]] == [2.0, 4.0, 6.0]


def test_equal_work_is_accepted() -> None:
    runs = {"TRL": [measurement()], "ours": [measurement(losses=(0.6931, 0.5004))]}
    check_same_work(runs, [variant("TRL"), variant("ours")], 1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": (0.6931, 0.502)}, "losses differ"),
        ({"losses": (0.6931, float("nan"))}, "losses differ"),
        ({"losses": (0.6931,)}, "losses differ"),
        ({"versions": {**VERSIONS, "torch": "2.12.0"}}, "torch is 2.13.0 in 'TRL' but 2.12.0 in 'ours'"),
        ({"threads": 2}, "ran 1 threads"),
    ],
)
def test_unequal_work_is_refused(changes: dict[str, Any], message: str) -> None:
    runs = {"TRL": [measurement()], "ours": [measurement(**changes)]}
    with pytest.raises(BenchmarkError, match=message):
        check_same_work(runs, [variant("TRL"), variant("ours")], 1e-3)


def test_losses_of_steps_with_other_rows_are_not_compared() -> None:
    runs = {"bfd": [measurement(losses=(1.0, 2.0))], "TRL": [measurement()], "ours": [measurement()]}
    other = dataclasses.replace(variant("bfd"), same_rows=False)
    check_same_work(runs, [other, variant("TRL"), variant("ours")], 1e-3)
    assert compare("ours", "bfd", runs, same_rows=False).loss_gap is None
    with pytest.raises(BenchmarkError, match="threads"):
        check_same_work({**runs, "bfd": [measurement(threads=2)]}, [other, variant("TRL")], 1e-3)


def test_results_are_written_as_json_and_markdown(tmp_path: Path) -> None:
    target = harness.write_results(
        "x", {"runs": {"ours": [measurement()]}, "variants": [variant("ours")]}, "# x", tmp_path
    )
    text = target.read_text(encoding="utf-8")
    assert '"seconds": 10.0' in text
    assert str(harness.ROOT) not in text
    assert (tmp_path / "x.md").read_text(encoding="utf-8") == "# x\n"


def test_a_worker_that_fails_is_an_error_with_its_output(tmp_path: Path) -> None:
    session = Session(workload=tmp_path, train={}, threads=1, scratch=tmp_path / "scratch")
    missing = Variant("ours", "ours", Path(sys.executable), "benchmarks.no_such_worker", {})
    with pytest.raises(BenchmarkError, match=r"(?s)'ours' ended with status 1:.*no_such_worker"):
        session.run(missing, steps=1)


def test_workers_have_fixed_threads_and_no_network() -> None:
    variables = worker_environment(3)
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "3"
    assert variables["HF_HUB_OFFLINE"] == "1"
