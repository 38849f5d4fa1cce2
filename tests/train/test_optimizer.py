"""Optimiser, schedule of the rate, clipping; what a gradient that is not a number does; what reads the device."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from plaudit.config.schema import TrainConfig
from plaudit.errors import TrainingError
from plaudit.methods.base import Role
from plaudit.train import loop
from plaudit.train.loop import Trainer
from plaudit.train.optimizer import (
    build_optimizer,
    clip_by_role,
    clip_gradients,
    learning_rate_factor,
    norm_over,
    parameter_groups,
    set_learning_rates,
    step_unless_not_finite,
    warmup_steps,
)
from tests.train import runs


def factors(total: int, **options: Any) -> list[float]:
    config = TrainConfig(**options)
    return [learning_rate_factor(config, s, total) for s in range(total)]


def test_linear_without_warm_up():
    assert factors(4, warmup_fraction=0) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_warm_up_rises_to_the_peak():
    assert factors(6, warmup_steps=3, schedule="constant") == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert factors(10, warmup_fraction=0.2) == pytest.approx(
        [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )


def test_cosine_and_its_floor():
    assert factors(4, warmup_fraction=0, schedule="cosine") == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * s / 4)) for s in range(4)]
    )
    assert factors(4, warmup_fraction=0, schedule="cosine", min_lr_ratio=0.2)[2] == pytest.approx(0.6)
    assert factors(4, warmup_fraction=0, min_lr_ratio=0.5) == pytest.approx([1, 0.875, 0.75, 0.625])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("total", [1, 2, 3, 50])
def test_every_step_has_a_rate(schedule, total):
    """A step at rate 0 would be wasted; a warm-up longer than the run would never arrive."""
    for warm in (0, 1, 10, 1000):
        found = factors(total, schedule=schedule, warmup_steps=warm)
        assert all(0 < f <= 1 for f in found)
    assert warmup_steps(TrainConfig(warmup_steps=1000), total) == total - 1


def test_vectors_have_no_weight_decay():
    net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    groups = parameter_groups(dict(net.named_parameters()), 0.1)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 0.1), (3, 0.0)]
    assert len(parameter_groups({"a": nn.Parameter(torch.ones(2, 2))}, 0.1)) == 1


def test_adamw_is_adamw():
    """One step by hand: decoupled decay, bias correction."""
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    config = TrainConfig(weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6)
    optimizer = build_optimizer(config, {"w": weight}, 0.01)
    for gradient in ([0.5, 3.0], [-0.5, 1.0]):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    w, m, v = torch.tensor([1.0, -2.0]), torch.zeros(2), torch.zeros(2)
    for t, gradient in enumerate(([0.5, 3.0], [-0.5, 1.0]), start=1):
        g = torch.tensor(gradient)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        w = w * (1 - 0.01 * 0.1) - 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-6)
    torch.testing.assert_close(weight[0], w, atol=1e-6, rtol=0)


def test_clipping_scales_all_gradients_alike():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert float(clip_gradients(parameters, None)) == 5.0
    assert parameters[1].grad.item() == 4.0
    assert float(clip_gradients(parameters, 1.0)) == 5.0
    assert parameters[0].grad[0].item() == pytest.approx(0.6, rel=1e-5)
    assert parameters[1].grad.item() == pytest.approx(0.8, rel=1e-5)
    assert float(clip_gradients(parameters, 10.0)) == pytest.approx(1.0, rel=1e-5)
    assert parameters[1].grad.item() == pytest.approx(0.8, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    weights = {"a": nn.Parameter(torch.ones(2, 2)), "b": nn.Parameter(torch.ones(2))}
    optimizer = build_optimizer(TrainConfig(weight_decay=0.1), weights, 0.1)
    for value in (1.0, bad, 1.0):
        before = {n: w.detach().clone() for n, w in weights.items()}
        state = {k: v.clone() for p in weights.values() for k, v in optimizer.state[p].items()}
        for w in weights.values():
            w.grad = torch.full_like(w, 1.0)
        weights["b"].grad[1] = value
        step_unless_not_finite(optimizer, clip_gradients(list(weights.values()), 1.0))
        moved = [not torch.equal(before[n], w) for n, w in weights.items()]
        assert moved == [math.isfinite(value)] * 2
        if not math.isfinite(value):
            after = {k: v for p in weights.values() for k, v in optimizer.state[p].items()}
            assert all(torch.equal(after[k], v) for k, v in state.items()), "moments and step count stay too"


# -- roles with a rate and a limit of their own


def two_roles() -> dict[Role, dict[str, nn.Parameter]]:
    torch.manual_seed(0)
    return {
        "policy": {"a": nn.Parameter(torch.randn(3, 2)), "b": nn.Parameter(torch.randn(2))},
        "critic": {"c": nn.Parameter(torch.randn(4, 2)), "d": nn.Parameter(torch.randn(1))},
    }


def give_gradients(weights: Mapping[Role, Mapping[str, nn.Parameter]], scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1)
    for role, own in weights.items():
        for w in own.values():
            w.grad = torch.randn(w.shape, generator=generator) * (scale if role == "critic" else 1.0)


def test_each_role_moves_as_it_would_alone():
    """One optimiser with two rates is two optimisers: over steps, with weight decay and clipping."""
    config = TrainConfig(weight_decay=0.1)
    peaks, limits = {"policy": 0.01, "critic": 0.3}, {"policy": 0.5, "critic": 2.0}
    together, apart = two_roles(), two_roles()
    optimizer = build_optimizer(config, together, peaks)
    alone = {role: build_optimizer(config, apart[role], peaks[role]) for role in apart}
    for step in range(3):
        give_gradients(together, 50.0)
        give_gradients(apart, 50.0)
        factor = learning_rate_factor(config, step, 5)
        set_learning_rates(optimizer, peaks, factor)
        norms = clip_by_role(together, limits)
        step_unless_not_finite(optimizer, norm_over(norms.values()))
        for role, single in alone.items():
            norm = clip_gradients(list(apart[role].values()), limits[role])
            assert torch.equal(norm, norms[role])
            set_learning_rates(single, {role: peaks[role]}, factor)
            step_unless_not_finite(single, norm)
        for role, own in together.items():
            assert all(torch.equal(w, apart[role][n]) for n, w in own.items())
    assert [(g["role"], g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (role, pytest.approx(peaks[role] * factor), decay) for role in peaks for decay in (0.1, 0.0)
    ]


def test_a_large_gradient_of_the_critic_does_not_shrink_the_policys():
    weights = two_roles()
    give_gradients(weights, 1e4)
    before = [w.grad.clone() for w in weights["policy"].values()]
    norms = clip_by_role(weights, {"policy": None, "critic": 1.0})
    assert all(torch.equal(w.grad, b) for w, b in zip(weights["policy"].values(), before, strict=True))
    assert float(clip_gradients(list(weights["critic"].values()), None)) == pytest.approx(1.0, rel=1e-4)
    whole = torch.nn.utils.get_total_norm([w.grad for w in weights["policy"].values()])
    assert float(norms["policy"]) == pytest.approx(float(whole))
    assert float(norm_over(norms.values())) == pytest.approx(
        float((norms["policy"] ** 2 + norms["critic"] ** 2) ** 0.5)
    )
    assert norm_over([whole]) is whole, "a run with one role has the bits that it always had"


@pytest.mark.parametrize("role", ["policy", "critic"])
def test_a_role_without_a_gradient_stays(role):
    """A critic that learns alone at first: the policy's weights do not even decay."""
    weights = two_roles()
    optimizer = build_optimizer(TrainConfig(weight_decay=0.1), weights, {"policy": 0.1, "critic": 0.1})
    give_gradients(weights)
    for w in weights[role].values():
        w.grad = None
    before = {r: [w.detach().clone() for w in own.values()] for r, own in weights.items()}
    norms = clip_by_role(weights, {"policy": 1.0, "critic": 1.0})
    step_unless_not_finite(optimizer, norm_over(norms.values()))
    assert float(norms[role]) == 0
    for r, own in weights.items():
        same = [torch.equal(w, b) for w, b in zip(own.values(), before[r], strict=True)]
        assert same == [r == role] * 2


