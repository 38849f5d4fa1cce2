"""The outer shape of an answer: its length, its repetitions, its language."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Literal

from pydantic import Field, model_validator

from plaudit.config.packages import need_packages
from plaudit.errors import ConfigError
from plaudit.rewards.contract import BadRow, RewardOptions, RewardResult, Sample, SampleReward
from plaudit.rewards.verifiers.reading import words

Unit = Literal["tokens", "words", "characters"]


def measured(sample: Sample, unit: Unit) -> int:
    """The length of an answer.

    Raises:
        BadRow: tokens are asked for, and nobody counted them.
    """
    if unit == "tokens":
        if sample.tokens is None:
            raise BadRow("the answer's length in tokens is not known: give rows with the column 'tokens', or use words")
        return sample.tokens
    return len(words(sample.text)) if unit == "words" else len(sample.text)


class LengthOptions(RewardOptions):
    """Which lengths are right."""

    unit: Unit = "tokens"
    """What is counted; thoughts count too."""
    least: int = Field(0, ge=0)
    """Shortest answer with the full value."""
    most: int | None = Field(None, ge=1)
    """Longest answer with the full value."""
    slack: int = Field(0, ge=0)
    """The value falls linearly from 1 to 0 over so many units outside; 0: at once."""

    @model_validator(mode="after")
    def _some_bound(self) -> LengthOptions:
        if self.most is None and self.least == 0:
            raise ValueError("give least, most or both")
        if self.most is not None and self.most < self.least:
            raise ValueError(f"most is {self.most}, below least {self.least}")
        return self


class LengthReward(SampleReward):
    """1 for an answer of the right length, falling to 0 outside."""

    kind = "length"
    title = "The answer's length lies between two bounds"
    Options = LengthOptions

    def one(self, sample: Sample) -> RewardResult:
        """See `SampleReward`."""
        options, length = self.options, measured(sample, self.options.unit)
        outside = max(options.least - length, length - options.most if options.most is not None else 0, 0)
        value = float(outside == 0) if options.slack == 0 else max(0.0, 1 - outside / options.slack)
        return RewardResult.of(value, parts={options.unit: length})


class RepetitionOptions(RewardOptions):
    """What counts as said again."""

    ngram: int = Field(3, ge=1)
    """Length of the runs that are compared."""
    unit: Literal["words", "characters"] = "words"
    """What they are runs of; characters also count where there are hardly any words."""


class RepetitionReward(SampleReward):
    """Share of the answer's n-grams that were not said before: 1 without any repetition, towards 0 in a loop.

    Source: the repetition penalty of Yeo et al. 2025 (arXiv 2502.03373), as 1 minus the penalty.
    """

    kind = "repetition"
    title = "Share of the n-grams that are said for the first time"
    Options = RepetitionOptions

    def one(self, sample: Sample) -> RewardResult:
        """See `SampleReward`."""
        characters = [c for c in sample.text if not c.isspace()]
        units = words(sample.text) if self.options.unit == "words" else characters
        if len(units) < self.options.ngram or sum(map(len, units)) < len(characters) / 2:
            units = characters  # signs, one endless word: the loop is not in the words
        runs = [tuple(units[i : i + self.options.ngram]) for i in range(len(units) - self.options.ngram + 1)]
        return RewardResult.of(len(set(runs)) / len(runs) if runs else 1.0)


class LanguageOptions(RewardOptions):
    """Which language."""

    language: str = Field(pattern=r"^[a-z]{2}$")
    """Its code of two letters (ISO 639-1): en, de, fr, zh …"""
    over: Literal["final", "all"] = "all"
    """The text that is looked at: behind the thought, or with it. Thoughts that switch languages are a known habit."""
    letters: int = Field(20, ge=1)
    """Fewer letters than this cannot be told apart, and get 0."""
    soft: bool = False
    """Give the probability of the language instead of 0 or 1."""


class LanguageReward(SampleReward):
    """1 where the answer is in a language, as the package py3langid tells it. Code blocks and formulas do not count."""

    kind = "language"
    title = "The answer is in a given language"
    Options = LanguageOptions

    def __init__(self, options: RewardOptions | None = None) -> None:
        super().__init__(options)
        need_packages(("py3langid",), "the reward language", "verify")
        if self.options.language not in _identifier().labels:
            raise ConfigError(
                "PL102",
                f"the language {self.options.language!r} is not known",
                mend="languages are: " + ", ".join(sorted(_identifier().labels)),
                where="language",
            )

    def one(self, sample: Sample) -> RewardResult:
        """See `SampleReward`."""
        text = sample.final if self.options.over == "final" else sample.text
        prose = re.sub(r"```.*?(?:```|$)|\$[^$]*\$|<[^<>]{0,40}>", " ", text, flags=re.DOTALL)
        letters = sum(c.isalpha() for c in prose)
        hidden = sum(c.isalpha() and not c.isascii() for c in text) - sum(
            c.isalpha() and not c.isascii() for c in prose
        )
        if hidden > letters / 4:
            return RewardResult.of(0, note=f"{hidden} letters of other scripts stand in code or formulas")
        text = prose
        if letters < self.options.letters:
            return RewardResult.of(0, note=f"{letters} letters are too few to tell the language")
        ranked = _identifier().rank(text)
        best, chance = ranked[0][0], float(dict(ranked)[self.options.language])
        value = chance if self.options.soft else float(best == self.options.language)
        return RewardResult.of(value, note="" if best == self.options.language else f"reads as {best}")


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
