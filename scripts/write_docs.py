"""Write the generated pages of docs/: configuration, methods, rewards and metrics, from their schemas and tables.

What a method logs is found by running its loss on random scores, with its defaults and with each of its options.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from plaudit.config.docs import configuration_page, method_keys
from plaudit.config.keys import options_of
from plaudit.config.method_pages import pages as method_pages
from plaudit.methods import Method, available
from plaudit.methods.base import Batch, Role, Scored, Scores
from plaudit.migration.docs import keys_page
from plaudit.rewards.docs import options_page
from plaudit.runs.metrics import docs_table
from plaudit.train.planning import view_of
from plaudit.types import Completion, DataKind, PromptGroup

DOCS = Path(__file__).parents[1] / "docs"

METRICS_HEAD = """# Metrics

<!-- Written by `python scripts/write_docs.py` from the metrics table; a test fails when it is not current. -->

`metrics.jsonl` in the run directory has one line per logged step. `eval/<name>` is the same quantity on held-out data.
Rewards are those that preference methods imply: β × the log-ratio of policy to reference.

"""

ANSWERS: dict[DataKind, int] = {"completion": 1, "preference": 2, "ranking": 3, "feedback": 1, "prompt": 2}


def _groups(kind: DataKind) -> list[PromptGroup]:
    """Eight rows with everything that rows of this kind can have."""

    def completion(i: int, k: int) -> Completion:
        ids = np.arange(3 + i + k, dtype=np.int32)
        sampled = np.full(len(ids), -2.0, np.float32)
        mask = np.ones(len(ids), np.bool_)
        steps = ((0, float(k)), (len(ids) - 1, 1.0))
        return Completion(ids, mask, sampled, label=i % 2 == 0, rank=1.0 + k, reward=float(k), step_rewards=steps)

    return [
        PromptGroup(
            np.arange(4, dtype=np.int32),
            [completion(i, k) for k in range(ANSWERS[kind])],
            prompt_mask=np.ones(4, np.bool_) if kind == "completion" else None,
            preference=0.8,
            margin=1.0,
            greedy=completion(i, 1) if kind == "prompt" else None,
        )
        for i in range(8)
    ]


def _score(role: Role, groups: Sequence[PromptGroup]) -> list[list[Scored]]:
    def scored(completion: Completion) -> Scored:
        count = int(completion.action_mask.sum())
        return Scored(np.full(count, -2.0, np.float32), np.zeros(count, np.float32), 0.5)

    return [[scored(c) for c in group.completions] for group in groups]


def _names(method: Method) -> set[str]:
    """The metrics that a method logs with its options."""
    groups = _groups(method.data_kind)
    method.observe(groups)
    batch = Batch(groups)
    if method.is_online():
        batch = Batch(method.choose(groups, np.random.default_rng(0)), sampled=groups)
        batch.metrics |= method.choice_metrics(groups, batch.groups)
        if not batch.groups:  # a gap that no two answers have
            return set(batch.metrics)
    method.prepare_batch(batch, _score, np.random.default_rng(0))
    keys = [(i, k) for i, group in enumerate(batch.groups) for k in range(len(group.completions))]
    completions = [batch.groups[i].completions[k] for i, k in keys]
    lengths = [int(c.action_mask.sum()) for c in completions]
    prompts = [0 if g.prompt_mask is None else int(g.prompt_mask[1:].sum()) for g in batch.groups]
    pieces = torch.tensor([i for i, _ in keys])
    view = view_of(keys, batch.groups, pieces, torch.tensor(lengths), sum(lengths), torch.tensor(prompts), batch)
    torch.manual_seed(0)
    scores = Scores(
        logprobs_N=-torch.rand(sum(lengths)) - 0.1,
        prompt_logprobs_M=-torch.rand(sum(prompts)) - 0.1,
        entropy_N=torch.rand(sum(lengths)),
        log_sum_p2_N=-torch.rand(sum(lengths)),
        values_N=torch.rand(sum(lengths)),
        last_C=torch.randn(len(keys)),
    )
    means: dict[str, float] = {}
    for role in dict.fromkeys(method.terms.values()):
        for name, (total, count) in method.loss(role, scores, view).metrics.items():
            means[name] = float(total) / max(float(count), 1.0)
    return {*means, *batch.metrics, *method.derived(means)}


def _other_values(annotation: Any, default: Any) -> Iterator[Any]:
    """Values of an option that are not its default."""
    for kind in options_of(annotation):
        values = getattr(kind, "__args__", ())
        if kind is bool:
            values = (True, False)
        elif kind in (int, float) or values[:1] in ((int,), (float,)):
            values = (0.5, 1, 2)
        yield from (value for value in values if isinstance(value, (str, bool, int, float)) and value != default)


def logged_by(method: type[Method]) -> dict[str, str]:
    """Metric → the option that switches it on ("" where the defaults log it), for every option alone."""
    found = dict.fromkeys(sorted(_names(method())), "")
    for key in method_keys(method):
        for value in _other_values(key.annotation, key.default):
            try:
                config = method.Config(**{key.leaf: value})
            except ValidationError:
                continue
            shown = f"{key.leaf}={value}" if isinstance(value, (str, bool)) else key.leaf
            for name in sorted(_names(method(config)) - set(found)):
                found[name] = shown
    return found


def pages() -> dict[str, str]:
    """File name below docs/ → text of every generated page."""
    methods = available()  # methods add their metrics when they are imported
    return {
        "configuration.md": configuration_page(),
        "rewards-options.md": options_page(),
        "migrate-keys.md": keys_page(),
        "metrics.md": METRICS_HEAD + docs_table(),
        **method_pages({name: logged_by(method) for name, method in methods.items()}),
    }


def main() -> None:
    """Write the pages that have changed, and remove those of methods that are gone."""
    written = pages()
    for name, text in written.items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")
    for path in sorted((DOCS / "methods").glob("*.md")):
        if f"methods/{path.name}" not in written:
            path.unlink()
            sys.stdout.write(f"removed {path}\n")


if __name__ == "__main__":
    main()
