"""Exact answers: the whole answer is the reference, and not only somewhere in it.

Source of the normalisation and of F1: the evaluation script of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Literal

from plaudit.rewards.contract import RewardOptions, RewardResult, Sample, SampleReward
from plaudit.rewards.verifiers.reading import Unclear, accepted, shown, stated

_ARTICLES = {"a", "an", "the"}


class ExactOptions(RewardOptions):
    """How answers are compared."""

    column: str = "answer"
    """Column with the reference answer, or a list of which any will do."""
    tag: str | None = None
    """Read what stands between <tag> and </tag>, which must be there once. Default: what stands in <answer> where there
    is such an element (several different ones are no answer), else everything behind the thought."""
    normalise: Literal["none", "space", "words"] = "words"
    """none: character by character; space: runs of white space are one blank; words: besides, case, punctuation between
    words and English articles do not count."""
    partial: bool = False
    """Give the F1 of the words instead of 0 or 1; needs normalise: words."""


class ExactReward(SampleReward):
    """1 where the answer is one of the references."""

    kind = "exact"
    title = "The answer is the reference, whole (words, or F1 of the words)"
    Options = ExactOptions

    @property
    def columns(self) -> tuple[str, ...]:
        """The reference."""
        return (self.options.column,)

    def one(self, sample: Sample) -> RewardResult:
        """See `SampleReward`."""
        references = accepted(sample, self.options.column)
        try:
            answer = stated(sample, self.options.tag)
        except Unclear as problem:
            return RewardResult.of(0, note=str(problem))
        if self.options.partial:
            value = max(word_f1(answer, reference) for reference in references)
        else:
            value = float(any(self._form(answer) == self._form(r) for r in references))
        note = "" if value == 1 else f"read {shown(answer)}, expected {shown(references[0])}"
        return RewardResult.of(value, note=note)

    def _form(self, text: str) -> str:
        how = self.options.normalise
        if how == "none":
            return text
        text = unicodedata.normalize("NFC", text)
        if how == "space":
            return " ".join(text.split())
        kept = " ".join(content_words(text))
        return kept or " ".join(text.split())  # an answer of signs alone ("+") is its own form


_NUMBER = re.compile(r"(?:[0-9]+(?:[.,][0-9]+)*|[.][0-9]+)(?:[eE][-+]?[0-9]+)?")
_ENDS = frozenset(".,;:?\"'“”‘’«»()[]{}…`*_")
"""Signs of sentences and of their layout. Any other sign may decide about an answer: x+1, 50%, C++, ¬p."""


def content_words(text: str) -> list[str]:
    """What counts: words in lower case, numbers with their sign, point and exponent, and every sign that is no
    punctuation. English articles do not, and neither do a hyphen within a word and an exclamation mark behind one."""
    found, at = list[str](), 0
    while at < len(text):
        number = _NUMBER.match(text, at)
        before = text[at - 1] if at else " "
        if number is not None and not _in_word(before):
            signed = len(found) > 0 and found[-1] in "+-" and (len(found) == 1 or text[at - 2 : at - 1].isspace())
            sign = found.pop() if signed and before in "+-−" else ""
            found.append(sign.replace("+", "") + number[0])
            at = number.end()
        elif _in_word(text[at]):
            end = next((i for i in range(at, len(text)) if not _in_word(text[i])), len(text))
            found.append(text[at:end].lower())
            at = end
        else:
            if not text[at].isspace() and text[at] not in _ENDS and not _hyphen_or_cry(text, at):
                found.append(text[at].replace("−", "-"))
            at += 1
    kept = [w for i, w in enumerate(found) if w not in _ARTICLES or (w == "a" and i == len(found) - 1)]
    return kept or found


def _in_word(c: str) -> bool:
    """Letters, digits, and the marks that belong to a letter (vowel signs of Indic scripts)."""
    return c.isalnum() or unicodedata.category(c)[0] == "M"


def _hyphen_or_cry(text: str, at: int) -> bool:
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if text[at] in "-‐–—":
        return (before.isalpha() and (after.isalpha() or after.isspace())) or (before.isspace() and after.isspace())
    return text[at] == "!" and not before.isdigit() and before not in ")]"


def word_f1(answer: str, reference: str) -> float:
    """Harmonic mean of the precision and recall of words, with their multiplicity; in [0, 1]."""
    said, wanted = Counter(content_words(answer)), Counter(content_words(reference))
    shared = (said & wanted).total()
    return 2 * shared / (said.total() + wanted.total()) if shared else 0.0
