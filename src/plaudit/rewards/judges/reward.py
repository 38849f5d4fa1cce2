"""A judge as a reward: `kind: judge`."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from plaudit.config.packages import need_training_packages
from plaudit.errors import RewardError
from plaudit.rewards.contract import BadRow, Reward, RewardOptions, RewardResult, Sample, column
from plaudit.rewards.judges.backend import ChatBackend
from plaudit.rewards.judges.judge import Answered, Judge, Pair
from plaudit.rewards.judges.rubric import Rubric, read_scale

_OF_ENDPOINT = ("endpoint_model", "api_key_env", "timeout", "retries", "concurrency")
_OF_MODEL = ("base", "precision")
_JUDGES = ("endpoint", "model", "policy")
_WITHOUT_EFFECT = frozenset(("timeout", "retries", "concurrency", "rubric"))
"""On a value; a rubric's content has one, and its path has not."""


class JudgeOptions(RewardOptions):
    """Who judges, by what, and how."""

    endpoint: str | None = None
    """Base URL of an OpenAI-compatible endpoint, up to and with /v1."""
    endpoint_model: str | None = None
    """Name of the model there; needed where the endpoint has several."""
    api_key_env: str | None = None
    """Name of the environment variable with the endpoint's key."""
    model: str | None = None
    """A model that judges in this process: run directory, model folder, hub id or .gguf file."""
    policy: bool = False
    """The policy that is trained judges its own answers, with its weights as they are (self-rewarding); in runs that
    sample."""
    base: str | None = None
    """The base model, where an adapter does not name a usable one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What the model in this process computes in."""
    mode: Literal["score", "compare"] = "score"
    """score: by the rubric's scale. compare: the probability that the answer beats the row's reference answer."""
    reference: str | None = None
    """Column with a reference answer. To compare with; default is reference. Or to show to a judge that scores; default
    is none."""
    rubric: str | None = None
    """A file with a rubric: YAML, or plain text; or additive, the five points of self-rewarding. Default is
    helpfulness."""
    rubric_column: str | None = "rubric"
    """Column with a row's own rubric, as text or as a mapping; used where the row has one."""
    scale: tuple[int, int] | None = None
    """Lowest and highest score (1-10), in place of the rubric's."""
    over: Literal["final", "all"] = "final"
    """The text that is judged: behind the thought, or with it."""
    reasoning: bool = False
    """The judge gives reasons before its verdict, at twice the number of requests."""
    temperature: float = Field(0.0, ge=0, le=2)
    """Of the judge's replies. At 0 the same answer gets the same value, and results are kept."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens of a reply; default is 16 for a verdict, 1024 for reasons. A model that always thinks needs more."""
    least_mass: float = Field(0.5, ge=0, le=1)
    """Probability that all verdicts must have together; below it the judge has not answered."""
    timeout: float = Field(60.0, gt=0)
    """Seconds for an attempt."""
    retries: int = Field(4, ge=0)
    """Attempts after the first, where the endpoint is busy or cannot be reached."""
    concurrency: int = Field(8, ge=1)
    """Requests at the same time."""

    @field_validator("scale", mode="before")
    @classmethod
    def _scale(cls, value: Any) -> Any:
        return None if value is None else read_scale(value)

    @model_validator(mode="after")
    def _one_judge(self) -> JudgeOptions:
        chosen = [name for name in _JUDGES if getattr(self, name)]
        if len(chosen) != 1:
            raise ValueError("give one of endpoint (a base URL), model (a path) and policy (true)")
        idle = {"endpoint": _OF_MODEL, "model": _OF_ENDPOINT, "policy": (*_OF_MODEL, *_OF_ENDPOINT)}[chosen[0]]
        given = [name for name in idle if name in self.model_fields_set]
        if given:
            raise ValueError(f"{' and '.join(given)} mean nothing with {chosen[0]}")
        if self.policy and self.temperature > 0:
            raise ValueError("a policy judges at temperature 0: after an interruption it would say something else")
        if self.mode == "compare" and self.scale is not None:
            raise ValueError("scale means nothing in a comparison")
        return self


