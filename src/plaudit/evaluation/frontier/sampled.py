"""Answers of models to held-out prompts, with their two rewards and log-probs, in files that are gone on with.

There is a file for each model, a line for each answer. Prompts are answered in chunks whose size depends on the number
of answers alone, so an evaluation that was interrupted computes the same numbers as one that was not.

Log-probs of policy and reference are both computed by a forward pass over the sampled tokens, at the temperature of
sampling and without filters: their difference is an unbiased estimate of the KL between what the two sample, and is
exactly 0 for equal weights.
"""

from __future__ import annotations

import gc
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plaudit.engines.base import RolloutEngine, Sampling, weights_checksum
from plaudit.errors import EvaluationError
from plaudit.evaluation.frontier.analysis import Answers
from plaudit.evaluation.frontier.points import Place
from plaudit.inference.locate import load_located
from plaudit.inference.sampling import Sampler
from plaudit.online.scoring import samples_of
from plaudit.rewards.contract import RewardResult, Sample
from plaudit.rewards.scoring import ScoredGroup, Scoring
from plaudit.rewards.spec import RewardSpec
from plaudit.runs.resumable import ResumableFile
from plaudit.types import Completion, PromptGroup, token_array

if TYPE_CHECKING:
    from plaudit.models.load import LoadedModel

REWARDS = ("proxy", "gold")
_CHUNK = 256
"""Answers that are sampled and scored together, and lost when the program is killed."""
_LASTING = ("bad_row", "not_applicable")
"""Failures that another attempt does not mend."""


@dataclass(slots=True)
class Reference:
    """The model that everything is measured against, and the prompts in its words.

    Args:
        read: the prompts as another model's renderer writes them.
    """

    name: str
    loaded: LoadedModel
    sampler: Sampler
    prompts: list[PromptGroup]
    read: Callable[[Sampler], list[PromptGroup]]
    identity: str = ""

    def __post_init__(self) -> None:
        self.identity = weights_checksum(dict(self.loaded.model.named_parameters()))


@dataclass(slots=True)
class Judged:
    """One of the two rewards at work."""

    spec: RewardSpec
    scoring: Scoring = field(init=False)

    def __post_init__(self) -> None:
        config = self.spec.config
        self.scoring = Scoring(
            self.spec.reward, retries=config.retries, max_error_fraction=config.max_reward_error_fraction
        )


