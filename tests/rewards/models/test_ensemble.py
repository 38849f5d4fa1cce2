"""Ensembles: one scale, the combinations, and the folder that keeps them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plaudit.errors import RewardError
from plaudit.rewards.models.classifier import Classifier
from plaudit.rewards.models.ensemble import Ensemble
from plaudit.rewards.models.model import RewardModel, normalise
from plaudit.rewards.models.normalisation import measure
from tests.rewards.models.writing import write_foreign

Maker = Callable[..., Path]
REFERENCE: list[Any] = [(f"Which colour is thing {i}?", ["It is blue.", "I do not know."]) for i in range(6)]


def flat(scores: list[list[float]]) -> list[float]:
    return [s for answers in scores for s in answers]


@pytest.fixture
def members(own: Maker, foreign_dir: Path) -> list[Classifier]:
    """One from here, one from elsewhere with another way of reading and another scale."""
    return [Classifier.open(own("a", seed=1)), Classifier.open(foreign_dir)]


def test_members_share_a_scale_on_the_reference(members: list[Classifier], items: list[Any]) -> None:
    ensemble = Ensemble.build(members, REFERENCE)
    for scores in ensemble.score_members(REFERENCE):
        assert measure(flat(scores)).mean == pytest.approx(0, abs=1e-9)
        assert measure(flat(scores)).std == pytest.approx(1, abs=1e-9)
    raw = [measure(flat(m.raw_score(REFERENCE))).std for m in members]
    assert raw[0] != pytest.approx(raw[1], rel=0.5)  # else this says nothing
    text = [items[0]]
    assert np.shape(ensemble.score_members(text)) == (2, 1, 3)


def test_combinations(members: list[Classifier], items: list[Any]) -> None:
    text = items[:1]
    ensemble = Ensemble.build(members, REFERENCE, how="mean")
    a, b = (np.array(flat(scores)) for scores in ensemble.score_members(text))
    assert flat(ensemble.score(text)) == pytest.approx((a + b) / 2)
    worst = Ensemble.build(members, REFERENCE, how="min")
    assert flat(worst.score(text)) == pytest.approx(np.minimum(a, b))
    weighed = Ensemble.build(members, REFERENCE, how="uwo", uncertainty_weight=2.0)
    assert flat(weighed.score(text)) == pytest.approx((a + b) / 2 - 2.0 * ((a - b) / 2) ** 2)
    unweighed = Ensemble.build(members, REFERENCE, how="uwo", uncertainty_weight=0.0)
    assert flat(unweighed.score(text)) == flat(ensemble.score(text))


def test_the_same_member_twice_is_that_member(members: list[Classifier], items: list[Any]) -> None:
    for how in ("mean", "min", "uwo"):
        ensemble = Ensemble.build([members[0], members[0]], REFERENCE, how=how)  # type: ignore[arg-type]
        alone = ensemble.score_members(items[:1])[0]
        assert ensemble.score(items[:1]) == alone
        assert ensemble.observed is not None
        assert ensemble.observed.ratio == 1.0
        assert ensemble.observed.above_p95 == 0.0


def test_disagreement_is_watched(members: list[Classifier]) -> None:
    ensemble = Ensemble.build(members, REFERENCE)
    assert ensemble.observed is None
    ensemble.score(REFERENCE[:3])
    ensemble.score(REFERENCE[3:])
    seen = ensemble.observed
    assert seen is not None
    assert seen.ratio == pytest.approx(1.0)  # the reference itself
    assert seen.above_p95 == pytest.approx(1 / 12)
    again = ensemble.uncertainty(ensemble.score_members(REFERENCE))
    assert (again.ratio, again.above_p95) == (pytest.approx(seen.ratio, rel=1e-5), seen.above_p95)


def test_the_folder_keeps_everything_and_can_be_moved(
    members: list[Classifier], tmp_path: Path, items: list[Any]
) -> None:
    ensemble = Ensemble.build(members, REFERENCE, how="uwo", uncertainty_weight=0.1, data=["ref.jsonl"])
    ensemble.save(tmp_path / "sub" / "both")
    loaded = RewardModel.load(tmp_path / "sub" / "both")
    assert isinstance(loaded, Ensemble)
    assert loaded.score(items[:1]) == ensemble.score(items[:1])
    assert (loaded.how, loaded.uncertainty_weight, loaded.reference) == ("uwo", 0.1, ensemble.reference)
    assert [m.standard for m in loaded.members] == [m.standard for m in ensemble.members]
    sources = [m["source"] for m in json.loads((tmp_path / "sub/both/ensemble.json").read_text())["members"]]
    assert sources[0] == "../../a"


def test_an_ensemble_is_normalised_like_any_reward(members: list[Classifier], tmp_path: Path) -> None:
    ensemble = Ensemble.build(members, REFERENCE, how="min")
    with pytest.raises(RewardError, match="in no folder"):
        ensemble.save_normalisation()
    ensemble.save(tmp_path / "both")
    normalise(ensemble, REFERENCE, std=1.0)
    ensemble.save_normalisation()
    loaded = RewardModel.load(tmp_path / "both")
    after = measure(flat(loaded.score(REFERENCE)))
    assert (after.mean, after.std) == (pytest.approx(0, abs=1e-9), pytest.approx(1, abs=1e-9))
    assert loaded.raw_score(REFERENCE) != loaded.score(REFERENCE)


def refused(code: str, what: str, folder: Path) -> None:
    with pytest.raises(RewardError, match=what) as caught:
        RewardModel.load(folder)
    assert caught.value.code == code


def test_changed_missing_and_damaged_members(
    own: Maker, foreign_dir: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    a = own("a", seed=1)
    folder = tmp_path / "both"
    Ensemble.build([Classifier.open(a), Classifier.open(foreign_dir)], REFERENCE).save(folder)
    shutil.rmtree(a)
    refused("PL703", "not there any more", folder)
    own("a", seed=2)
    refused("PL703", "other weights", folder)
    shutil.rmtree(a)
    own("a", seed=1)
    RewardModel.load(folder)
    good = (folder / "ensemble.json").read_text()
    for bad in (
        "{",
        "{}",
        good.replace('"format": 1', '"format": 9'),
        good.replace('"combine": "mean"', '"combine": "x"'),
    ):
        (folder / "ensemble.json").write_text(bad)
        refused("PL703", "damaged", folder)
    (folder / "ensemble.json").write_text(good.replace('"gain"', '"gian"'))
    refused("PL702", "damaged", folder)


def test_what_is_no_ensemble(members: list[Classifier], tmp_path: Path) -> None:
    for models, options, code, what in [
        (members[:1], {}, "PL703", "at least two"),
        (members, {"uncertainty_weight": -1.0}, "PL703", "must be 0 or more"),
        (members, {"uncertainty_weight": float("nan")}, "PL703", "must be 0 or more"),
    ]:
        with pytest.raises(RewardError, match=what) as caught:
            Ensemble.build(models, REFERENCE, **options)  # type: ignore[arg-type]
        assert caught.value.code == code
    with pytest.raises(RewardError, match="same score") as caught:
        Ensemble.build(members, [("Which?", ["One.", "One."])])
    assert caught.value.code == "PL702"
    Ensemble.build(members, REFERENCE).save(tmp_path / "both")
    with pytest.raises(RewardError, match="is an ensemble itself") as caught:
        Classifier.open(tmp_path / "both")
    assert caught.value.code == "PL703"


def test_members_keep_their_way_of_reading(tmp_path: Path, tiny_model_dir: Path) -> None:
    from plaudit.rewards.models.model import ScoringOptions

    plain = ScoringOptions(append_eos=False)
    folders = [write_foreign(tmp_path / str(seed), tiny_model_dir, chat=False, seed=seed) for seed in (1, 2)]
    ensemble = Ensemble.build([Classifier.open(f, options=plain) for f in folders], REFERENCE)
    ensemble.save(tmp_path / "both")
    assert RewardModel.load(tmp_path / "both").score(REFERENCE) == ensemble.score(REFERENCE)