class JudgeReward(Reward):
    """What a language model says of the answer: 0 to 1.

    Where it can, it takes the probabilities of all verdicts and not the one that was drawn. An answer that is empty
    (or never came out of its thought) is worth 0 without being asked about.
    """

    kind = "judge"
    title = "A language model scores the answer by a rubric, or compares it with a reference answer"
    Options = JudgeOptions

    def __init__(self, options: RewardOptions | None = None) -> None:
        super().__init__(options)
        self.of_policy = self.options.policy
        self.pure = self.options.temperature == 0 and not self.of_policy  # whose weights change from batch to batch
        self.exact = self.options.endpoint is not None
        self.rubric = Rubric() if self.options.rubric is None else Rubric.read(self.options.rubric)
        if self.options.endpoint is None:
            need_training_packages()
        self._policy: Any = None
        self._judge: Judge | None = None
        self._lock = threading.Lock()

    @property
    def columns(self) -> tuple[str, ...]:
        """The reference answer, where it is used."""
        return () if self._reference is None else (self._reference,)

    @property
    def _reference(self) -> str | None:
        named: str | None = self.options.reference
        return "reference" if named is None and self.options.mode == "compare" else named

    @property
    def judge(self) -> Judge:
        """The judge, set up.

        Raises:
            PlauditError: PL3xx from loading a model; PL708, it cannot be asked.
        """
        with self._lock:
            if self._judge is None:
                o = self.options
                self._judge = Judge(
                    self._backend(),
                    self.rubric,
                    rubric_column=o.rubric_column,
                    reasoning=o.reasoning,
                    temperature=o.temperature,
                    max_tokens=o.max_tokens,
                    least_mass=o.least_mass,
                    scale=o.scale,
                )
            return self._judge

    def _backend(self) -> ChatBackend:
        o = self.options
        if o.endpoint is None:
            from plaudit.rewards.judges.local import LocalModel

            if o.policy and self._policy is None:
                raise RewardError(
                    "PL708",
                    "the judge is the policy that is trained, and here none is",
                    mend="use it in a run that samples (plaudit online_dpo, grpo …), or name a model with model",
                    where="policy=true",
                )
            if o.policy:
                return LocalModel(lambda: self._policy)
            return LocalModel.of(o.model, base=o.base, precision=o.precision)
        from plaudit.rewards.judges.endpoint import Endpoint

        return Endpoint(
            o.endpoint,
            o.endpoint_model,
            api_key_env=o.api_key_env,
            concurrency=o.concurrency,
            timeout=o.timeout,
            retries=o.retries,
        )

    def use_policy(self, policy: Any) -> None:
        """See `Reward`."""
        self._policy = policy

    def identity(self) -> str:
        """With the rubric's content."""
        return self.fingerprint() or f"{super().identity()}:{self.rubric.digest}"

    def fingerprint(self) -> str:
        """With the rubric's content, and when the model's folder was last written."""
        if not self.pure:
            return ""
        options = json.dumps(self.options.model_dump(mode="json", exclude=_WITHOUT_EFFECT), sort_keys=True)
        folder = Path(self.options.model or "").expanduser()
        files = sorted(f for f in folder.rglob("*") if f.is_file()) if self.options.model and folder.is_dir() else []
        state = [(str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return f"{self.kind}:{options}:{self.rubric.digest}:{state}"

    def score(self, samples: Sequence[Sample]) -> list[RewardResult]:
        """See `Reward`."""
        items = [self._item(sample) for sample in samples]
        asked = [item for item in items if not isinstance(item, RewardResult)]
        found = iter(self._asked(asked) if asked else [])
        return [item if isinstance(item, RewardResult) else next(found) for item in items]

    def _item(self, sample: Sample) -> Answered | RewardResult:
        """What is asked about, or what needs no asking."""
        answer = sample.final if self.options.over == "final" else sample.text
        try:
            reference = None if self._reference is None else _text(sample, self._reference)
        except BadRow as problem:
            return RewardResult.failed("bad_row", str(problem))
        if not answer.strip():
            return RewardResult.of(0.0, note="the answer is empty")
        return Answered(sample.prompt, answer, sample.row, reference)

    def _asked(self, items: Sequence[Answered]) -> list[RewardResult]:
        if self.options.mode == "score":
            return self.judge.scores(items)
        return self.judge.comparisons([Pair(i.prompt, i.answer, i.reference or "", i.row) for i in items])

    def remarks(self) -> list[str]:
        """The judge's consistency, and what its endpoint does not have."""
        return [] if self._judge is None else self._judge.remarks()

    def close(self) -> None:
        """Close connections, and let a model go; what is known of the judge's consistency stays."""
        with self._lock:
            if self._judge is not None:
                self._judge.close()


def _text(sample: Sample, name: str) -> str:
    """A reference answer: text, or messages, of which the assistant's are taken."""
    value = column(sample, name, "the reference answer")
    if isinstance(value, list):
        value = "\n".join(
            str(m.get("content") or "") for m in value if isinstance(m, dict) and m.get("role") == "assistant"
        )
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"the column {name!r} has {value!r}, must be text")
    return value
