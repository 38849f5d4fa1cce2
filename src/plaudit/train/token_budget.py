"""`train.tokens_per_microbatch: auto`: measured before the first step, said in one line, kept with the run.

All processes measure the same sizes in step and decide on the worst of each measurement, so they take the same number.
A run that goes on takes the number that it was started with: another one would be another run, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plaudit.config.schema import RunConfig
from plaudit.errors import TrainingError
from plaudit.methods.base import Method
from plaudit.models.shards import local_size
from plaudit.runs.plan import InWords
from plaudit.train.cast import Cast
from plaudit.train.memory import Meter, meter_for
from plaudit.train.parallel import World
from plaudit.train.rehearsal import Rehearsal, Workload
from plaudit.train.roles_line import ADAM_BYTES
from plaudit.train.token_choice import Bounds, Choice, DoesNotFit, Measure, Measurement, choose, fits
from plaudit.types import PromptGroup

UNMEASURED = 4096
"""Where nothing tells how much memory a process has."""
_TIGHT = 0.05
"""The margin that a run needs which goes on elsewhere with the number that it has."""
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Packed tokens per forward pass, and whether they were chosen here."""

    tokens: int
    auto: bool = False

    @property
    def row(self) -> InWords:
        """For the plan."""
        text = f"{self.tokens:,}{' (auto)' if self.auto else ''}"
        return InWords(text, tokens_per_microbatch=self.tokens, tokens_per_microbatch_auto=self.auto)


