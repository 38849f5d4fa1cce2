"""What the drivers said, as results. Whose fault it is that something did not end well is decided here."""

from __future__ import annotations

from typing import Any

from plaudit.rewards.sandbox.base import BadTests, Called, Outcome, SandboxTrouble, Verdict
from plaudit.rewards.sandbox.inside import plain

_MOST_TEXT = 300


def called(reply: bytes) -> tuple[Called, bool]:
    """The result of one call, and whether it holds for all further ones: the program could not be loaded."""
    try:
        said = plain.decode(reply)
    except plain.Malformed as error:
        return Called("refused", why=f"the result cannot be read: {error}"), False
    match said:
        case ("ok", value):
            return Called("returned", value), False
        case ("refused", str(why)):
            return Called("refused", why=f"the result cannot be passed on: {why[:_MOST_TEXT]}"), False
        case (("raised" | "unusable") as what, list(classes), list(arguments)):
            return Called("raised", why=_exception(classes, arguments)), what == "unusable"
        case _:
            return Called("refused", why="the result is not understood"), False


def _exception(classes: list[Any], arguments: list[Any]) -> str:
    name = str(classes[0])[:100] if classes and isinstance(classes[0], str) else "an exception"
    text = ", ".join(a for a in arguments if isinstance(a, str))[:_MOST_TEXT]
    return f"{name}: {text}" if text else name


class Reports:
    """Gathers what the grader says of the tests. The grader is not at the program's mercy, so its word counts."""

    def __init__(self, tests: int) -> None:
        self.tests = tests
        self.verdicts: list[Verdict] = []
        self.last = ""
        """the last that it said of how far it has come"""
        self.asked = False
        self.why = ""

    def hear(self, frame: bytes) -> None:
        """One report."""
        what, number, why = plain.decode(frame)
        if what in ("passed", "failed", "lost") and number == len(self.verdicts):
            self.verdicts.append(Verdict(what == "passed", why))
        self.asked = self.asked or what == "asked"
        self.last, self.why = what, why

    def results(self, grader: Outcome, solution: Outcome) -> list[Verdict]:
        """The verdicts of as many tests as the program lived through, one at least.

        Raises:
            BadTests: the tests failed, and the program had no hand in it.
            SandboxTrouble: so did the grader.
        """
        died = solution.reason if solution.ended != "exit" else ""
        if self.last in ("broken", "unsupported"):
            raise BadTests(f"the tests cannot be run: {self.why}")
        if self.last == "unusable":
            return [Verdict(False, died or self.why)] * self.tests
        if self.last == "lost":
            return [*self.verdicts[:-1], Verdict(False, solution.reason or self.why)]
        if self.last == "done":
            if not self.asked and all(v.passed for v in self.verdicts):
                raise BadTests("no test asks the program for anything")
            return self.verdicts
        return self._cut_off(grader, died)

    def _cut_off(self, grader: Outcome, died: str) -> list[Verdict]:
        if not self.last:
            raise SandboxTrouble(
                f"the tests did not start: {grader.reason} {grader.stderr[-300:].decode(errors='replace')}"
            )
        if self.last == "reading":  # it ended over the first words of the program
            return [
                Verdict(False, died or f"the tests ended with the program's first words: {grader.reason}")
            ] * self.tests
        if not self.asked:
            raise BadTests(f"the tests ended before they asked the program for anything: {grader.reason}")
        if len(self.verdicts) == self.tests:
            return self.verdicts
        return [*self.verdicts, Verdict(False, died or f"the tests ended: {grader.reason}")]
