"""Everything that is wrong with a configuration, reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plaudit.errors import ConfigError

COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: file:line, or the flag or argument.
        key: dotted key; empty where the problem is not about one.
        what: what is wrong.
        hint: what to write instead ("did you mean …").
    """

    where: str
    key: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        parts = [self.where, self.key, self.what, f"({self.hint})" if self.hint else ""]
        return "  ".join(p for p in parts if p)


def _reading_order(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdigit() else ("~", 0)  # files first, then the command line in its order


def raise_all(problems: Sequence[Problem]) -> None:
    """Raise what was found as one error; nothing when there is nothing.

    Raises:
        ConfigError: PL100, with one line per problem.
    """
    unique = sorted(dict.fromkeys(problems), key=_reading_order)
    if not unique:
        return
    count = "the configuration has an error" if len(unique) == 1 else f"the configuration has {len(unique)} errors"
    raise ConfigError(
        "PL100",
        count + ":\n" + "\n".join(f"    {p}" for p in unique),
        mend="`plaudit METHOD --help` lists all options (METHOD is the method's name)",
    )
