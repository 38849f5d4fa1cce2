"""The worker's own measurement, on a real optimiser and real memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.harness import ROOT
from benchmarks.measure import Mark, Recorder

# In a process of its own: the optimiser hook is global, and memory has to start from a known state.
TWO_STEPS = """
import torch
from benchmarks.measure import Recorder

class Trunk(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 4)
    def forward(self, input_ids):
        return self.table(input_ids)

recorder = Recorder()
recorder.count_tokens(Trunk)
recorder.start()
trunk = Trunk()
optimizer = torch.optim.AdamW(trunk.parameters())
for step in range(3):
    held = torch.ones(64 * 2**20 // 4) if step == 1 else None
    with torch.no_grad():
        trunk(torch.zeros(1, 5, dtype=torch.long))
    trunk(input_ids=torch.zeros(2, 3, dtype=torch.long)).sum().backward()
    optimizer.step()
held = torch.ones(256 * 2**20 // 4)  # after the last step: not part of the measurement
result = recorder.result([0.1, 0.2, 0.3])
assert result["steps"] == 2, result
assert result["grad_tokens"] == 12, result
assert result["reference_tokens"] == 10, result
assert 64 * 2**20 <= result["peak_bytes"] < 160 * 2**20, result
assert torch.__version__.startswith(result["versions"]["torch"]), result
"""


@pytest.mark.slow
def test_steps_tokens_and_peak_memory_of_the_window() -> None:
    done = subprocess.run([sys.executable, "-c", TWO_STEPS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_warm_up_step_is_not_in_the_window() -> None:
    recorder = Recorder(baseline_bytes=100)
    recorder.marks = [Mark(10.0, 5.0, 300, 7, 3), Mark(11.0, 5.5, 900, 9, 4), Mark(14.0, 7.0, 900, 17, 6)]
    result = recorder.result([0.7, 0.6, 0.5])
    assert (result["steps"], result["seconds"], result["cpu_seconds"]) == (2, 4.0, 2.0)
    assert (result["grad_tokens"], result["reference_tokens"], result["peak_bytes"]) == (10, 3, 800)


def test_a_missing_loss_is_an_error() -> None:
    recorder = Recorder()
    recorder.marks = [Mark(0.0, 0.0, 0, 0, 0)]
    with pytest.raises(RuntimeError, match="0 losses were reported for 1 optimiser steps"):
        recorder.result([])


def test_work_done_ahead_is_charged_by_its_share_and_only_before_the_first_step() -> None:
    recorder = Recorder()

    def score(tokens: int) -> None:
        recorder.no_grad_tokens += tokens

    charged = recorder.charge_ahead(score)
    score(3)  # a self-test: neither charged nor part of the window
    charged(40)
    recorder.ahead_wall, recorder.ahead_cpu = 8.0, 6.0
    recorder.marks.append(Mark(10.0, 5.0, 0, 0, recorder.no_grad_tokens))
    charged(5)
    recorder.marks.append(Mark(12.0, 6.0, 0, 0, recorder.no_grad_tokens))
    result = recorder.result([0.7, 0.6], ahead_share=0.5)
    assert (result["seconds"], result["cpu_seconds"], result["ahead_seconds"]) == (6.0, 4.0, 4.0)
    assert (result["reference_tokens"], result["uncharged_tokens"]) == (25, 3)
