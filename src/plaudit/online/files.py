"""The file of `rollout.save`, and training on it again (`rollout.replay`): to look for faults in rewards and in losses
apart from each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.config.replayed import SAMPLED, sampled_with
from plaudit.data.turns import parse_turns
from plaudit.errors import ConfigError, DataError
from plaudit.online.records import Rollout
from plaudit.rewards.contract import RewardResult
from plaudit.rewards.scoring import ScoredGroup
from plaudit.types import Completion, Floats, PromptGroup

_HEAD = "rollouts_of"
_LOGPROBS = ("sampling_logprobs", "full_logprobs")


def rows_of(rollout: Rollout) -> Iterator[dict[str, Any]]:
    """One row per prompt."""
    for group, found in zip(rollout.groups, rollout.scored, strict=True):
        yield {
            "rollout": rollout.number,
            "source": str(group.source) if group.source else None,
            "prompt": group.prompt if isinstance(group.prompt, str) else [m.for_template() for m in group.prompt or ()],
            "prompt_ids": group.prompt_ids.tolist(),
            "row": group.extras,
            "completions": [_answer_row(c, r) for c, r in zip(group.completions, found.results, strict=True)],
            **(
                {}
                if group.greedy is None or found.greedy is None
                else {"greedy": _answer_row(group.greedy, found.greedy)}
            ),
        }


def _answer_row(completion: Completion, result: RewardResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "reward": result.value,
        "parts": dict(result.parts),
        "note": result.note,
        "error": str(result.error) if result.error else None,
        **({"steps": [list(step) for step in result.steps]} if result.steps else {}),
        "token_ids": completion.token_ids.tolist(),
        "weight_version": completion.weight_version,
    }
    for name in _LOGPROBS:
        values = getattr(completion, name)
        # A float32 as a Python float keeps all its digits.
        row[name] = None if values is None else [float(v) for v in values]
    if not completion.action_mask.all():  # there are tokens that nobody sampled, and that are not trained on
        row["action_mask"] = completion.action_mask.astype(int).tolist()
    return row


def _head_of(run: str, sampled: Mapping[str, int]) -> str:
    return json.dumps({_HEAD: run, **({SAMPLED: dict(sampled)} if sampled else {})}, ensure_ascii=False) + "\n"


def _owner(head: str | None) -> Any:
    """The run that a first line names; None where it is none."""
    try:
        return json.loads(head or "null")[_HEAD]
    except (ValueError, KeyError, TypeError):
        return None


def check_owner(path: Path, run: str) -> list[None]:
    """Raise ConfigError PL102 when a file is there that is not this run's: nothing of somebody else is overwritten."""
    first = next(iter(_whole_lines(path)), None)
    if path.exists() and path.stat().st_size and _owner(first) != run:
        raise ConfigError(
            "PL102",
            "the file is there already, and not this run's",
            where=str(path),
            mend="name another file in rollout.save, or remove this one",
        )
    return []


class RolloutFile:
    """The file of `rollout.save`: a line that names the run, then a line per prompt, rollout by rollout.

    Args:
        path: created with its folder.
        run: whose rollouts they are.
        done: rollouts that the run keeps; later ones in the file are of an attempt that was interrupted, and go.
        sampled: options that the answers are sampled with, for who replays them (`plaudit.config.replayed`).

    Raises:
        ConfigError: PL102, the file is there and another run's, or no such file at all.
    """

    def __init__(self, path: Path, run: str, done: int, sampled: Mapping[str, int] | None = None) -> None:
        check_owner(path, run)
        lines = list(_whole_lines(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in lines[1:] if json.loads(line)["rollout"] < done]
        hidden = path.with_name(f".writing-{path.name}")
        hidden.write_text(_head_of(run, sampled or {}) + "".join(kept), encoding="utf-8")
        hidden.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, rollout: Rollout) -> None:
        """Add a rollout."""
        for row in rows_of(rollout):
            self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        self._file.flush()

    def close(self) -> None:
        """No more rollouts follow."""
        self._file.close()


