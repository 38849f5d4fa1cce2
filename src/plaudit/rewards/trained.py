"""A trained reward model as a reward: ours, an ensemble, or any sequence classifier with one label."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from plaudit.config.packages import need_training_packages
from plaudit.data.turns import turns_key
from plaudit.errors import PlauditError, RewardError
from plaudit.rewards.contract import FailureKind, Reward, RewardOptions, RewardResult, Sample
from plaudit.rewards.models.observations import observations

if TYPE_CHECKING:
    from plaudit.models.forest_model import ForestModel
    from plaudit.rewards.models.model import Looked, RewardModel


class ModelOptions(RewardOptions):
    """Which model, and how answers are put to it."""

    path: str
    """Run directory of `plaudit reward`, model folder, adapter folder, ensemble folder, or hub id."""
    base: str | None = None
    """The base model, where an adapter does not name a usable one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What it computes in."""
    tokens: int = Field(8192, ge=1)
    """Packed tokens of one forward pass."""
    overlong: Literal["error", "truncate"] = "error"
    """Beyond the model's positions: the row cannot be used, or loses its oldest tokens."""
    plain_text: bool | None = None
    """Models from elsewhere: read text as it is instead of as a chat."""
    append_eos: bool | None = None
    """Models from elsewhere: end plain text with EOS."""


ABOVE_RANGE, DISAGREEMENT = OF_A_MODEL = ("above_range", "disagreement")
"""Parts of a watched model's results: 1 for a score above all that it was measured on; how far an ensemble's members
are apart."""


class ModelReward(Reward):
    """The normalised score of a reward model, with its own tokenizer and template.

    The model is loaded when it is first needed. Answers to one prompt are scored in one packed row.
    """

    kind = "model"
    exact = False  # packed, a model rounds by what is beside the answer
    title = "A reward model: a run of `plaudit reward`, an ensemble, or any classifier with one label"
    Options = ModelOptions

    def __init__(self, options: RewardOptions) -> None:
        super().__init__(options)
        need_training_packages()
        self._model: RewardModel | None = None
        self.shared = False
        """Whether it scores with the policy's own weights: it must not run beside sampling or training then."""
        self.watched = self.with_latents = False
        """Whether results carry what a run watches beside a score (`OF_A_MODEL`), and vectors that its head reads."""
        self._lock = threading.Lock()

    @property
    def model(self) -> RewardModel:
        """The model, loaded.

        Raises:
            PlauditError: PL3xx and PL701-PL703 from loading.
        """
        if self._model is None:
            from plaudit.rewards.models.model import RewardModel

            self._model = RewardModel.load(self.options.path, **self._given())
        return self._model

    def _given(self) -> dict[str, Any]:
        """How it is loaded."""
        from plaudit.rewards.models.model import ScoringOptions

        o = self.options
        scoring = ScoringOptions(o.tokens, o.overlong, o.plain_text, o.append_eos)
        return {"base": o.base, "precision": o.precision, "options": scoring}

    def use(self, model: RewardModel, *, shared: bool = False) -> None:
        """Score with a model that is there already, instead of loading it.

        Args:
            model: what the options name.
            shared: it is an adapter on the policy's base (`plaudit.rewards.models.shared`). Its forward passes switch
                the policy's adapters, so nobody may score from another thread while the policy samples or is trained.
        """
        self._model, self.shared = model, shared

    def share(self, policy: ForestModel) -> str | None:
        """Score through the policy's base, where the model is an adapter on it.

        Args:
            policy: it is given the role "reward".

        Returns:
            None, or why that cannot be; it is then loaded apart when it is first needed.

        Raises:
            PlauditError: PL3xx and PL701-PL703, the model is not there or not usable.
        """
        from plaudit.rewards.models.shared import share_reward

        found = share_reward(policy, self.options.path, **self._given())
        if isinstance(found, str):
            return found
        self.use(found, shared=True)
        return None

    def fingerprint(self) -> str:
        """With when the model's folder was last written: the path alone does not say what is in it."""
        folder = Path(self.options.path).expanduser()
        files = sorted(f for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else []
        state = [(str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return f"{super().fingerprint()}:{state}"

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`."""
        groups: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            groups.setdefault(turns_key(sample.prompt), []).append(i)
        results: dict[int, RewardResult] = {}
        with self._lock:  # one model, one forward pass at a time
            for which in self._batches(list(groups.values())):
                results |= self._scored(samples, which)
        return [results[i] for i in range(len(samples))]

    def _batches(self, groups: list[list[int]]) -> list[list[list[int]]]:
        return [groups[start : start + 64] for start in range(0, len(groups), 64)]

    def _scored(self, samples: Sequence[Sample], groups: list[list[int]]) -> dict[int, RewardResult]:
        """Scores of groups of answers to the same prompt; one that cannot be scored is found, and costs itself only."""
        items: list[Any] = [(samples[g[0]].prompt, [samples[i].completion for i in g]) for g in groups]
        try:
            looked = self.model.look(items, latents=self.with_latents) if self.watched else None
            scores = self.model.score(items) if looked is None else looked.scores
        except RewardError as error:
            if error.code != "PL705":
                raise
            if sum(map(len, groups)) == 1:
                return {groups[0][0]: RewardResult.failed(_kind(error), error.what)}
            return {k: r for g in groups for i in g for k, r in self._scored(samples, [[i]]).items()}
        except PlauditError as error:
            if error.code != "PL208" or sum(map(len, groups)) > 1:
                raise
            return {groups[0][0]: RewardResult.failed("bad_row", error.what)}
        flat = zip((i for g in groups for i in g), (s for answers in scores for s in answers), strict=True)
        results = {i: RewardResult.of(score) for i, score in flat}
        return results if looked is None else self._beside(results, groups, looked)

    def _beside(
        self, results: dict[int, RewardResult], groups: list[list[int]], looked: Looked
    ) -> dict[int, RewardResult]:
        """The results with what is watched."""
        highest, found = self.model.highest, {}
        for g, which in enumerate(groups):
            for a, i in enumerate(which):
                parts = {}
                if highest is not None:
                    parts[ABOVE_RANGE] = float(looked.scores[g][a] > highest)
                if looked.spread is not None:
                    parts[DISAGREEMENT] = looked.spread[g][a]
                found[i] = replace(results[i], parts=parts)
                if looked.latents is not None:
                    found[i] = found[i].beside({self.name: looked.latents[g][a]})
        return found

    def remarks(self) -> list[str]:
        """How it was loaded, what was cut, and how far an ensemble's members disagree."""
        return [] if self._model is None else [*self._model.notes, *observations(self._model)]

    def close(self) -> None:
        """Let the model go."""
        self._model, self.shared = None, False


def _kind(error: RewardError) -> FailureKind:
    return "not_finite" if "the score" in error.what else "bad_row"
