"""What the benchmark on a GPU counts and shows, without one."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu_offline import CASES, TINY, main, table
from benchmarks.gpu_shapes import SHAPES, Shape, build_model, model_flops, peak_tflops, unique_tokens, write_work
from benchmarks.workload import PreferenceRow

SHAPE = Shape(hidden=6, layers=2, heads=4, kv_heads=2, head_size=3, intermediate=5, tied=True, vocabulary=11)
ROW = PreferenceRow("", "", "", prompt_tokens=3, chosen_tokens=2, rejected_tokens=1)


def test_flops_by_hand() -> None:
    """Linear weights: per layer q and o 6·12, k and v 6·6, and three of 6·5; twice two layers."""
    linear = 2 * (2 * 6 * 12 + 2 * 6 * 6 + 3 * 6 * 5)
    assert SHAPE.linear == linear
    assert SHAPE.parameters == linear + 66
    # Who sees whom: the prompt 1+2+3; the chosen answer 4+5; the rejected one 4.
    dense, attention = 2 * 6 * linear + 2 * 3 * 66, 4 * (6 + 9 + 4) * 2 * 12
    assert model_flops(SHAPE, [ROW], "dpo", lora=False) == 3 * (dense + attention)
    assert model_flops(SHAPE, [ROW], "dpo", lora=True) == 2 * dense + 3 * attention
    dense, attention = 2 * 5 * linear + 2 * 2 * 66, 4 * (6 + 9) * 2 * 12
    assert model_flops(SHAPE, [ROW, ROW], "sft", lora=False) == 2 * 3 * (dense + attention)
    assert unique_tokens([ROW], "dpo") == 6
    assert unique_tokens([ROW], "sft") == 5


def test_the_shapes_have_their_sizes() -> None:
    billions = {name: shape.parameters / 1e9 for name, shape in SHAPES.items()}
    assert billions["0.5b"] == pytest.approx(0.494, abs=0.01)
    assert billions["1.7b"] == pytest.approx(1.72, abs=0.01)
    assert billions["8b"] == pytest.approx(8.19, abs=0.01)


def test_cards() -> None:
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989.4
    assert peak_tflops("NVIDIA H100 PCIe") == 756.0
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312.0
    assert peak_tflops("some other card") is None


def test_batches_divide_the_step() -> None:
    assert all(case.rows % batch == 0 for case in (*CASES, *TINY) for batch in case.batches)
    assert len({case.name for case in CASES}) == len(CASES)


def test_both_sides_begin_with_the_same_numbers(tmp_path: Any) -> None:
    import torch

    rows = write_work(tmp_path, SHAPES["tiny"], 3, small=True)
    assert len(rows) == 3
    half, single = (build_model(str(tmp_path), "cpu", weights) for weights in ("bfloat16", "float32"))
    assert half.dtype == torch.bfloat16
    assert single.dtype == torch.float32
    for a, b in zip(half.parameters(), single.parameters(), strict=True):
        assert torch.equal(a.float(), b)
    assert torch.get_default_dtype() == torch.float32


def _case(name: str, **more: Any) -> dict[str, Any]:
    ours = {"unique_tokens_per_second": 1000.0, "utilisation": 0.41, "peak_bytes": 2**30}
    return {"case": name, "runs": {"ours": ours}, "against": "TRL", "loss_gap": 0.01, "same_work": True, **more}


def test_the_bars_are_shown() -> None:
    shown = table([
        _case("dpo a full", speed=2.5, memory=0.7),
        _case("dpo b full", speed=1.5, memory=0.5),
        _case("sft c full", speed=1.1, memory=0.9),
        _case("dpo d full", speed=9.0, memory=0.1, same_work=False),
        {"case": "dpo e LoRA", "left_out": "no time"},
        {"case": "dpo f LoRA", "runs": {"ours": {"failed": "out of memory"}}},
    ])  # fmt: skip
    lines = {line.split(" | ")[0].strip("| "): line for line in shown.splitlines()}
    assert "2.50 ≥ 2: met" in lines["dpo a full"]
    assert "0.70 ≤ 0.6: NOT met" in lines["dpo a full"]
    assert "1.50 ≥ 2: NOT met" in lines["dpo b full"]
    assert "0.50 ≤ 0.6: met" in lines["dpo b full"]
    assert "met" not in lines["sft c full"]
    assert "not the same work" in lines["dpo d full"]
    assert "9.00" not in lines["dpo d full"]
    assert "no time" in lines["dpo e LoRA"]
    assert "failed" in lines["dpo f LoRA"]
    assert "0.41 (goal 0.45)" in lines["dpo a full"]


@pytest.mark.slow
def test_the_script_runs_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--quick", "--only", "ours"]) == 0
    shown = capsys.readouterr().out
    assert "| dpo tiny full |" in shown
    assert "failed" not in shown
