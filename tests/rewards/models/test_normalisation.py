"""Gain and bias: numbers by hand, what is refused, and that they stay with the model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from plaudit.errors import RewardError
from plaudit.rewards.models.model import RewardModel, ScoringOptions, normalise
from plaudit.rewards.models.normalisation import Normalisation, fit, measure


def test_gain_and_bias_by_hand() -> None:
    done = fit(measure([1.0, 2.0, 3.0, 4.0]), std=1.0)
    assert done.gain == pytest.approx(1 / math.sqrt(1.25), abs=1e-15)
    assert done.gain == pytest.approx(0.894427, abs=5e-7)
    assert done.bias == pytest.approx(-2.236068, abs=5e-7)
    after = measure([done(s) for s in (1.0, 2.0, 3.0, 4.0)])
    assert after.mean == pytest.approx(0, abs=1e-15)
    assert after.std == pytest.approx(1, abs=1e-15)


def test_the_mean_alone_keeps_the_unit() -> None:
    done = fit(measure([1.0, 2.0, 6.0]))
    assert (done.gain, done.bias) == (1.0, -3.0)
    assert fit(measure([1.0, 2.0, 6.0]), mean=2.0).bias == -1.0
    other = fit(measure([1.0, 2.0, 3.0, 4.0]), mean=5.0, std=2.0)
    assert measure([other(s) for s in (1.0, 2.0, 3.0, 4.0)]).mean == pytest.approx(5)


@pytest.mark.parametrize("scores", [[2.0], [3.0, 3.0, 3.0], [1e9, 1e9 + 1e-6]])
def test_no_spread_cannot_be_scaled(scores: list[float]) -> None:
    with pytest.raises(RewardError, match="same score") as caught:
        fit(measure(scores), std=1.0, largest=max(scores))
    assert caught.value.code == "PL702"
    assert fit(measure(scores)).bias == pytest.approx(-scores[0])  # the mean alone is fine


@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
def test_a_target_that_is_no_unit(std: float) -> None:
    with pytest.raises(RewardError, match="must be positive"):
        fit(measure([1.0, 2.0]), std=std)


def test_nothing_to_measure() -> None:
    with pytest.raises(RewardError, match="no reference answers"):
        measure([])


@pytest.mark.parametrize(
    "values",
    [
        {"gain": 1},
        {"gain": 0, "bias": 0},
        {"gain": -1, "bias": 0},
        {"gain": "x", "bias": 0},
        {"gain": 1, "bias": math.nan},
    ],
)
def test_damaged_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(RewardError) as caught:
        Normalisation.from_json(values, "here")
    assert caught.value.code == "PL702"
    assert caught.value.where == "here"


def test_json_keeps_every_bit() -> None:
    done = fit(measure([0.1, 0.7, -3.3], ["a.jsonl"]), std=1.0)
    assert Normalisation.from_json(json.loads(json.dumps(done.to_json())), "here") == done


def test_it_stays_with_the_model_and_transformers_reads_the_raw_score(
    foreign_dir: Path, tmp_path: Path, items: list[Any]
) -> None:
    folder = tmp_path / "rm"
    shutil.copytree(foreign_dir, folder)
    model = RewardModel.load(folder)
    raw = model.raw_score(items)
    assert model.score(items) == raw  # the identity
    done = normalise(model, items, std=1.0, data=["demos"])
    flat = [s for answers in model.score(items) for s in answers]
    assert measure(flat).mean == pytest.approx(0, abs=1e-12)
    assert measure(flat).std == pytest.approx(1, abs=1e-12)
    assert normalise(model, items, std=1.0, data=["demos"]) == done  # it is fitted to raw scores, whatever holds now
    assert model.save_normalisation() == folder / "plaudit.json"
    again = RewardModel.load(folder)
    assert again.normalisation == done
    assert again.score(items) == model.score(items)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": items[0][0]}, {"role": "assistant", "content": items[0][1][0]}]
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=False)
    with torch.no_grad():
        theirs = float(AutoModelForSequenceClassification.from_pretrained(folder)(input_ids=ids).logits)
    assert theirs == pytest.approx(raw[0][0], abs=1e-5)


def test_a_copy_of_the_folder_keeps_it(foreign_dir: Path, tmp_path: Path, items: list[Any]) -> None:
    model = RewardModel.load(foreign_dir)
    normalise(model, items)
    model.save(tmp_path / "copy")
    assert not (foreign_dir / "plaudit.json").exists()
    assert RewardModel.load(tmp_path / "copy").score(items) == model.score(items)


def test_a_normalisation_holds_for_one_way_of_reading(tmp_path: Path, tiny_model_dir: Path) -> None:
    from tests.rewards.models.writing import write_foreign

    folder = write_foreign(tmp_path / "rm", tiny_model_dir, chat=False)
    texts = [("Which colour?", [" Blue.", " Green."])]
    model = RewardModel.load(folder, options=ScoringOptions(append_eos=False))
    normalise(model, texts)
    model.save_normalisation()
    assert RewardModel.load(folder).score(texts) == model.score(texts)  # without EOS, as it was
    with pytest.raises(RewardError, match="its scale would not hold") as caught:
        RewardModel.load(folder, options=ScoringOptions(append_eos=True))
    assert caught.value.code == "PL702"


def test_a_damaged_card_is_named(foreign_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rm"
    shutil.copytree(foreign_dir, folder)
    (folder / "plaudit.json").write_text("[1]")
    with pytest.raises(RewardError, match="damaged") as caught:
        RewardModel.load(folder)
    assert caught.value.where == str(folder / "plaudit.json")
