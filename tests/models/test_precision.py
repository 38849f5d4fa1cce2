"""Whether bf16 pays on this processor is measured, and said."""

from __future__ import annotations

import pytest
import torch

from plaudit.models import precision
from plaudit.models.load import prepare_model
from tests import zoo


def test_the_speed_is_a_measurement() -> None:
    assert 0.005 < precision.bf16_speed_on_cpu() < 200


@pytest.mark.parametrize(("speed", "said"), [(0.15, True), (0.79, True), (0.8, False), (2.3, False)])
def test_slow_bf16_is_said(speed: float, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bf16_speed_on_cpu", lambda: speed)
    note = precision.bf16_note()
    assert (note is not None) == said
    if note is not None:
        assert f"{speed:.2f} times the speed of fp32" in note


@pytest.mark.skipif(torch.cuda.is_available(), reason="the model goes to the GPU")
@pytest.mark.parametrize("wanted", ["bf16", "fp32"])
def test_a_run_says_it(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from plaudit.config.schema import ModelConfig

    monkeypatch.setattr(precision, "bf16_speed_on_cpu", lambda: 0.15)
    config = ModelConfig.model_validate({"path": "memory", "precision": wanted})
    notes = prepare_model(zoo.build("llama"), None, config).notes
    assert any("0.15 times the speed of fp32" in n for n in notes) == (wanted == "bf16")
