"""docs/methods/: a page per method from its file, and the table of all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from plaudit.config.about import about
from plaudit.config.docs import key_table, method_keys
from plaudit.config.origins import ORIGINS, Origin
from plaudit.data.conventions import EXAMPLES
from plaudit.methods import Method, available, families
from plaudit.runs.metrics import spec, table_order
from plaudit.types import DataKind

DATA_FILES: dict[DataKind, str] = {
    "completion": "answers.jsonl",
    "preference": "pairs.jsonl",
    "ranking": "rankings.jsonl",
    "feedback": "feedback.jsonl",
    "prompt": "prompts.jsonl",
}
"""What the pages call a file of each kind of data."""
_READS = {
    "preference": "`preference`, the probability that the first answer is the better one (a soft label)",
    "margin": "`margin`, how much better it is",
}


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: what stands in backticks stays, formulas are not taken for markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([\\*<]|(?<=\])\()", r"\\\1", p) for p in parts)


def _text(paragraphs: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for paragraph in paragraphs:
        if not (paragraph.startswith("- ") and lines and lines[-1].startswith("- ")):
            lines.append("")
        lines.append(escaped(paragraph))
    return lines


def _rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    return ["", *lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)]


def method_page(method: type[Method], logged: Mapping[str, str]) -> str:
    """docs/methods/<name>.md.

    Args:
        method: the method.
        logged: metric that its loss logs → the option that switches it on, or "".
    """
    parts = about(method)
    sections = parts.sections
    lines = [f"# {method.name}: {method.title}", "", _MARK, "", escaped(parts.headline)]
    if method.variant_of is not None:
        lines += ["", f"A variant of [{method.variant_of}]({method.variant_of}.md)."]
    lines += ["", escaped(" ".join((method.__doc__ or "").split()))]
    lines += ["", "## Objective", *_text(sections.get("Objective", ()))]
    lines += ["", "## When to use it", *_text(sections.get("When", ()))]
    lines += ["", "## Data and models", "", *_data(method), "", *_models(method)]
    lines += ["", "## Run it", "", "```bash", command_line(method), "```"]
    lines += ["", "## Options", "", *_options(method)]
    lines += ["", "## Logged metrics", *_metrics(logged)]
    lines += ["", "## Differences from the paper", *_text(sections.get("Deviations", ()))]
    lines += ["", "## Coming from other tools", *_text(sections.get("Elsewhere", ())), *_migration(method)]
    return "\n".join(lines) + "\n"


def command_line(method: type[Method]) -> str:
    """A command that trains with the method."""
    sampling = " --reward math --max-new-tokens 16" if method.is_online() else ""
    return f"plaudit {method.name} --model tiny-model --data {DATA_FILES[method.data_kind]} --lora true{sampling}"


def _data(method: type[Method]) -> list[str]:
    lines = [f"Data: {method.data_kind}, one row a line ([all row shapes](../data.md)):", "", "```json"]
    lines += [EXAMPLES[method.data_kind], "```"]
    if method.reads:
        read = " and ".join(text for name, text in _READS.items() if name in method.reads)
        lines += ["", f"A row may also have {read}."]
    if method.data_kind == "preference" and (unread := [f"`{name}`" for name in _READS if name not in method.reads]):
        names = " and ".join(unread) + (" are" if len(unread) > 1 else " is")
        lines += ["", f"{names} not used; rows that say so are counted in the data report."]
    return lines


def _models(method: type[Method]) -> list[str]:
    lines = [f"- Models: {', '.join(sorted(method.roles))}."]
    if method.reference_mix is not Method.reference_mix and not method.is_online():
        lines.append("- The reference follows the policy, so its log-probs are not cached on disk.")
    elif "reference" in method.roles and method.is_online():
        lines.append("- The reference is the model's starting state; every batch of answers is scored by it.")
    elif "reference" in method.roles:
        lines.append("- The reference is the model's starting state; its log-probs are cached on disk.")
    if method.scope == "step":
        lines.append(
            "- The loss has statistics over the whole optimiser step: `train.groups_per_step` is part of the objective,"
            " and every score is computed twice, once without gradient."
        )
    if method.is_online():
        batch = f"{method.default_completions} to each prompt (`rollout.completions_per_prompt`), "
        batch += f"{method.default_ppo_epochs} pass{'es' if method.default_ppo_epochs > 1 else ''} over each batch "
        lines.append(f"- Answers are sampled while it trains: by default {batch}(`rollout.ppo_epochs`).")
    if method.min_groups > 1:
        lines.append(f"- A step needs at least {method.min_groups} rows.")
    return lines


def _options(method: type[Method]) -> list[str]:
    rates = method.default_learning_rate
    own = method_keys(method)
    learning = f"Default learning rate: {rates['lora']:g} with LoRA, {rates['full']:g} in full fine-tuning."
    every = "The keys that every run has: [configuration](../configuration.md)."
    return [*(key_table(own) if own else ["No options of its own."]), "", f"{learning} {every}"]


def _metrics(logged: Mapping[str, str]) -> list[str]:
    rows = []
    for name in table_order(logged):
        found, option = spec(name), logged[name]
        better = {"neutral": "–"}.get(found.direction, found.direction)
        rows.append((f"`{name}`", found.unit or "–", better, found.meaning, f"with `{option}`" if option else "always"))
    every = "Every run logs the loss, gradient norm, learning rate and speed too: [metrics](../metrics.md)."
    return [*_rows(("metric", "unit", "better", "meaning", "logged"), rows), "", every]


def _migration(method: type[Method]) -> list[str]:
    origins = [o for o in ORIGINS if o.method == method.name]
    lines = _origin_table(origins, link=False) if origins else []
    if method.elsewhere:
        own = [(f"`{name}`", escaped(meaning)) for name, meaning in sorted(method.elsewhere.items())]
        lines += ["", "Refused with an explanation:", *_rows(("their name", "here"), own)]
    return lines


def _origin_table(origins: list[Origin], *, link: bool) -> list[str]:
    rows = []
    for origin in origins:
        there = f"{origin.tool}: `{origin.trainer}`" + (f", `{origin.setting}`" if origin.setting else "")
        here = "–" if origin.method is None else origin.command
        if link and origin.method is not None:
            here = f"[{here}]({origin.method}.md)"
        renamed = [f"`{theirs}` is `{ours}`" for theirs, ours in origin.renamed.items()]
        rows.append((there, here, "; ".join([*renamed, *([origin.note] if origin.note else [])])))
    return _rows(("there", "here", "differences"), rows)


def index_page() -> str:
    """docs/methods/index.md."""
    lines = ["# Methods", "", _MARK, "", _INDEX_HEAD]
    for family in families():
        lines += ["", f"## {family[0].name}" + (" and its variants" if len(family) > 1 else "")]
        rows = [
            (
                f"[{m.name}]({m.name}.md)",
                m.title,
                escaped(" ".join((m.__doc__ or "").split())),
                m.data_kind,
                ", ".join(sorted(m.roles)),
                m.paper,
            )
            for m in family
        ]
        lines += _rows(("method", "name", "in one line", "data", "models", "paper"), rows)
    lines += ["", "## Coming from TRL or LLaMA-Factory", "", _COMING, *_origin_table(list(ORIGINS), link=True)]
    return "\n".join(lines) + "\n"


def pages(logged: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """File name below docs/ → text; `logged` has the metrics of every method, as `method_page` takes them."""
    own = {f"methods/{name}.md": method_page(method, logged[name]) for name, method in available().items()}
    return {"methods/index.md": index_page(), **own}


_MARK = "<!-- Written by `python scripts/write_docs.py` from the registry; a test fails when it is not current. -->"

_INDEX_HEAD = """\
`plaudit methods` prints these tables, `plaudit methods NAME` what a page says, `plaudit NAME --help` every option.
Your own method is a Python file: `plaudit train --method my_method.py config.yaml` (see
[CONTRIBUTING](../../CONTRIBUTING.md)).

Three things are options of dpo and its variants and no methods of their own: an additional likelihood term
(`nll_weight`), LD-DPO's weight of the longer answer's tail (`ld_alpha`) and WPO's weight of a pair
(`weighting=wpo`)."""

_COMING = """\
Trainers and losses, and what they are here. A name of another tool that is given as an option is refused with the
same explanation. Each method's page has the names of its options there."""

__all__ = ["DATA_FILES", "command_line", "escaped", "method_page", "pages"]
