"""What the tests of checks share: rows, and how a check is made and read."""

from __future__ import annotations

from typing import Any

import plaudit as package
from plaudit.preflight.findings import Checked, Finding

MIB = 2**20
PAIRS = [
    {"prompt": f"Which colour is thing {i}?", "chosen": f"It is {colour}.", "rejected": f"I do not know {i}."}
    for i, colour in enumerate(["blue", "green", "red", "grey"] * 6)
]
CHATS = [
    {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": [{"role": "assistant", "content": row["chosen"]}],
        "rejected": [{"role": "assistant", "content": row["rejected"]}],
    }
    for row in PAIRS
]
RUN = {"groups_per_step": 2, "learning_rate": 1e-6}
HELD_OUT = {"eval_fraction": 0.2}


def check(method: str = "dpo", **options: Any) -> Checked:
    given = {"model": "tiny-model", "data": "pairs.jsonl", **RUN, **options}
    return package.check(method, **{key: value for key, value in given.items() if value is not None})


def one(found: Checked, topic: str, verdict: str) -> Finding:
    """The finding about a topic with a verdict, which must be the only one."""
    (finding,) = [f for f in found.findings if f.topic == topic and f.verdict == verdict]
    return finding


def verdicts(found: Checked) -> dict[str, str]:
    """Topic → its worst verdict."""
    order = ("OK", "WARN", "FAIL")
    worst: dict[str, str] = {}
    for f in found.findings:
        worst[f.topic] = max(worst.get(f.topic, "OK"), f.verdict, key=order.index)
    return worst
