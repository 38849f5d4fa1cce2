"""Mixed Preference Optimization (Wang et al. 2024, arXiv 2411.10442): a weighted sum of losses on pairs.

Objective:
    L = Σ_k w_k L_k + w_g NLL(y_w) per pair, L_k being the pair losses of other methods here. By default 0.8 · dpo
    (which of two answers is better) + 0.2 · bco_pair (whether an answer is good) + 1 · the per-token likelihood of the
    chosen answer (how to write it), the paper's combination.

When:
    DPO alone lets chosen answers degrade, as in long chains of reasoning. Any losses on pairs that share a reference
    can be mixed.

Deviations:
    The members see the same pairs and β; their other options are their defaults. A member that needs the whole step
    (aot), has no reference (simpo, cpo, orpo, slic) or moves it (tr_dpo) is refused. What members carry from step to
    step (δ of bco_pair) is in mpo's own checkpoint.

Elsewhere:
    TRL: DPOTrainer with loss_type=["sigmoid", "bco_pair", "sft"] and loss_weights=[0.8, 0.2, 1.0]; its bco_pair has no
    δ, and its likelihood is a mean over all tokens (nll_aggregation=token-mean).
    LLaMA-Factory: pref_bco_weight is the weight of bco_pair in losses, pref_ftx is nll_weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from plaudit.errors import ConfigError
from plaudit.methods.base import MethodConfig, MethodState, Role, RowField, Scores, Sums, View, mean_of
from plaudit.methods.preference.pairs import PairConfig, PairMethod, Pairs, RatioMethod
from plaudit.runs.metrics import MetricSpec, register

if TYPE_CHECKING:
    from torch import Tensor

register(MetricSpec("mpo/*", "nats", "lower", "loss of one member of the mixture, before its weight", "loss"))


def _member(name: str) -> type[PairMethod]:
    """The class of a member.

    Raises:
        ValueError: there is no such method, or its loss is not one of a pair and its reference alone.
    """
    from plaudit.methods import find

    try:
        method = find(name)
    except ConfigError as error:
        raise ValueError(error.what) from None
    if not issubclass(method, PairMethod) or method.name == "mpo":
        raise ValueError(f"{name} is no loss on pairs that could be mixed")
    if "reference" not in method.roles:
        raise ValueError(f"{name} has no reference, and the losses are mixed on the same log-ratios")
    if method.scope != "group":
        raise ValueError(f"{name} needs all pairs of a step at once")
    if method().moves_reference():
        raise ValueError(f"{name} moves its reference, which all members share")
    return method


class MPOConfig(PairConfig):
    """Options of MPO."""

    losses: dict[str, Annotated[float, Field(gt=0)]] = Field(default={"dpo": 0.8, "bco_pair": 0.2}, min_length=1)
    """Methods on pairs and their weights, for example {dpo: 0.8, bco_pair: 0.2}."""
    nll_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the likelihood term on the chosen answer."""

    @field_validator("losses")
    @classmethod
    def _can_be_mixed(cls, losses: dict[str, float]) -> dict[str, float]:
        for name in losses:
            _member(name)
        return losses


class MPOState(MethodState):
    """The states of the members."""

    members: dict[str, dict[str, Any]] = Field(default_factory=dict)


class MPO(RatioMethod):
    """DPO, BCO and the likelihood of the chosen answer at once, or any other mixture."""

    name = "mpo"
    title = "Mixed Preference Optimization"
    paper = "arXiv 2411.10442"
    reads: ClassVar[frozenset[RowField]] = frozenset({"preference"})
    Config = MPOConfig
    config: MPOConfig
    State = MPOState
    state: MPOState

    def __init__(self, config: MethodConfig | None = None) -> None:
        super().__init__(config)
        self.members: dict[str, PairMethod] = {}
        for name in self.config.losses:
            method = _member(name)
            shared = {"beta": self.config.beta} if "beta" in method.Config.model_fields else {}
            self.members[name] = method(method.Config(**shared))
        # The mixture reads what its members read; the class says what the default ones do.
        vars(self)["reads"] = frozenset[RowField]().union(*(m.reads for m in self.members.values()))

    def _with_state(self, name: str) -> PairMethod:
        """A member with its state of this step, which is kept in the mixture's."""
        member = self.members[name]
        if name in self.state.members:
            member.state = member.State.model_validate(self.state.members[name])
        return member

    def pair_loss(self, pairs: Pairs) -> Tensor:
        weighted = [w * self._with_state(name).pair_loss(pairs) for name, w in self.config.losses.items()]
        return sum(weighted[1:], start=weighted[0])

    def loss(self, role: Role, scores: Scores, view: View) -> Sums:
        sums = super().loss(role, scores, view)
        pairs = self.pairs_of(scores, view)
        for name in self.config.losses:
            sums.metrics[f"mpo/{name}"] = mean_of(self._with_state(name).pair_loss(pairs))
        return sums

    def after_step(self, metrics: Mapping[str, float]) -> None:
        carried: dict[str, dict[str, Any]] = {}
        for name in self.members:
            member = self._with_state(name)
            if type(member).updates_state():
                member.after_step(metrics)  # they share β, so the mixture's rewards are theirs
                carried[name] = member.state.model_dump(mode="json")
        self.state = MPOState(members=carried)
