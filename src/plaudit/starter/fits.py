"""Which methods learn from rows, the best one first, and which conversion leads there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from plaudit.data.conventions import CONVERSION_OF, EXAMPLES
from plaudit.errors import DataError
from plaudit.methods import available, find
from plaudit.methods.base import Method
from plaudit.starter.rows import WORDS, Looked, Reading
from plaudit.types import DataKind

SUITED: dict[DataKind, dict[str, str]] = {
    "preference": {
        "dpo": "the usual choice for pairs; its reference is the base under the adapter, or cached log-probs",
        "simpo": "no reference, and lengths do not count; more sensitive to the learning rate",
        "orpo": "no reference, and learns the chosen answers as SFT does: one stage for a base model",
        "reward": "a reward model of the pairs, for methods that sample answers",
        "kto": "each answer by itself, for pairs whose labels are noisy",
    },
    "feedback": {
        "kto": "made for single answers with a thumb up or down",
        "bco": "the same rows through a classifier of liked and disliked answers",
        "dpo": "pairs of a liked and a disliked answer to the same prompt",
    },
    "ranking": {
        "reward": "a reward model of all comparisons in a ranking",
        "dpo": "pairs of a better and a worse answer",
        "simpo": "the same pairs without a reference",
        "kto": "the best answer is liked, the worst is not",
    },
    "completion": {
        "sft": "learns the answers",
        "raft": "answers of its own to the same prompts, the best by a reward",
        "grpo": "answers of its own to the same prompts, compared by a reward",
    },
    "prompt": {
        "grpo": "several answers to each prompt are compared with each other; no critic",
        "rloo": "the same with a leave-one-out baseline, and fewer answers",
        "ppo": "one answer to each prompt, and a critic: more memory, any reward",
        "online_dpo": "the best against the worst of its own answers, with DPO's loss",
        "raft": "SFT on the best of its own answers: the most stable one",
    },
}
"""Kind of the rows → methods that suit it, best first, each with why."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A method that learns from the rows."""

    name: str
    """of the method, or the path of the file that defines it"""
    method: type[Method]
    reading: Reading
    convert: str | None
    """value of data.convert"""


def fit(looked: Looked, name: str) -> Fit:
    """How a method learns from the rows.

    Raises:
        ConfigError: PL101, there is no such method.
        DataError: PL203, it does not, with the methods that do.
    """
    method = find(name)
    found = _fit(looked, name, method)
    if found is None:
        raise DataError(
            "PL203",
            f"{name} learns from {WORDS[method.data_kind]}, and the rows are {WORDS[looked.kind]}"
            + (", of which it would learn the disliked ones too" if _learns_all(looked, method) else ""),
            where=looked.path,
            mend=f"methods for them are {', '.join(other.name for other, _ in suited(looked))}; a row for {name} "
            f"looks like {EXAMPLES[method.data_kind]}",
        )
    return found


def suited(looked: Looked) -> list[tuple[Fit, str]]:
    """The methods to think of, best first, each with why."""
    found = ((_fit(looked, name, find(name)), why) for name, why in SUITED[looked.kind].items())
    return [(fitting, why) for fitting, why in found if fitting is not None]


def others(looked: Looked) -> list[str]:
    """All further methods that learn from the rows as they are."""
    known = SUITED[looked.kind]
    direct = (_fit(looked, name, method) for name, method in available().items() if name not in known)
    return [f.name for f in direct if f is not None and f.reading.kind == looked.kind and f.convert is None]


def takes(kind: DataKind) -> Iterator[tuple[str, str]]:
    """(name, an example of a row) of the methods that are named for a kind."""
    for name in SUITED[kind]:
        if find(name).data_kind == kind:
            yield name, EXAMPLES[kind]


def _fit(looked: Looked, name: str, method: type[Method]) -> Fit | None:
    own, kind = looked.readings[0], method.data_kind
    if kind == own.kind or (kind == "ranking" and own.kind == "preference"):  # a pair is a ranking of two
        return Fit(name, method, own, None)
    convert = CONVERSION_OF.get((own.kind, kind))
    if convert is not None:
        return Fit(name, method, own, convert)
    reading = looked.reading(kind)
    if reading is None or _learns_all(looked, method):
        return None
    return Fit(name, method, reading, None)


def _learns_all(looked: Looked, method: type[Method]) -> bool:
    """Whether the labels of feedback would be a column that nothing reads."""
    return looked.kind == "feedback" and method.data_kind == "completion"


__all__ = ["SUITED", "Fit", "fit", "others", "suited", "takes"]