@pytest.mark.parametrize("role", ["policy", "critic"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_role_that_is_not_finite_stops_the_step_of_both(role, bad):
    weights = two_roles()
    optimizer = build_optimizer(TrainConfig(), weights, {"policy": 0.1, "critic": 0.1})
    give_gradients(weights)
    next(iter(weights[role].values())).grad[0, 0] = bad
    before = [w.detach().clone() for own in weights.values() for w in own.values()]
    norms = clip_by_role(weights, {"policy": 1.0, "critic": None})
    step_unless_not_finite(optimizer, norm_over(norms.values()))
    after = [w for own in weights.values() for w in own.values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_rates_come_from_the_configuration_after_a_resume():
    """The groups of a checkpoint bring the rates back that it was written with, and those of older ones no roles."""
    weights = two_roles()
    first = build_optimizer(TrainConfig(), weights, {"policy": 0.1, "critic": 0.2})
    second = build_optimizer(TrainConfig(), weights, {"policy": 0.5, "critic": 0.6})
    second.load_state_dict(first.state_dict())
    set_learning_rates(second, {"policy": 0.5, "critic": 0.6}, 0.5)
    assert [g["lr"] for g in second.param_groups] == [0.25, 0.25, 0.3, 0.3]
    plain = build_optimizer(TrainConfig(), weights["policy"], 0.1)
    again = build_optimizer(TrainConfig(), {"policy": weights["policy"]}, {"policy": 0.1})
    again.load_state_dict(plain.state_dict())
    set_learning_rates(again, {"policy": 0.4}, 0.5)
    assert [g["lr"] for g in again.param_groups] == [0.2, 0.2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_eight_bit_without_a_gpu_is_refused(name, options):
    with pytest.raises(TrainingError, match="PL405") as caught:
        runs.train_here("sft", options("sft", **{"train.optimizer": name}))
    assert "needs a GPU" in str(caught.value)
    assert "train.optimizer" in str(caught.value)


# -- through a run


@pytest.mark.parametrize("every", [1, 3])
def test_a_nan_stops_the_run_with_advice_and_leaves_the_weights(every, options, monkeypatch):
    """Only that step's loss is broken; the model in memory is the one before it."""
    found: list[dict[str, torch.Tensor]] = []
    original = Trainer._train_step

    def poisoned(self: Trainer) -> None:
        if self.progress.step == 3:
            with torch.no_grad():
                found.append({n: w.clone() for n, w in self.masters.weights.items()})
            hook = self.masters.parameters[0].register_hook(lambda g: g * math.nan)
            original(self)
            hook.remove()
            found.append({n: w.detach().clone() for n, w in self.masters.weights.items()})
        else:
            original(self)

    monkeypatch.setattr(Trainer, "_train_step", poisoned)
    changes = {"log.every": every, "checkpoint.every": 50, "eval.every": 50}
    with pytest.raises(TrainingError) as caught:
        runs.train_here("sft", options("sft", **changes))
    assert caught.value.code == "PL402"
    assert ("at step 4" if every == 1 else "in one of the steps 4 to 6") in str(caught.value)
    assert "grad_norm not finite" in str(caught.value)
    assert "train.learning_rate" in str(caught.value)
    assert runs.difference(*found) is None


DOCUMENTED = {
    # transformers asks once per forward whether the position ids are those of a packed row, unless it is given a mask.
    ("__bool__", "transformers.masking_utils"),
}


class _Counted:
    """Counts what makes the host wait for the device."""

    NAMES = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "cpu")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.active = False
        for name in self.NAMES:
            monkeypatch.setattr(torch.Tensor, name, self._wrap(name, getattr(torch.Tensor, name)))

    def _wrap(self, name: str, function: Any) -> Any:
        def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_globals.get("__name__")
            if self.active and (name, caller) not in DOCUMENTED:
                self.calls.append(f"{name} by {caller}")
            return function(tensor, *args, **kwargs)

        return counted


@pytest.mark.parametrize(("method", "variant"), runs.cells(("full", "lora", "bf16"), others=False))
def test_nothing_is_read_from_the_device_between_log_steps(method, variant, options, monkeypatch):
    """Exempt by contract: losses over a whole step (split scores), answers paired anew (scored before the loss), states
    that follow the metrics, moving references (asked anew in every step), and steps that begin with sampling."""
    method_class = runs.available()[method]
    if (
        method_class.scope == "step"
        or method_class.fresh_completions
        or method_class.updates_state()
        or method_class().moves_reference()
    ):
        pytest.skip("documented: reads its scores or metrics once a step")
    counted = _Counted(monkeypatch)
    steps: list[list[str]] = []
    original = Trainer._train_step

    def watched(self: Trainer) -> None:
        # The reference of a step is on the host: it is a constant that came from the cache.
        samples = method_class.is_online() and self.progress.step % self.schedule.steps_per_batch == 0
        first, counted.calls, counted.active = self.progress.step == 0, [], True
        try:
            original(self)
        finally:
            counted.active = False
        if not first and not samples:
            steps.append(counted.calls)

    runs.train_here(
        method, options(method, "warm", **runs.VARIANTS[variant], **{"train.max_steps": 6, "train.epochs": 3.0})
    )
    monkeypatch.setattr(Trainer, "_train_step", watched)
    changes = {"log.every": 5, "train.max_steps": 6, "train.epochs": 3.0, "eval.every": 50, "checkpoint.every": 50}
    warm = options(method, "warm")
    cache = {key: warm[key] for key in ("run.reference_cache",) if key in warm}
    runs.train_here(method, options(method, "run", **runs.VARIANTS[variant], **changes, **cache))
    assert steps == [[]] * (3 if method_class.is_online() else 5)


def test_metrics_are_means_over_their_window(options):
    """log.every=2 shows the mean of two steps, weighted by their counts."""
    shared = {"train.max_steps": 7, "eval.every": 50, "checkpoint.every": 50}
    single = runs.train_here("sft", options("sft", "single", **shared))
    double = runs.train_here("sft", options("sft", "double", **shared, **{"log.every": 2}))
    one = {line["step"]: line for line in runs.lines(single.run_dir / "metrics.jsonl") if "loss" in line}
    two = {line["step"]: line for line in runs.lines(double.run_dir / "metrics.jsonl") if "loss" in line}
    assert sorted(two) == [1, 2, 4, 6, 7]
    for step in (4, 6):
        for name in ("loss", "grad_norm"):
            assert two[step][name] == pytest.approx((one[step - 1][name] + one[step][name]) / 2, rel=1e-5)
    assert two[7]["loss"] == one[7]["loss"]


def test_peak_memory_names_its_unit():
    assert loop.peak_memory_gb(torch.device("cpu")) > 0.05