def _whole_lines(path: Path) -> Iterator[str]:
    """The lines of a file but a last one that a killed process has left unfinished."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from (line for line in file if line.endswith("\n"))


class Replay:
    """Rollouts from a file.

    Args:
        path: what `rollout.save` wrote.

    Attributes:
        rollouts: by number; their results are the rewards that the file has.
        sampled: options that the file says it was sampled with; empty where it does not.

    Raises:
        DataError: PL201 where there is no such file, PL204 for a line that is no rollout, PL207 for an empty one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rollouts: dict[int, Rollout] = {}
        self.sampled = sampled_with(path)
        if not path.is_file():
            raise DataError("PL201", "there is no file of rollouts", where=str(path), mend="rollout.save writes one")
        # Not `splitlines`: a text may hold separators that it takes for ends of lines.
        for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
            try:
                row = json.loads(line)
                if number == 1 and _HEAD in row:
                    continue
                group, scored = _group_of(row)
                found = self.rollouts.setdefault(int(row["rollout"]), Rollout(int(row["rollout"]), [], []))
            except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
                raise DataError(
                    "PL204",
                    f"the line is no rollout: {type(error).__name__}: {error}",
                    where=f"{path}:{number}",
                    mend="rollout.save writes such files; texts and rewards may be edited, the structure may not",
                ) from error
            found.groups.append(group)
            found.scored.append(scored)
        if not self.rollouts:
            raise DataError("PL207", "the file has no rollout", where=str(path), mend="rollout.save writes them")

    def check_ids(self, vocabulary: int, max_length: int | None) -> None:
        """Raise DataError PL204 for tokens that the model does not have, or more than it has positions for."""
        for rollout in self.rollouts.values():
            for group in rollout.groups:
                for completion in group.completions:
                    length = len(group.prompt_ids) + len(completion.token_ids)
                    ids = [*group.prompt_ids[-1:], *completion.token_ids, int(group.prompt_ids.max(initial=0))]
                    if max(ids) >= vocabulary or (max_length is not None and length > max_length):
                        raise DataError(
                            "PL204",
                            f"rollout {rollout.number} has a token {max(ids)} of {vocabulary}, or {length} tokens",
                            where=str(self.path),
                            mend="replay the rollouts of this very model and tokenizer",
                        )

    def check_greedy(self) -> None:
        """Raise DataError PL207 when the greedy answers are missing that the method compares with."""
        if any(group.greedy is None for rollout in self.rollouts.values() for group in rollout.groups):
            raise DataError(
                "PL207",
                "the rollouts have no greedy answers, with which this method compares",
                where=str(self.path),
                mend="replay rollouts that a run of this method has saved",
            )

    def check(self, wanted: int, updates: int) -> None:
        """Raise DataError PL207 when the run needs more rollout batches than there are.

        Args:
            wanted: rollout batches of the run.
            updates: optimiser steps on each.
        """
        missing = [n for n in range(wanted) if n not in self.rollouts]
        if missing:
            raise DataError(
                "PL207",
                f"the run has {wanted} rollout batches, and the file has no batch {missing[0]}",
                where=str(self.path),
                mend=f"train.max_steps={missing[0] * updates} trains on those before it"
                if missing[0]
                else "name a file that begins with rollout 0",
            )


def _group_of(row: Mapping[str, Any]) -> tuple[PromptGroup, ScoredGroup]:
    if not row["completions"]:
        raise ValueError("it has no completions")
    prompt_ids = np.asarray(row["prompt_ids"], dtype=np.int32)
    extras = dict(row.get("row") or {})
    completions = [_completion_of(answer) for answer in row["completions"]]
    results = [_result_of(answer) for answer in row["completions"]]
    greedy = row.get("greedy")
    group = PromptGroup(
        prompt_ids,
        completions,
        greedy=None if greedy is None else _completion_of(greedy),
        prompt=parse_turns(row["prompt"]),
        extras=extras,
    )
    return group, ScoredGroup(results, None if greedy is None else _result_of(greedy))


def _completion_of(answer: Mapping[str, Any]) -> Completion:
    ids = np.asarray(answer["token_ids"], dtype=np.int32)
    found: dict[str, Floats | None] = {
        name: None if answer.get(name) is None else np.asarray(answer[name], dtype=np.float32) for name in _LOGPROBS
    }
    mask = answer.get("action_mask", [1] * len(ids))
    if any(entry not in (0, 1) for entry in mask):
        raise ValueError("an action_mask has 1 for a token that was sampled and 0 for another")
    return Completion(
        ids,
        np.asarray(mask, dtype=bool),
        finish_reason=answer.get("finish_reason"),
        weight_version=answer.get("weight_version"),
        text=answer.get("text"),
        sampling_logprobs=found["sampling_logprobs"],
        full_logprobs=found["full_logprobs"],
    )


def _result_of(answer: Mapping[str, Any]) -> RewardResult:
    if answer.get("reward") is None:
        return RewardResult.failed("bad_row", "the file has no reward")
    parts, steps = answer.get("parts") or {}, answer.get("steps") or ()
    return RewardResult.of(answer["reward"], parts=parts, steps=steps, note=answer.get("note") or "")
