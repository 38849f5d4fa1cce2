"""The one chat renderer: records become `PromptGroup`s of token ids and action masks.

Three steps, so that tokenising can be done for many rows at once: the drafter writes the text and marks the trained
spans in it, the texts of all drafts are tokenised together, `_assemble` cuts the tokens. The boundary between prompt
and answer comes from one tokenisation of the whole text. It is verified against the tokens of the prompt alone, which
the model will see when it generates. Masks are made by position, never by token id, so pad == eos cannot matter.

Shapes: P prompt tokens, L tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plaudit.data.drafts import Answer, Draft, Drafter, TrainOn
from plaudit.data.records import AnyRecord, PromptRecord, build
from plaudit.data.template import ChatTemplate
from plaudit.data.tokens import Encoded, Encoder
from plaudit.data.turns import Message, RowProblem
from plaudit.types import Completion, PromptGroup, Source, Tokens, token_array

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class Rendered:
    """The groups of one record (several for templates that rewrite history), and the notes on them."""

    groups: list[PromptGroup]
    notes: list[str]


class Renderer:
    """Turns records into groups.

    Args:
        tokenizer: any transformers tokenizer.
        chat_template: Jinja source that replaces the tokenizer's own.
        system_prompt: system message for conversations that have none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        system_prompt: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, chat_template, system_prompt)
        self.drafter = Drafter(self.template)
        self.encoder = Encoder(tokenizer)

    @property
    def has_template(self) -> bool:
        """Whether chat messages can be rendered."""
        return self.template.exists

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: the template's end of turn and EOS."""
        ids = [] if self.encoder.eos_id is None else [self.encoder.eos_id]
        if self.template.end_of_turn is not None:
            ids.insert(0, self.encoder.ids(self.template.end_of_turn)[0])
        return tuple(dict.fromkeys(ids))

    def prompt_ids(
        self,
        prompt: str | Sequence[Message | dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> Tokens:
        """[P] the tokens to generate from: exactly those that training saw as the prompt.

        Raises:
            DataError: PL208, messages without a chat template.
            RowProblem: the prompt is malformed or the template refuses it.
        """
        given = prompt if isinstance(prompt, str) else list(prompt)
        fields = {"prompt": given, "tools": tools, "chat_template_kwargs": chat_template_kwargs}
        return self.render(build(PromptRecord, fields)).groups[0].prompt_ids

    def render(self, record: AnyRecord, *, train_on: TrainOn = "assistant", source: Source | None = None) -> Rendered:
        """One record's groups.

        Raises:
            RowProblem: the row cannot be rendered.
            DataError: PL208, messages without a chat template.
        """
        result = self.render_batch([record], [source], train_on=train_on)[0]
        if isinstance(result, RowProblem):
            raise result
        return result

    def render_batch(
        self, records: Sequence[AnyRecord], sources: Sequence[Source | None], *, train_on: TrainOn = "assistant"
    ) -> list[Rendered | RowProblem]:
        """The groups of many records; a record that cannot be rendered yields its problem in its place."""
        drafts: list[list[Draft] | RowProblem] = []
        for record in records:
            try:
                drafts.append(self.drafter.draft(record, train_on))
            except RowProblem as problem:
                drafts.append(problem)
        good = [d for ds in drafts if not isinstance(ds, RowProblem) for d in ds]
        texts = [d.prompt for d in good] + [a.full for d in good for a in d.answers if not d.needs_cuts(a)]
        encoded = self.encoder.encode(texts) | self.encoder.encode(
            [a.full for d in good for a in d.answers if d.needs_cuts(a)], offsets=True
        )
        out: list[Rendered | RowProblem] = []
        for record, source, ds in zip(records, sources, drafts, strict=True):
            if isinstance(ds, RowProblem):
                out.append(ds)
                continue
            try:
                groups = [self._assemble(d, encoded, record, source) for d in ds]
            except RowProblem as problem:
                out.append(problem)
            else:
                out.append(Rendered(groups, list(dict.fromkeys(n for d in ds for n in d.notes))))
        return out

    def _assemble(
        self, draft: Draft, encoded: dict[str, Encoded], record: AnyRecord, source: Source | None
    ) -> PromptGroup:
        prompt = encoded[draft.prompt].ids
        wholes = [encoded[a.full].ids for a in draft.answers]
        n = min((_shared(prompt, w) for w in wholes), default=len(prompt))
        pieces: list[tuple[list[int], list[bool]]]
        if n == len(prompt) or (draft.chat and n >= len(prompt) - 2):
            if n < len(prompt):
                draft.notes.append("boundary_merged")
            pieces = [self._cut(draft, a, encoded[a.full], n) for a in draft.answers]
        else:
            draft.notes.append("boundary_separate")
            n = len(prompt)
            pieces = [self._separate(draft, a) for a in draft.answers]
        if draft.prompt and encoded[draft.prompt].double_bos:
            draft.notes.append("double_bos")
        lead = self._lead(draft, prompt or (wholes[0] if wholes else []))
        prompt_ids = token_array(lead + prompt[:n])
        completions = [self._completion(draft, a, *p) for a, p in zip(draft.answers, pieces, strict=True)]
        return PromptGroup(
            prompt_ids=prompt_ids,
            completions=completions,
            prompt_mask=np.ones(len(prompt_ids), dtype=np.bool_) if draft.prompt_trained else None,
            source=source,
            margin=draft.fields.get("margin"),
            preference=draft.fields.get("preference"),
            prompt_text=draft.prompt,
            prompt=record.prompt if isinstance(record, PromptRecord) else None,
            extras=record.extras | draft.fields.get("extras", {}),
        )

    def _lead(self, draft: Draft, start: list[int]) -> list[int]:
        """BOS for plain text, where the tokenizer wants one and the text does not bring it; templates write theirs."""
        if draft.chat or not self.encoder.lead:
            return []
        if start[: len(self.encoder.lead)] == self.encoder.lead:
            draft.notes.append("bos_in_text")
            return []
        return self.encoder.lead

    def _cut(self, draft: Draft, answer: Answer, whole: Encoded, n: int) -> tuple[list[int], list[bool]]:
        """The tokens after the first n, and which of them are trained."""
        ids = whole.ids[n:]
        if draft.whole or not draft.needs_cuts(answer):
            return ids, [True] * len(ids)
        cuts, straddles = self.encoder.cuts(answer.full, whole, [p for span in answer.spans for p in span])
        if straddles and cuts[0] >= n:
            draft.notes.append("turn_straddle")
        mask = [False] * len(ids)
        for start, end in zip(cuts[::2], cuts[1::2], strict=True):
            for i in range(max(start - n, 0), end - n):
                mask[i] = True
        # a token of the prompt's end that a sibling's answer merges with belongs to the answer, here too
        if cuts[0] > n and answer.spans[0][0] == len(draft.prompt):
            mask[: cuts[0] - n] = [True] * (cuts[0] - n)
        return ids, mask

    def _separate(self, draft: Draft, answer: Answer) -> tuple[list[int], list[bool]]:
        """Each stretch between the edges of the spans tokenised by itself."""
        ids: list[int] = []
        mask: list[bool] = []
        at = len(draft.prompt)
        for start, end in answer.spans:
            for text, trained in ((answer.full[at:start], draft.whole), (answer.full[start:end], True)):
                piece = self.encoder.continuation(text)
                ids += piece
                mask += [trained] * len(piece)
            at = end
        return ids, mask

    def _completion(self, draft: Draft, answer: Answer, ids: list[int], mask: list[bool]) -> Completion:
        if answer.add_eos:
            if self.encoder.eos_id is None:
                draft.notes.append("no_eos")
            elif not ids or ids[-1] != self.encoder.eos_id:
                ids, mask = [*ids, self.encoder.eos_id], [*mask, True]
        text = answer.full[len(draft.prompt) :]
        return Completion(
            token_ids=token_array(ids),
            action_mask=np.fromiter(mask, dtype=np.bool_),
            text=self.template.display(text) if draft.chat else text,
            weight=draft.weight,
            **answer.fields,
        )


def _shared(a: list[int], b: list[int]) -> int:
    if b[: len(a)] == a:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
