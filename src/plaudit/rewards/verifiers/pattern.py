"""Patterns: a regular expression, and a layout of tags."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from plaudit.config.packages import need_packages
from plaudit.errors import ConfigError
from plaudit.rewards.contract import RewardOptions, RewardResult, Sample, SampleReward


class RegexOptions(RewardOptions):
    """What is looked for."""

    pattern: str
    """The expression, in Python's syntax."""
    match: Literal["search", "whole"] = "search"
    """search: anywhere; whole: all of the text."""
    over: Literal["final", "all"] = "final"
    """The text that is looked at: behind the thought, or with it."""
    forbid: bool = False
    """1 where it does not match."""
    ignore_case: bool = False
    """Upper and lower case are the same."""
    seconds: float = Field(2.0, gt=0)
    """Most time that one text may take; past it the value is 0."""


class RegexReward(SampleReward):
    """1 where a regular expression matches.

    Answers are written by a model under optimisation, and some expressions take exponential time on some texts. So they
    run in the package `regex`, which can be stopped.
    """

    kind = "regex"
    title = "A regular expression matches (or does not)"
    Options = RegexOptions

    def __init__(self, options: RewardOptions | None = None) -> None:
        super().__init__(options)
        need_packages(("regex",), "the reward regex", "verify")
        import regex

        flags = regex.DOTALL | (regex.IGNORECASE if self.options.ignore_case else 0)
        try:
            self._pattern: Any = regex.compile(self.options.pattern, flags)
        except regex.error as error:
            raise ConfigError(
                "PL102",
                f"the pattern is no regular expression: {error}",
                where=repr(self.options.pattern),
                mend="mend the pattern; a backslash is doubled in double-quoted YAML",
            ) from error

    def one(self, sample: Sample) -> RewardResult:
        """See `SampleReward`."""
        text = sample.final.strip() if self.options.over == "final" else sample.text
        if self.options.forbid and not text:
            text = sample.text  # a thought that never ends hides nothing
        look = self._pattern.search if self.options.match == "search" else self._pattern.fullmatch
        try:
            found = look(text, timeout=self.options.seconds) is not None
        except TimeoutError:  # it is the text that makes the pattern slow, and the next try would be too
            return RewardResult.of(0, note=f"the pattern took more than {self.options.seconds:g} s")
        return RewardResult.of(float(found != self.options.forbid))


class FormatOptions(RewardOptions):
    """Which tags, in which order."""

    tags: tuple[str, ...] = ("think", "answer")
    """Each is opened and closed once, in this order, and has something inside."""
    outside: Literal["nothing", "anything"] = "nothing"
    """What may stand outside of the tags; white space always may."""
    partial: bool = False
    """Give the share of the conditions that hold instead of 0 or 1."""

    @field_validator("tags")
    @classmethod
    def _plain(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        if not tags or len(set(tags)) < len(tags) or not all(re.fullmatch(r"[\w-]+", tag) for tag in tags):
            raise ValueError("give different names without brackets, such as think, answer")
        return tags


class FormatReward(SampleReward):
    """1 where the whole answer is the tags in their order, each once.

    A prompt that ends with an opening tag (as templates of reasoning models do) counts as part of the answer.
    """

    kind = "format"
    title = "The answer consists of given tags, each once and in order"
    Options = FormatOptions

    def one(self, sample: Sample) -> RewardResult:
        """See `SampleReward`."""
        text = self._opened(sample) + sample.text
        checks = self._checks(text)
        broken = [what for what, holds in checks.items() if not holds]
        share = 1 - len(broken) / len(checks)
        return RewardResult.of(share if self.options.partial else float(not broken), note="; ".join(broken))

    def _opened(self, sample: Sample) -> str:
        first = f"<{self.options.tags[0]}>"
        prompt = sample.prompt if isinstance(sample.prompt, str) else ""
        ends = re.search(rf"(?:^|[\n>])\s*{re.escape(first)}\s*\Z", prompt) is not None
        return first if ends and not sample.text.lstrip().startswith(first) else ""

    def _checks(self, text: str) -> dict[str, bool]:
        checks: dict[str, bool] = {}
        for tag in self.options.tags:
            once = text.count(f"<{tag}>") == 1 and text.count(f"</{tag}>") == 1
            checks[f"<{tag}> is not there exactly once"] = once
            inside = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL) if once else None
            checks[f"<{tag}> is empty"] = inside is not None and any(
                c.isprintable() and not c.isspace() for c in inside[1]
            )
        parts = (f"<{tag}>.*?</{tag}>" for tag in self.options.tags)
        between = r"\s*" if self.options.outside == "nothing" else ".*?"
        layout = between + between.join(parts) + (r"\s*" if self.options.outside == "nothing" else ".*")
        once_each = all(holds for what, holds in checks.items() if what.endswith("once"))
        checks["the tags are not in order, or there is text outside"] = once_each and bool(
            re.fullmatch(layout, text, re.DOTALL)
        )
        return checks
