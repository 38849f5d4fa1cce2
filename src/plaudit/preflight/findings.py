"""What a check before a run finds: verdicts, and what follows from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from plaudit.errors import FINISHED, USER_ERROR, PlauditError

Verdict = Literal["OK", "WARN", "FAIL"]
WARNED = 1
"""Exit status with `--strict` where there are warnings and nothing fails."""

TOPICS = (
    "environment", "configuration", "run directory", "data", "held-out data", "lengths", "template", "end of answers",
    "model", "learning rate", "steps", "memory", "forward and backward", "reward",
    "evaluation", "disk",
)  # fmt: skip
"""What is looked at, in the order of the report."""
_TOPIC_OF = {"PL1": "configuration", "PL2": "data", "PL3": "model", "PL4": "steps", "PL5": "run directory"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict.

    Attributes:
        topic: one of `TOPICS`.
        text: what was found, with its numbers.
        mend: what to do about it.
        code: of the error that training raises for it; "" where it raises none.
        where: file and row, or key.
    """

    verdict: Verdict
    topic: str
    text: str
    mend: str = ""
    code: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        assert self.topic in TOPICS, self.topic
        assert self.verdict == "OK" or self.mend, self.text

    @classmethod
    def of_error(cls, error: PlauditError, topic: str | None = None) -> Finding:
        """The finding that an error is."""
        topic = topic or _TOPIC_OF.get(error.code[:3], "steps")
        mend = error.mend or f"see docs/errors.md#{error.code.lower()}"
        return cls("FAIL", topic, error.what, mend, error.code, error.where or "")

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        mend = f"; {self.mend}" if self.mend else ""
        return f"{self.topic}: {self.text}{where}{mend}"


@dataclass(frozen=True, slots=True)
class Checked:
    """All findings about a run.

    Attributes:
        findings: in the order of `TOPICS`.
        plan: what the run would say about itself; {} where it could not be prepared.
        skipped: topics that could not be looked at because of what failed before them.
    """

    findings: Sequence[Finding]
    plan: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[str] = ()

    @classmethod
    def of(cls, findings: Iterable[Finding], plan: Mapping[str, Any], skipped: Iterable[str] = ()) -> Checked:
        """Findings in their order."""
        return cls(sorted(findings, key=lambda f: TOPICS.index(f.topic)), plan, tuple(skipped))

    @property
    def counts(self) -> dict[str, int]:
        """How many findings have each verdict."""
        found = Counter(f.verdict for f in self.findings)
        return {verdict: found[verdict] for verdict in ("OK", "WARN", "FAIL")}

    def exit_status(self, *, strict: bool = False) -> int:
        """0; 2 where something fails, as training would end; with `strict` 1 where there are warnings."""
        counts = self.counts
        if counts["FAIL"]:
            return USER_ERROR
        return WARNED if strict and counts["WARN"] else FINISHED

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": next((v for v in ("FAIL", "WARN") if self.counts[v]), "OK"),
            "counts": self.counts,
            "findings": [asdict(f) for f in self.findings],
            "skipped": list(self.skipped),
            "plan": dict(self.plan),
        }
