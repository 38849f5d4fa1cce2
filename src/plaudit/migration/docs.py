"""The generated page with every key of the other tools, read from the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plaudit.migration.rules import Rule, Table
from plaudit.migration.tables.axolotl import AXOLOTL, AXOLOTL_NAMES
from plaudit.migration.tables.llama_factory import LLAMA_FACTORY, LLAMA_FACTORY_NAMES
from plaudit.migration.tables.trainer import TRAINER
from plaudit.migration.tables.trl import TRL

HEAD = """# Every key of TRL, LLaMA-Factory and axolotl

<!-- Written by `python scripts/write_docs.py` from the tables; a test fails when it is not current. -->

[Migrating](migrate.md) explains how they are turned into ours. "nothing" is for keys without a counterpart: **changes**
says that the result of training depends on them, and `plaudit migrate --strict` fails where one asks for something.
"""


def keys_page() -> str:
    """The page."""
    parts = [HEAD]
    trl = {key: rule for key, rule in TRL.items() if key not in TRAINER}
    tables: tuple[tuple[str, Table], ...] = (
        ("All three: transformers' TrainingArguments", TRAINER),
        ("TRL", trl),
        ("LLaMA-Factory", _own(LLAMA_FACTORY, LLAMA_FACTORY_NAMES)),
        ("axolotl", _own(AXOLOTL, AXOLOTL_NAMES)),
    )
    for title, table in tables:
        parts.append("\n".join([f"## {title}", "", "| there | here | |", "|---|---|---|", *_rows(table)]) + "\n")
    return "\n".join(parts)


def _own(table: Table, names: Mapping[str, str]) -> Table:
    """A tool's keys under its own names, without those of the trainer."""
    under = {theirs: table[name] for theirs, name in names.items()}
    renamed = set(names.values())
    return {**under, **{key: rule for key, rule in table.items() if key not in renamed and key not in TRAINER}}


def _rows(table: Table) -> Iterator[str]:
    for key, rule in sorted(table.items(), key=lambda pair: (_rank(pair[1]), pair[0])):
        yield f"| `{key}` | {_here(rule)} | {rule.why} |"


def _rank(rule: Rule) -> int:
    return {"same": 0, "part": 0, "different": 1, "lost": 2, "harmless": 3}[rule.fate]


def _here(rule: Rule) -> str:
    words = {"different": "different", "lost": "nothing: **changes**", "harmless": "nothing"}
    return words.get(rule.fate, f"`{rule.ours}`")