@dataclass(slots=True)
class Work:
    """What is the same for every model.

    Args:
        rewards: proxy and gold.
        folder: where the files go.
        overwrite: begin the files anew.
        system: system prompt for conversations that have none.
        base, precision: how models are loaded.
        tell: told how many more answers are there.
        say: told what a reader of the log should know.
    """

    reference: Reference
    rewards: dict[str, Judged]
    sampling: Sampling
    folder: Path
    overwrite: bool
    system: str | None
    base: str | None
    precision: str
    tell: Callable[[int], None]
    say: Callable[[str], None]
    mended: int = 0
    """answers that an earlier call had left without a reward and that were scored again"""

    def reference_answers(self, n: int) -> Answers:
        """n answers of the reference to every prompt."""
        own = self.reference
        file = self._file("reference", own.identity, n)
        with closing(file):
            self._complete(file, n, lambda: (own.sampler.engine, None))
            return self._read(file, own.name, None, n)

    def answers(self, place: Place, n: int) -> Answers:
        """n answers of a model to every prompt; it is loaded only where some are missing.

        Raises:
            EvaluationError: PL805, it reads the prompts as other tokens than the reference.
        """
        file = self._file(_file_name(place, self.folder), place.identity(), n)
        with closing(file):
            self._complete(file, n, lambda: (self._load(place), self.reference.sampler.engine))
            return replace(self._read(file, place.name, place.step, n), curve=place.curve)

    def _load(self, place: Place) -> RolloutEngine:
        loaded = load_located(place.located(base=self.base, precision=self.precision))
        sampler = Sampler(loaded, system=self.system)
        _check_tokenizer(sampler, loaded, self.reference, place)
        if type(sampler.engine) is not type(self.reference.sampler.engine):
            self.say(f"{place.name}: {sampler.note}")
        return sampler.engine

    def _file(self, name: str, model: str, n: int) -> ResumableFile:
        about = {
            "weights": model,
            "reference": self.reference.identity,
            "prompts": _digest(self.reference.prompts),
            "n": n,
            "sampling": self.sampling.model_dump(mode="json"),
            **{name: judged.spec.identity() for name, judged in self.rewards.items()},
        }
        path = self.folder / f"{name}.jsonl"
        return ResumableFile(path, about, holds="answers", per_item=n, overwrite=self.overwrite)

    def _complete(
        self, file: ResumableFile, n: int, load: Callable[[], tuple[RolloutEngine, RolloutEngine | None]]
    ) -> None:
        prompts = self.reference.prompts
        self._mend(file)
        self.tell(file.done * n)
        if file.done == len(prompts):
            return
        engine, reference = load()
        for _ in file.write(self._rows(engine, reference, n, file.done)):
            self.tell(1)
        del engine
        gc.collect()  # a model has cycles, and the next one needs its room

    def _rows(
        self, engine: RolloutEngine, reference: RolloutEngine | None, n: int, done: int
    ) -> Iterator[dict[str, Any]]:
        prompts = self.reference.prompts
        size = max(1, _CHUNK // n)
        for start in range(done - done % size, len(prompts), size):
            end = min(start + size, len(prompts))
            # All prompts before are named too: equal ones draw apart by their order.
            sampled = engine.generate([p.prompt_ids for p in prompts[:end]], n, self.sampling, first=start)
            groups = [
                replace(p, completions=a.completions, prompt_text=a.prompt_text)
                for p, a in zip(prompts[start:end], sampled, strict=True)
            ]
            own = _sums(engine, groups, self.sampling.temperature)
            other = own if reference is None else _sums(reference, groups, self.sampling.temperature)
            asked = [samples_of(group) for group in groups]
            scored = {name: judged.scoring.score(asked) for name, judged in self.rewards.items()}
            for i, group in enumerate(groups):
                if start + i >= done:
                    results = {name: found[i] for name, found in scored.items()}
                    yield from _lines(start + i, group, own[i], other[i], results)

    def _mend(self, file: ResumableFile) -> None:
        """Take earlier failures into account, and score again what may have a reward now."""
        again: dict[str, list[int]] = {name: [] for name in self.rewards}
        rows = list(file.rows())
        for number, row in enumerate(rows):
            for name, judged in self.rewards.items():
                error = row.get(f"{name}_error")
                if error is not None and str(error).partition(":")[0] not in _LASTING:
                    again[name].append(number)
                else:
                    judged.scoring.remember([error is not None])
        for name, numbers in again.items():
            found = self.rewards[name].scoring.score([[self._sample(rows[i])] for i in numbers])
            for i, group in zip(numbers, found, strict=True):
                rows[i] = {**rows[i], **_written(name, group.results[0])}
        changed = {i for numbers in again.values() for i in numbers}
        self.mended += len(changed)
        file.replace({i: rows[i] for i in changed})

    def _sample(self, row: dict[str, Any]) -> Sample:
        """An answer as its reward saw it when it was sampled."""
        answer = Completion(
            token_array([]), np.zeros(0, bool), finish_reason=row["finish_reason"], text=row["completion"]
        )
        asked = replace(self.reference.prompts[row["row"]], completions=[answer])
        return replace(samples_of(asked)[0], tokens=row["tokens"])

    def _read(self, file: ResumableFile, name: str, step: int | None, n: int) -> Answers:
        shape = (len(self.reference.prompts), n)
        columns: dict[str, list[float]] = {"proxy": [], "gold": [], "ratio": []}
        for row in file.rows():
            for reward in REWARDS:
                columns[reward].append(math.nan if row[reward] is None else row[reward])
            columns["ratio"].append(row["logprob"] - row["reference_logprob"])
        arrays = {key: np.asarray(values, dtype=np.float64).reshape(shape) for key, values in columns.items()}
        return Answers(name, arrays["proxy"], arrays["gold"], arrays["ratio"], step)


def _sums(engine: RolloutEngine, groups: Sequence[PromptGroup], temperature: float) -> list[list[float]]:
    """[group][answer] log-prob in nats, summed over its tokens."""
    scored = engine.score(groups, temperature)
    return [[float(np.sum(tokens, dtype=np.float64)) for tokens in group] for group in scored]


def _lines(
    number: int, group: PromptGroup, own: list[float], other: list[float], results: dict[str, ScoredGroup]
) -> Iterator[dict[str, Any]]:
    for k, completion in enumerate(group.completions):
        line: dict[str, Any] = {
            "row": number,
            "sample": k,
            "prompt": group.prompt if isinstance(group.prompt, str) else group.prompt_text,
            "completion": completion.text or "",
            "finish_reason": completion.finish_reason,
            "tokens": len(completion.token_ids),
            "logprob": own[k],
            "reference_logprob": other[k],
        }
        for name, scored in results.items():
            line |= _written(name, scored.results[k])
        yield line


def _written(name: str, result: RewardResult) -> dict[str, Any]:
    return {name: result.value, f"{name}_error": None if result.error is None else str(result.error)}


def _digest(prompts: Sequence[PromptGroup]) -> str:
    """Of the prompts' tokens and of the columns that rewards read."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        digest.update(f"{len(prompt.prompt_ids)}:".encode() + prompt.prompt_ids.astype("int64").tobytes())
        digest.update(repr(sorted(prompt.extras.items(), key=lambda e: str(e[0]))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _check_tokenizer(sampler: Sampler, loaded: LoadedModel, reference: Reference, place: Place) -> None:
    """KL is of tokens: both models must mean the same by them, and be given the same prompt."""
    same = loaded.tokenizer.get_vocab() == reference.loaded.tokenizer.get_vocab()
    if same:
        pairs = zip(reference.read(sampler), reference.prompts, strict=True)
        if all(np.array_equal(a.prompt_ids, b.prompt_ids) for a, b in pairs):
            return
    raise EvaluationError(
        "PL805",
        f"{place.name} and the reference {reference.name} "
        + ("write prompts with other chat templates" if same else "have other tokenizers")
        + ", so there is no KL between what they say",
        where=str(place.folder),
        mend="name the model that the training started from with --reference",
    )


def _file_name(place: Place, folder: Path) -> str:
    """Of the model's folder and its place, so that more models, or fewer, leave the others' files as they are.

    Args:
        folder: of the files. One that was begun when the model's step was not known is gone on with.
    """
    where = hashlib.blake2b(str(place.folder.resolve()).encode(), digest_size=4).hexdigest()
    step = "" if place.step is None else f"step-{place.step:08d}-"
    name = re.sub(r"[^\w.-]+", "-", place.folder.name)
    begun = (folder / f"{name}-{where}.jsonl").exists() and not (folder / f"{step}{name}-{where}.jsonl").exists()
    return f"{name}-{where}" if begun else f"{step}{name}-{where}"
