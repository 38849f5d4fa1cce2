"""Weight averaging: exact where it must be, refused where its precondition does not hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from plaudit.errors import ConfigError, RewardError
from plaudit.rewards.models.averaging import average
from plaudit.rewards.models.model import RewardModel

Maker = Callable[..., Path]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    values = weights(folder)
    change(values)
    save_file({k: v.contiguous() for k, v in values.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def refused(what: str, *args: Any, **options: Any) -> RewardError:
    with pytest.raises(RewardError, match=what) as caught:
        average(*args, **options)
    assert caught.value.code == "PL704"
    return caught.value


@pytest.mark.parametrize("count", [2, 3])
def test_the_average_of_equal_members_is_the_member_to_the_bit(own: Maker, tmp_path: Path, count: int) -> None:
    member = own("a", seed=1)
    average([member] * count, tmp_path / "mean")
    mine, theirs = weights(member), weights(tmp_path / "mean")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], theirs[k]) and mine[k].dtype == theirs[k].dtype for k in mine)


def test_every_weight_is_the_mean(own: Maker, tmp_path: Path) -> None:
    folders = [own(f"m{seed}", seed=seed) for seed in range(3)]
    done = average(folders, tmp_path / "mean")
    found = weights(tmp_path / "mean")
    for name, values in found.items():
        exact = torch.stack([weights(f)[name].double() for f in folders]).mean(0)
        assert (values - exact).abs().max() < 1e-7, name
    assert (done.compared, done.accuracy) == (True, None)


def test_heads_on_frozen_features_average_as_predictions_do(own: Maker, tmp_path: Path, items: list[Any]) -> None:
    text = items[:1]
    folders = [own(f"m{seed}", noise=0.0) for seed in range(2)]
    for seed, folder in enumerate(folders):
        noise = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed))
        rewrite(folder, lambda w, noise=noise: w.update({"score.weight": w["score.weight"] + noise}))  # type: ignore[misc]
    scores = [np.array(RewardModel.load(f).score(text)[0]) for f in folders]
    average(folders, tmp_path / "mean")
    assert np.abs(scores[0] - scores[1]).max() > 1
    assert RewardModel.load(tmp_path / "mean").score(text)[0] == pytest.approx((scores[0] + scores[1]) / 2, abs=1e-5)


@pytest.mark.parametrize("part", ["", "adapter"])
def test_adapters_are_merged_before_they_are_averaged(own: Maker, tmp_path: Path, part: str) -> None:
    folders = [own(f"m{seed}", seed=seed, lora=True) for seed in (1, 2)]
    average([f / part for f in folders], tmp_path / "mean")
    name = "model.layers.0.mlp.up_proj.weight"
    start = weights(own("start", noise=0.0))[name].double()
    adapters = [load_file(f / "adapter" / "adapter_model.safetensors") for f in folders]
    key = f"base_model.model.{name.removesuffix('.weight')}"
    products = [2.0 * (a[f"{key}.lora_B.weight"].double() @ a[f"{key}.lora_A.weight"].double()) for a in adapters]
    found = weights(tmp_path / "mean")[name]
    assert (found - (start + (products[0] + products[1]) / 2)).abs().max() < 1e-6
    a, b = (sum(x[f"{key}.lora_{m}.weight"].double() for x in adapters) / 2 for m in "AB")
    apart = start + 2.0 * (b @ a)
    assert (found - apart).abs().max() > 1e-2  # the mean of the factors is something else


def test_the_average_is_a_reward_model_from_here(own: Maker, tmp_path: Path, items: list[Any]) -> None:
    folders = [own(f"m{seed}", seed=seed) for seed in range(2)]
    card = json.loads((folders[0] / "plaudit.json").read_text())
    done = average(folders, tmp_path / "mean")
    written = json.loads((tmp_path / "mean" / "plaudit.json").read_text())
    assert written["kind"] == "reward"
    assert written["averaged"] == [str(f) for f in folders]
    assert written["start_compared"] is True
    assert [written[k] for k in ("start_fingerprint", "head_fingerprint")] == [
        card[k] for k in ("start_fingerprint", "head_fingerprint")
    ]
    assert "no normalisation yet" in done.notes[-1]
    RewardModel.load(tmp_path / "mean").score(items[:1])
    average([tmp_path / "mean", folders[0]], tmp_path / "again")  # it can be averaged further


# -- preconditions


def test_members_must_share_start_and_head(own: Maker, tmp_path: Path, tiny_model_dir: Path) -> None:
    from tests.conftest import write_tiny_model
    from tests.rewards.models.writing import write_own

    a, b = own("a", seed=1), own("b", seed=2)
    other_head = own("head", seed=3, head=0.01)
    other_start = write_own(tmp_path / "start", write_tiny_model(tmp_path / "lm", seed=9))
    error = refused("another head", [a, b, other_head], tmp_path / "mean")
    assert error.where == str(other_head)  # the first that differs
    error = refused("another model", [a, other_start, other_head], tmp_path / "mean")
    assert error.where == str(other_start)
    assert not any((tmp_path / "mean").glob("*"))


def test_members_without_fingerprints(foreign_dir: Path, own: Maker, tmp_path: Path) -> None:
    refused("does not say what it started from", [foreign_dir, foreign_dir], tmp_path / "mean")
    refused("does not say what it started from", [own("a"), foreign_dir], tmp_path / "mean")
    done = average([foreign_dir, foreign_dir], tmp_path / "mean", unchecked=True)
    assert not done.compared
    assert any(note.startswith("NOT CHECKED") for note in done.notes)
    card = json.loads((tmp_path / "mean" / "plaudit.json").read_text())
    assert card["start_compared"] is False
    assert card["kind"] == "classifier"  # it still reads text as models from elsewhere do
    assert "start_fingerprint" not in card


def test_members_must_read_alike_and_have_one_shape(own: Maker, tmp_path: Path, tiny_model_dir: Path) -> None:
    a, b = own("a", seed=1), own("b", seed=2)
    template = b / "chat_template.jinja"
    kept = template.read_text()
    template.write_text(kept + "{# another #}")
    assert refused("reads text otherwise", [a, b], tmp_path / "mean").where == str(b)
    template.write_text(kept)
    config = json.loads((b / "config.json").read_text())
    (b / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    rewrite(b, lambda w: [w.pop(k) for k in list(w) if ".layers.1." in k] and None)
    assert refused("another shape", [a, b], tmp_path / "mean").where == str(b)


def test_one_member_and_a_folder_in_use(own: Maker, tmp_path: Path) -> None:
    a = own("a")
    refused("at least two", [a], tmp_path / "mean")
    with pytest.raises(ConfigError, match="not empty"):
        average([a, a], a)
    with pytest.raises(ConfigError, match="tolerance"):
        average([a, a], tmp_path / "mean", tolerance=2.0)


# -- the check


def judged_by(model: RewardModel) -> list[dict[str, Any]]:
    """Pairs that the model orders rightly by construction, and one ranking."""
    answers = [
        "blue",
        "green",
        "red",
        "I do not know",
        "The capital of France is Paris.",
        "cats",
        "dogs and cats",
        "no",
    ]
    items = [(f"What about thing {i}?", answers) for i in range(4)]
    rows = []
    for (prompt, texts), scores in zip(items, model.score(items), strict=True):
        order = np.argsort(scores)[::-1]
        rows.append(
            {"prompt": prompt, "completions": texts, "ranks": [int(np.where(order == k)[0][0]) for k in range(8)]}
        )
    return rows


def permuted(values: dict[str, Tensor]) -> None:
    """Another order of the same hidden units: the same function, far away in weight space."""
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    for layer in range(2):
        mlp = f"model.layers.{layer}.mlp"
        for name in ("gate_proj", "up_proj"):
            values[f"{mlp}.{name}.weight"] = values[f"{mlp}.{name}.weight"][order]
        values[f"{mlp}.down_proj.weight"] = values[f"{mlp}.down_proj.weight"][:, order]


def test_a_connected_average_passes_its_check(own: Maker, tmp_path: Path) -> None:
    a = own("a", seed=1)
    done = average([a, a], tmp_path / "mean", check=judged_by(RewardModel.load(a)))
    assert (done.accuracy, done.member_accuracies) == (1.0, [1.0, 1.0])
    assert "accuracy on 112 pairs: average 1.0000" in done.notes[1]


def test_an_average_that_is_no_reward_model_any_more(own: Maker, tmp_path: Path, items: list[Any]) -> None:
    """Both members are equally good and equal in every card, and between them there is nothing."""
    a = own("a", seed=1, noise=0.3)
    b = tmp_path / "b"
    shutil.copytree(a, b)
    rewrite(b, permuted)
    assert RewardModel.load(b).score(items[:1])[0] == pytest.approx(RewardModel.load(a).score(items[:1])[0], abs=1e-4)
    rows = judged_by(RewardModel.load(a))
    error = refused("worse than its members", [a, b], tmp_path / "mean", check=rows)
    assert "members 1.0000, 1.0000" in str(error)
    assert not any((tmp_path / "mean").glob("*"))
    done = average([a, b], tmp_path / "mean", check=rows, tolerance=1.0)
    assert done.accuracy is not None
    assert done.accuracy < 0.98