def with_tokens(config: RunConfig, budget: TokenBudget) -> RunConfig:
    """The configuration as everything behind the choice sees it: with a number."""
    train = config.train.model_copy(update={"tokens_per_microbatch": budget.tokens})
    return config.model_copy(update={"train": train})


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run will compute and hold.

    Args:
        workloads: the streams of the largest step.
        held: bytes that the run will hold besides gradients and optimiser (a second copy of the model).
    """

    workloads: Sequence[Workload]
    held: int = 0

    @classmethod
    def of(
        cls,
        config: RunConfig,
        method: Method,
        bos_id: int | None,
        groups: Sequence[PromptGroup],
        temperature: float,
    ) -> Demand:
        """That of a run on groups that are there."""
        return cls([Workload.of(method, groups, config.train.groups_per_step, bos_id, temperature)])


@dataclass(slots=True)
class Settling:
    """Finds the number of a run.

    Args:
        cast: who plays which role, before the first step.
        run: its directory; only the main process writes to it.
        say: takes lines for the log.
    """

    config: RunConfig
    cast: Cast
    world: World
    run: Any
    say: Callable[[str], None]

    def budget(self, demand: Callable[[], Demand]) -> TokenBudget:
        """The number of the configuration, or the one of the run so far, or one that is measured.

        Args:
            demand: asked only where it is measured.

        Raises:
            TrainingError: PL406, the longest unit does not fit; or the run's number does not fit any more.
        """
        asked = self.config.train.tokens_per_microbatch
        if asked != "auto":
            return TokenBudget(asked)
        recorded = self.world.from_main(self.run.token_budget() if self.world.is_main else None)
        meter = meter_for(self.cast.trained.device)
        if recorded is not None:
            tokens = int(recorded["tokens"])
            self._check_again(tokens, recorded, meter, demand)
            self.say(f"tokens per micro-batch: {tokens:,} (auto): measured when the run was started")
            return TokenBudget(tokens, auto=True)
        if meter is None:
            self.say(
                f"tokens per micro-batch: {UNMEASURED:,} (auto): not measured, because nothing here tells how much "
                "memory a process uses (on a CPU the package psutil would)"
            )
            self._record(UNMEASURED, {"reason": "unmeasured", "bytes": 0})
            return TokenBudget(UNMEASURED, auto=True)
        wanted = demand()
        try:
            choice = self._measured(meter, wanted)
        except DoesNotFit as error:
            raise self._refusal(error, wanted) from None
        line = line_of(choice, _longest(wanted).method.unit)
        self._record(
            choice.tokens,
            {
                "reason": choice.reason,
                "bytes": choice.bytes,
                "free": choice.free,
                "margin": choice.margin,
                "measured": [{"tokens": m.tokens, "bytes": m.bytes, "seconds": m.seconds} for m in choice.measured],
                "line": line,
            },
        )
        self.say(line)
        return TokenBudget(choice.tokens, auto=True)

    def _record(self, tokens: int, facts: dict[str, Any]) -> None:
        if self.world.is_main:
            self.run.write_token_budget({"tokens": tokens, "device": self.cast.trained.device.type, **facts})

    # -- measuring

    def fitting(self, tokens: int, demand: Demand) -> tuple[Choice, int] | None:
        """Whether micro-batches of so many tokens fit: a choice of fewer where they do not. All processes ask together.

        Returns:
            The choice, and the bytes that this process held before; None where nothing tells how much memory there is.

        Raises:
            TrainingError: PL406, not even the longest unit does.
        """
        meter = meter_for(self.cast.trained.device)
        if meter is None:
            return None
        used = meter.used()
        try:
            return self._measured(meter, demand, at_most=tokens, decide=fits), used
        except DoesNotFit as error:
            raise self._refusal(error, demand) from None

    def _measured(
        self,
        meter: Meter,
        demand: Demand,
        *,
        at_most: int | None = None,
        decide: Callable[[Measure, Bounds], Choice] = choose,
    ) -> Choice:
        """A choice; with `at_most` whether so many tokens fit: it is a smaller one where they do not.

        Raises:
            DoesNotFit: see `choose`.
        """
        workloads = demand.workloads
        trained = sum(local_size(weight) for weight in self.cast.masters.parameters)
        unseen = trained * ADAM_BYTES[self.config.train.optimizer] + demand.held
        fixed = 4 * trained + unseen
        longest = max(workload.longest[0] for workload in workloads)
        share = max(longest, *(-(-workload.total // self.world.size) for workload in workloads))
        rehearsal = Rehearsal(self.cast.models, self.cast.masters, workloads, meter, unseen)
        self.world.barrier()  # what is free is asked before anybody takes more
        free = min(self.world.gather(meter.limit() - meter.used()))
        bounds = Bounds(free, fixed, share, longest, meter.careful)
        if at_most is not None:
            bounds = Bounds(free, fixed, at_most, min(longest, at_most), meter.careful, _TIGHT, rated=False)
        with rehearsal.open():

            def measure(tokens: int) -> Measurement:
                timed = bounds.rated and meter.careful and tokens >= longest
                return worst(self.world.together(lambda: [rehearsal(tokens, timed=timed)]))

            return decide(measure, bounds)

    def _check_again(
        self, tokens: int, recorded: dict[str, Any], meter: Meter | None, demand: Callable[[], Demand]
    ) -> None:
        """Raise where the number of a run does not fit here."""
        device = self.cast.trained.device.type
        if meter is None:
            return
        free = min(self.world.gather(meter.limit() - meter.used()))
        if recorded.get("device") == device and recorded["bytes"] <= free * (1 - _TIGHT):
            meter.close()
            return
        try:
            fit = self._measured(meter, demand(), at_most=tokens).tokens
        except DoesNotFit:
            fit = 0
        if fit < tokens:
            raise TrainingError(
                "PL406",
                f"the run was started with {tokens:,} tokens per micro-batch, and here "
                f"{f'{fit:,} fit' if fit else 'they do not fit'} ({size(free)} are free)",
                where="train.tokens_per_microbatch",
                mend="make memory free, or go on where there is as much as there was; or start another run "
                "(run.if_exists=new), which measures anew",
            )

    def _refusal(self, error: DoesNotFit, demand: Demand) -> TrainingError:
        mends = []
        if error.tokens:
            tokens, piece = _longest(demand).longest
            what = f"the longest {_longest(demand).method.unit} has {tokens:,} tokens and needs "
            source = piece.group.source
            where = str(source) if source is not None else f"group {piece.index} of the training data"
            sampled = self.config.rollout is not None
            mends.append("lower rollout.max_new_tokens or data.max_length" if sampled else "lower data.max_length")
            if not self.config.model.gradient_checkpointing:
                mends.append("set model.gradient_checkpointing=true")
        else:
            what, where = "gradients and optimiser state alone need ", "train.tokens_per_microbatch"
        if self.config.lora is None:
            mends.append("train an adapter (--lora)")
        elif not error.tokens:
            mends.append("lower lora.r")
        needs = "more" if error.bytes is None else f"about {size(error.bytes)}"
        return TrainingError(
            "PL406",
            f"{what}{needs}; {size(error.free)} are free",
            where=where,
            mend=f"{', '.join(mends)}, or make memory free" if mends else "make memory free",
        )


def _longest(demand: Demand) -> Workload:
    """The stream with the longest unit."""
    return max(demand.workloads, key=lambda workload: workload.longest[0])


def worst(found: Sequence[Measurement]) -> Measurement:
    """What counts of the measurements of several processes: the most memory and the longest time."""
    held = [m.bytes for m in found]
    known = [b for b in held if b is not None]
    return Measurement(found[0].tokens, max(known) if len(known) == len(held) else None, max(m.seconds for m in found))


def line_of(choice: Choice, unit: str) -> str:
    """What was chosen and why."""
    per_thousand = size(int(1000 * choice.bytes_per_token))
    parts = [
        f"tokens per micro-batch: {choice.tokens:,} (auto): {per_thousand} per 1,000 tokens measured on the longest "
        "groups",
        f"{size(choice.bytes)} of {size(choice.free)} free would be used, margin {choice.margin:.0%}".replace(
            "%", " %"
        ),
    ]
    if choice.reason == "step":
        parts.append("an optimiser step has no more for one process")
    elif choice.reason == "longest":
        parts.append(f"the longest {unit} needs that, and leaves less than the margin")
    elif choice.reason == "speed":
        more = choice.measured[-1]
        own = next(m for m in choice.measured if m.tokens == choice.tokens)
        parts.append(f"{more.tokens:,} are no faster here ({own.rate:,.0f} and {more.rate:,.0f} tokens per second)")
    return ", ".join(parts)


def size(count: int) -> str:
    """Bytes for people."""
    if count >= _GIB:
        return f"{count / _GIB:.1f} GiB"
    return f"{count / 2**20:,.{0 if count >= 10 * 2**20 else 1}f} MiB"
