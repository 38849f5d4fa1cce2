"""What quickstart, troubleshooting and glossary name exists, and no alert is forgotten."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

import pytest

from plaudit.config.keys import all_keys
from plaudit.config.load import resolve
from plaudit.errors import PlauditError
from plaudit.methods import available
from plaudit.methods.base import MethodConfig
from plaudit.runs.alert_curves import CURVES_OF
from plaudit.runs.alert_history import EVALUATION_ALERTS
from plaudit.runs.alerts import RULES
from plaudit.runs.metrics import EVAL_PREFIX, is_known

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / f"{name}.md" for name in ("quickstart", "troubleshooting", "glossary")]
ALERTS = {*RULES, *CURVES_OF, *EVALUATION_ALERTS}
KEYS = set(
    chain.from_iterable(all_keys(config) for config in (MethodConfig, *(m.Config for m in available().values())))
)
SECTIONS = {key.partition(".")[0] for key in KEYS}
PLACES = {"best", "model", "runs", "adapter", "checkpoints"}
"""First parts of names with a slash that are files and no metrics."""
GIVEN = ["model.path=m", "data.train=t.jsonl"]
HELD_OUT = [*GIVEN, "data.eval=e.jsonl", "lora.r=8"]
SAMPLED = [*HELD_OUT, "rollout.eval_temperature=1", "watch.gold={rewards: [length]}"]
TRIED = [
    ("dpo", GIVEN),
    ("dpo", HELD_OUT),
    ("sft", HELD_OUT),
    ("grpo", [*SAMPLED, "reward.rewards=math", "rollout.dynamic_sampling=true"]),
    ("ppo", [*SAMPLED, "reward.rewards=[{kind: model, path: rm}]"]),
]
"""Runs of which at least one has to take a setting of the pages."""


def quoted(page: Path) -> list[str]:
    """What stands in backticks, code blocks aside."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def anchors(page: Path) -> set[str]:
    """Those of headings as GitHub makes them, and explicit ones."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([\w-]+)">', text))


def test_every_alert_has_its_symptom() -> None:
    assert set(quoted(DOCS / "troubleshooting.md")) >= ALERTS


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_metrics_that_are_named_exist(page: Path) -> None:
    found = [name for name in quoted(page) if re.fullmatch(r"[a-z_]+(/[\w*@]+)+|[a-z]+@\*", name)]
    metrics = [name for name in found if name.partition("/")[0] not in PLACES]
    assert [name for name in metrics if not is_known(name.removeprefix(EVAL_PREFIX))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_keys_that_are_named_exist(page: Path) -> None:
    named = [re.match(r"([a-z_]+)\.([a-z_.]+)", text) for text in quoted(page)]
    keys = {match[0] for match in named if match and match[1] in SECTIONS and match[2] not in ("html", "json")}
    assert keys - KEYS - {f"data.{side}" for side in ("train", "eval")} == set()


def takes(method: str, settings: list[str]) -> bool:
    try:
        resolve(method, (), settings, files_exist=False)
    except PlauditError:
        return False
    return True


def test_settings_that_are_advised_are_taken_by_some_run() -> None:
    settings = [text for text in quoted(DOCS / "troubleshooting.md") if re.match(r"[a-z]+\.[a-z_]+=", text)]
    assert len(settings) > 40
    assert [s for s in settings if not any(takes(method, [*given, s]) for method, given in TRIED)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_to_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)#([\w-]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        (target, anchor) for target, anchor in links if anchor not in anchors(page.parent / target if target else page)
    ]
    assert missing == []


def test_commands_that_are_named_exist() -> None:
    commands = set(available()) | {
        *("check", "chat", "convert", "doctor", "evaluate", "generate", "harden", "init", "inspect", "merge"),
        *("methods", "migrate", "reward-model", "rewards", "runs", "score", "train", "watch", "report", "serve"),
    }
    named = {match[1] for page in PAGES for text in quoted(page) if (match := re.match(r"plaudit ([a-z][\w-]+)", text))}
    assert named <= commands


def test_the_glossary_is_in_order_and_short() -> None:
    terms = re.findall(
        r"^\| \*\*(.+?)\*\* \| (.+) \|$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    names = [name.casefold() for name, _ in terms]
    assert len(set(names)) == len(names) >= 60
    assert [name[0] for name in names] == sorted(name[0] for name in names)
    assert max(len(text) for _, text in terms) < 320
