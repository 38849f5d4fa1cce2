"""Answers of the policies to the prompts of the data, and which of them can be adversarial at all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plaudit.data.turns import Turns, turns_key
from plaudit.engines.base import Sampling
from plaudit.errors import RunError
from plaudit.recipes.harden.cases import Case, answer_key, as_answer

OF_POLICY = ("truncated", "empty", "repeated", "chosen", "rejected")
"""Why an answer is no candidate: it ran into the length limit, says nothing, was given before, is a chosen answer of
the prompt, or a rejected one (and so a pair of the data already)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer of a policy.

    Attributes:
        case, policy: which ones, by number.
        answer: in the form of the data's answers.
        tokens, finish_reason: as it was sampled.
    """

    case: int
    policy: int
    answer: Turns
    tokens: int
    finish_reason: str


@dataclass(slots=True)
class Candidates:
    """What the policies have answered.

    Attributes:
        found: different answers, prompt by prompt.
        sampled: answers of each policy.
        not_used: of each policy, how many are none and why (`OF_POLICY`).
    """

    found: list[Candidate] = field(default_factory=list)
    sampled: Counter[int] = field(default_factory=Counter)
    not_used: dict[int, Counter[str]] = field(default_factory=dict)

    def of_case(self, count: int) -> list[list[Turns]]:
        """[case][answer]"""
        answers: list[list[Turns]] = [[] for _ in range(count)]
        for candidate in self.found:
            answers[candidate.case].append(candidate.answer)
        return answers


def sample(
    policies: Sequence[str],
    cases: Sequence[Case],
    folder: Path,
    *,
    n: int,
    sampling: Sampling,
    precision: str,
    system: str | None,
    on_message: Callable[[str], None],
) -> list[Path]:
    """n answers of every policy to every prompt, in files that are gone on with where they were stopped.

    Text is continued as text, and messages are a chat, as in training. Policy number p draws from the seed
    `sampling.seed` + p.

    Raises:
        PlauditError: PL102, PL301, PL303 loading; PL208, messages and no chat template; PL6xx sampling.
    """
    files = []
    for number, policy in enumerate(policies):
        file = folder / f"answers-{number}.jsonl"
        files.append(file)
        if _lines(file) < n * len(cases):
            on_message(f"sampling {n} answers to each of {len(cases)} prompts from {policy}")
            options = sampling.model_copy(update={"seed": sampling.seed + number})
            _sample_one(policy, cases, file, n, options, precision, system, on_message)
    return files


def _lines(file: Path) -> int:
    """Whole lines that are there: a policy whose file is complete is not loaded again."""
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def _sample_one(
    policy: str,
    cases: Sequence[Case],
    file: Path,
    n: int,
    sampling: Sampling,
    precision: str,
    system: str | None,
    say: Callable[[str], None],
) -> None:
    from plaudit.inference.sampling import Sampler, sampled_rows

    sampler = Sampler.of(policy, precision=precision, system=system)
    prompts: list[Any] = [_plain(case.prompt) for case in cases]
    ids = [sampler.prompt_ids(p, chat=False, where=f"prompt {i}") for i, p in enumerate(prompts, start=1)]
    given = [{"prompt": p} for p in prompts]
    for _ in sampled_rows(sampler, ids, given, n, sampling, output=file, on_message=say):
        pass


def _plain(prompt: Turns) -> Any:
    return prompt if isinstance(prompt, str) else [m.for_template() for m in prompt]


def _read(file: Path, cases: Sequence[Case], n: int) -> Iterator[tuple[int, str, int, str]]:
    """(case, text, tokens, finish reason) of every sampled answer.

    Raises:
        RunError: PL504, the file does not hold the answers to these prompts.
    """
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    keys = [turns_key(case.prompt) for case in cases]
    for number, line in enumerate(lines):
        row = json.loads(line)
        case = int(row["row"])
        given = row["prompt"]
        if case != number // n or (isinstance(given, str) and json.dumps(given) != keys[case]):
            raise RunError(
                "PL504",
                "the line is not the answer that belongs here",
                where=f"{file}:{number + 1}",
                mend="remove the output folder, and begin anew",
            )
        yield case, str(row["completion"] or ""), int(row["tokens"]), str(row["finish_reason"])


def collect(files: Sequence[Path], cases: Sequence[Case], n: int, *, keep_truncated: bool = False) -> Candidates:
    """The different answers to every prompt; of policies that say the same, the first one's counts.

    Args:
        files: of `sample`.
        keep_truncated: answers that ran into the length limit are candidates too.
    """
    out = Candidates(not_used={p: Counter() for p in range(len(files))})
    seen = [{answer_key(a): "rejected" for a in case.rejected} for case in cases]
    for case, known in zip(cases, seen, strict=True):
        known |= {answer_key(a): "chosen" for a in case.chosen}
    by_case: list[list[Candidate]] = [[] for _ in cases]
    for policy, file in enumerate(files):
        for number, text, tokens, finish in _read(file, cases, n):
            out.sampled[policy] += 1
            answer = as_answer(text, cases[number].chosen[0])
            why = _why_not(answer, text, finish, seen[number], keep_truncated)
            if why is not None:
                out.not_used[policy][why] += 1
                continue
            seen[number][answer_key(answer)] = "repeated"
            by_case[number].append(Candidate(number, policy, answer, tokens, finish))
    out.found = [candidate for found in by_case for candidate in found]
    return out


def _why_not(answer: Turns, text: str, finish: str, seen: dict[str, str], keep_truncated: bool) -> str | None:
    if not text.strip():
        return "empty"
    if finish != "stop" and not keep_truncated:
        return "truncated"
    return seen.get(answer_key(answer))
