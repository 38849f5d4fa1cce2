"""Scripts of all rows, and languages of some."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from plaudit.data.doctor.facts import Facts
from plaudit.data.doctor.findings import Finding, Skipped, first, grade, percent, wilson
from plaudit.data.doctor.thresholds import (
    LANGUAGE_LETTERS,
    LANGUAGE_ROWS,
    LANGUAGE_SURE,
    OTHER_LANGUAGE_WARN,
)

_PROSE = re.compile(r"```.*?(?:```|$)|\$[^$]*\$|<[^<>]{0,40}>|https?://\S+", re.DOTALL)
"""Code, formulas, tags and addresses have no language."""


def script_mix(facts: Sequence[Facts]) -> Finding:
    """Scripts of the prompts, and answers in another script than their prompt."""
    known = [f for f in facts if f.script and any(f.answer_scripts)]
    mixed = [f for f in known if any(s and s != f.script for s in f.answer_scripts)]
    scripts = Counter(s for f in facts for s in (f.script, *f.answer_scripts) if s)
    total = sum(scripts.values())
    share = len(mixed) / len(known) if known else 0.0
    mix = ", ".join(f"{name} {percent(n / total)}" for name, n in scripts.most_common(5)) or "no letters"
    return Finding(
        check="script_mix",
        title="answers in another script",
        verdict=grade(share, warn=OTHER_LANGUAGE_WARN),
        count=len(mixed),
        of=len(known),
        share=share,
        detail=f"scripts of prompts and answers: {mix}",
        numbers=dict(scripts.most_common()),
        examples=first(([f.row], f"{f.script} prompt, {_other(f)} answer: {f.shown}") for f in mixed),
        mend="right for translations; else leave the rows out, or say the wanted language in the prompt",
    )


def _other(facts: Facts) -> str:
    return next(s for s in facts.answer_scripts if s and s != facts.script)


def language_mix(facts: Sequence[Facts]) -> Finding | Skipped:
    """Languages of up to `LANGUAGE_ROWS` rows, and answers in another language than their prompt."""
    title = "answers in another language"
    if find_spec("py3langid") is None:
        why = "needs py3langid: pip install 'plaudit[verify]'"
        return Skipped(check="language_mix", title=title, why=why)
    sampled = [f for f in facts if f.sample is not None]
    step = max(1, -(-len(sampled) // LANGUAGE_ROWS))
    judged: list[tuple[Facts, str | None, list[str | None]]] = []
    for f in sampled[::step]:
        assert f.sample is not None
        prompt, *answers = map(language, f.sample)
        judged.append((f, prompt, answers))
    languages = Counter(name for _, p, answers in judged for name in (p, *answers) if name)
    known = [(f, p, a) for f, p, a in judged if p and any(a)]
    other = [(f, p, a) for f, p, a in known if any(x and x != p for x in a)]
    total = sum(languages.values())
    share = len(other) / len(known) if known else 0.0
    mix = ", ".join(f"{name} {percent(n / total)}" for name, n in languages.most_common(5)) or "texts too short to tell"
    return Finding(
        check="language_mix",
        title=title,
        verdict=grade(wilson(len(other), len(known))[0], warn=OTHER_LANGUAGE_WARN),
        count=len(other),
        of=len(known),
        share=share,
        detail=f"languages of {len(judged):,} rows, evenly spread, as py3langid tells them: {mix}",
        numbers=dict(languages.most_common()),
        examples=first(([f.row], f"{p} prompt, {next(x for x in a if x and x != p)} answer: {f.shown}")
                       for f, p, a in other),
        mend="right for translations; else leave the rows out, or say the wanted language in the prompt",
    )  # fmt: skip


def language(text: str) -> str | None:
    """ISO 639-1 code of a text's prose, None where there is too little of it or the identifier is not sure."""
    prose = _PROSE.sub(" ", text)
    if sum(map(str.isalpha, prose)) < LANGUAGE_LETTERS:
        return None
    best, chance = _identifier().classify(prose)
    return str(best) if chance >= LANGUAGE_SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def check(facts: Sequence[Facts]) -> Iterable[Finding | Skipped]:
    """Both."""
    return [script_mix(facts), language_mix(facts)]
