"""From prompts with answers to token ids, as the reward model read them when it was trained.

A model of `plaudit reward` is given exactly the groups of its training: the same renderer, the end-of-turn token of the
answer last. A model from elsewhere is given the whole conversation as its own tokenizer's chat template writes it, the
last token included, which is what such models are trained on.

Shapes: P prompt tokens, L tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
from jinja2 import TemplateError

from plaudit.data.records import PromptRecord, RankingRecord, build
from plaudit.data.turns import RowProblem, Turns, as_messages, parse_turns, without_prompt
from plaudit.errors import DataError, RewardError
from plaudit.types import Completion, PromptGroup, Tokens, token_array

if TYPE_CHECKING:
    from plaudit.data.render import Renderer

T = TypeVar("T")
Given = Turns | list[dict[str, Any]]
"""Text, or chat messages, which may be plain dicts."""
Item = tuple[Given, Sequence[Given]]
"""A prompt with its answers."""
Overlong = Literal["error", "truncate"]


class Layout(Protocol):
    """How a reward model reads a conversation."""

    bos_id: int | None
    """Stands in for an empty prompt in the packed row."""

    def groups(self, items: Sequence[Item]) -> list[PromptGroup]:
        """One group per item, its answers in their order.

        Raises:
            RewardError: PL705, an item cannot be written as tokens; DataError: PL208, messages without a chat template.
        """
        ...


class TrainedLayout:
    """The layout of a model that `plaudit reward` has trained.

    Text is text and messages are a chat, as they were in training.

    Args:
        renderer: the one of training: its template and its system prompt.
    """

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self.bos_id: int | None = renderer.encoder.bos_id

    def groups(self, items: Sequence[Item]) -> list[PromptGroup]:
        """One group per item; see `Layout`."""
        records = [_ranking(prompt, answers, f"item {i}") for i, (prompt, answers) in enumerate(items, start=1)]
        found: list[PromptGroup] = []
        for i, rendered in enumerate(self.renderer.render_batch(records, [None] * len(records)), start=1):
            if isinstance(rendered, RowProblem):
                raise _refused(rendered, f"item {i}") from rendered
            found.append(rendered.groups[0])
        return found


def _ranking(prompt: Given, answers: Sequence[Given], where: str) -> RankingRecord:
    """The record that training would have read, in the answers' order; one answer is enough here, and equal ones are
    fine."""
    try:
        checked = build(PromptRecord, {"prompt": prompt}).prompt
        pairs = [
            without_prompt(checked, parse_turns(a, f"answer {k}"), f"answer {k}")
            for k, a in enumerate(answers, start=1)
        ]
        if len({isinstance(p, str) for p, _ in pairs}) > 1:
            raise RowProblem("wrong_type", "some answers are text and some are messages")
    except RowProblem as problem:
        raise _refused(problem, where) from problem
    first = pairs[0][0] if pairs else checked
    ranks = [float(k) for k in range(1, len(pairs) + 1)]
    return RankingRecord.model_construct(prompt=first, completions=[a for _, a in pairs], ranks=ranks, extras={})


def _refused(problem: RowProblem, where: str) -> RewardError:
    return RewardError(
        "PL705", f"the item cannot be scored: {problem.detail}", where=where, mend="mend or leave it out"
    )


class WholeConversation:
    """The layout of a model from elsewhere.

    Messages, and text too where the tokenizer has a chat template, are written by `apply_chat_template`; everything it
    writes is read, its last token included. Without a template (or with `plain_text`) prompt and answer are put behind
    each other, tokenised the tokenizer's own way, and an EOS is added where it has one, as TRL's reward trainer does.

    Args:
        tokenizer: the model's own.
        pad_id: the model's padding token; trailing ones are no content to transformers, so they are none here.
        plain_text: do not put text into the chat template.
        append_eos: end plain text with EOS.
    """

    def __init__(
        self, tokenizer: Any, *, pad_id: int | None = None, plain_text: bool = False, append_eos: bool = True
    ) -> None:
        self.tokenizer, self.pad_id = tokenizer, pad_id
        self.plain_text = plain_text or not tokenizer.chat_template
        self.append_eos = append_eos
        self.bos_id: int | None = None  # whatever stands at the start is written out

    def groups(self, items: Sequence[Item]) -> list[PromptGroup]:
        """One group per item; the prompt is what the token ids of its answers share. See `Layout`."""
        return [
            shared_prefix([self.ids(prompt, answer, f"item {i}, answer {k}") for k, answer in enumerate(answers, 1)])
            for i, (prompt, answers) in enumerate(items, start=1)
        ]

    def ids(self, prompt: Given, answer: Given, where: str = "item") -> list[int]:
        """The token ids of one conversation."""
        try:
            asked, said = without_prompt(
                parse_turns(prompt, "the prompt"), parse_turns(answer, "the answer"), "the answer"
            )
        except RowProblem as problem:
            raise _refused(problem, where) from problem
        if isinstance(asked, str) and isinstance(said, str) and self.plain_text:
            ids = list(self.tokenizer(asked + said, verbose=False)["input_ids"])
            eos = self.tokenizer.eos_token_id
            if self.append_eos and eos is not None and ids[-1:] != [eos]:
                ids.append(eos)
        else:
            ids = self._chat(asked, said, where)
        end = len(ids)
        while end > 1 and ids[end - 1] == self.pad_id:
            end -= 1
        if not ids:
            raise RewardError("PL705", "the conversation has no tokens", where=where, mend="leave it out")
        return ids[:end]

    def _chat(self, prompt: Turns, answer: Turns, where: str) -> list[int]:
        if not self.tokenizer.chat_template:
            raise DataError(
                "PL208",
                "the answers are chat messages, and the reward model's tokenizer has no chat template",
                where=str(self.tokenizer.name_or_path) or where,
                mend="give prompt and answer as text",
            )
        messages = as_messages(prompt, "user") + as_messages(answer, "assistant")
        try:
            ids = self.tokenizer.apply_chat_template(
                [m.for_template() for m in messages], tokenize=True, return_dict=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise RewardError(
                "PL705",
                f"the reward model's chat template refuses the turns: {error}",
                where=where,
                mend="give a conversation in the form that the model was trained on",
            ) from error
        return list(ids)


def shared_prefix(sequences: Sequence[Sequence[int]]) -> PromptGroup:
    """A group whose prompt is what all sequences begin with; every answer keeps at least its last token."""
    first = min(sequences, key=len, default=[])
    n = max(len(first) - 1, 0)
    for ids in sequences:
        n = next((i for i in range(n) if ids[i] != first[i]), n)
    return PromptGroup(token_array(first[:n]), [_answer(token_array(ids[n:])) for ids in sequences])


def _answer(ids: Tokens) -> Completion:
    return Completion(ids, np.ones(len(ids), dtype=np.bool_))


@dataclass(slots=True)
class Fitted:
    """Groups that fit the model's positions.

    Attributes:
        groups: what is packed.
        keys: for each group's completions, (item, answer) they are the score of.
        truncated: answers whose conversation lost its oldest tokens.
    """

    groups: list[PromptGroup] = field(default_factory=list)
    keys: list[list[tuple[int, int]]] = field(default_factory=list)
    truncated: int = 0

    def add(self, group: PromptGroup, keys: list[tuple[int, int]]) -> None:
        self.groups.append(group)
        self.keys.append(keys)


def fit_positions(
    groups: Sequence[PromptGroup], limit: int | None, overlong: Overlong, first_kept: frozenset[int] = frozenset()
) -> Fitted:
    """Apply the length limit answer by answer: a long answer must not cost its siblings their prompt.

    Args:
        groups: one per item.
        limit: most tokens of a conversation; None = no limit.
        overlong: error, or truncate: the oldest tokens of the conversation go, and it gets a group of its own.
        first_kept: a first token that stays (BOS).

    Raises:
        RewardError: PL705, a conversation is too long and `overlong` is "error".
    """
    fitted = Fitted()
    for i, group in enumerate(groups):
        lengths = [len(group.prompt_ids) + len(c.token_ids) for c in group.completions]
        short = [k for k, n in enumerate(lengths) if limit is None or n <= limit]
        if short:
            fitted.add(PromptGroup(group.prompt_ids, [group.completions[k] for k in short]), [(i, k) for k in short])
        for k, n in enumerate(lengths):
            if limit is None or n <= limit:
                continue
            if overlong == "error":
                raise RewardError(
                    "PL705",
                    f"the conversation has {n} tokens, and the model takes {limit}",
                    where=f"item {i + 1}, answer {k + 1}",
                    mend="shorten it, or let the oldest tokens be cut (overlong: truncate)",
                )
            ids = np.concatenate([group.prompt_ids, group.completions[k].token_ids])
            lead = int(int(ids[0]) in first_kept)
            kept = np.concatenate([ids[:lead], ids[n - limit + lead :]])
            fitted.add(PromptGroup(kept[:-1], [_answer(kept[-1:])]), [(i, k)])
            fitted.truncated += 1
    return fitted


def placed(
    keys: Sequence[Sequence[tuple[int, int]]], found: Sequence[Sequence[T]], items: Sequence[Item]
) -> list[list[T]]:
    """What belongs to the completions of fitted groups, back in the order of the items: [item][answer]."""
    at = {key: value for own, values in zip(keys, found, strict=True) for key, value in zip(own, values, strict=True)}
    return [[at[i, k] for k in range(len(answers))] for i, (_, answers) in enumerate(items)]
