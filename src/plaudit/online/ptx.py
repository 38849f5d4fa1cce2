"""PPO-ptx: a second stream of text beside the sampled answers, so that what the model could do is not unlearned.

Source: Ouyang et al. 2022 (arXiv 2203.02155), §3.5 and appendix C.4: eight times as many pretraining examples as
episodes, their gradient added to PPO's before each optimiser step, coefficient γ_ptx = 27.8 on the log-likelihood.
Deviation: the likelihood is the mean over the tokens of the step, so that γ does not depend on how long the texts are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from plaudit.config.schema import PtxSection, RunConfig
from plaudit.data.mixing import epoch_order, epoch_size
from plaudit.data.prepare import PreparedData, prepare
from plaudit.data.render import Renderer
from plaudit.methods.base import Batch
from plaudit.methods.sft import SFT
from plaudit.train.intake import mask_without_context
from plaudit.train.step import Stream
from plaudit.types import PromptGroup

_ROWS_PER_ANSWER = 8


def rows_per_step(config: RunConfig) -> int:
    """Rows beside each optimiser step."""
    ptx, rollout = config.ptx, config.rollout
    assert ptx is not None
    assert rollout is not None
    assert rollout.completions_per_prompt is not None
    return ptx.rows_per_step or _ROWS_PER_ANSWER * config.train.groups_per_step * rollout.completions_per_prompt


def take_in_texts(section: PtxSection, config: RunConfig, tokenizer: Any, max_length: int | None) -> PreparedData:
    """Read the texts.

    Raises:
        DataError: whatever is wrong with files and rows.
    """
    renderer = Renderer(tokenizer, system_prompt=config.data.system_prompt)
    found = prepare(
        list(section.data),
        "completion",
        renderer,
        max_length=max_length,
        overlong=config.data.overlong,
        invalid=config.data.invalid,
        max_drop_fraction=config.data.max_drop_fraction,
        train_on=section.train_on,
    )
    for group in found.groups:
        mask_without_context(group, tokenizer.bos_token_id)
    return found


@dataclass(slots=True)
class PtxStreams:
    """The second stream of every step: a function of seed and step, so nothing of it is checkpointed.

    Args:
        data: the texts.
        rows: per step.
        coefficient: γ_ptx.
    """

    data: PreparedData
    rows: int
    coefficient: float
    seed: int
    train_on: str
    _method: SFT = field(init=False)

    def __post_init__(self) -> None:
        self._method = self.method_of(self.train_on)
        self._method.observe(self.data.groups)

    @staticmethod
    def method_of(train_on: str) -> SFT:
        """What the texts are learned with."""
        return SFT(SFT.Config.model_validate({"train_on": train_on}))

    def __call__(self, step: int) -> list[Stream]:
        """The stream of an optimiser step, counted from 0."""
        batch = Batch(self._groups(step))
        return [Stream(self._method, batch, range(len(batch.groups)), coefficient=self.coefficient, prefix="ptx/")]

    def _groups(self, step: int) -> list[PromptGroup]:
        sizes, weights = tuple(self.data.source_sizes), tuple(self.data.source_weights)
        size = epoch_size(sizes, weights)
        places = range(step * self.rows, (step + 1) * self.rows)
        return [self.data.groups[_order(sizes, weights, self.seed, at // size)[at % size]] for at in places]


@lru_cache(maxsize=2)
def _order(sizes: tuple[int, ...], weights: tuple[float, ...], seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(epoch_order(sizes, weights, seed, epoch))
