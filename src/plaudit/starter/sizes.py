"""How many groups the rows become, and how long they are: in characters, or in tokens where there is a tokenizer."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plaudit.data.convert import Conversion
from plaudit.data.lengths import Overlong, length
from plaudit.data.lengths import fit as cut
from plaudit.data.readers import Rows
from plaudit.data.records import AnyRecord, CompletionRecord, PromptRecord, RankingRecord
from plaudit.data.recordset import RecordSet, records_of
from plaudit.data.report import Converted, Lengths, reason_table
from plaudit.data.splits import split_by_prompt
from plaudit.data.turns import RowProblem, Turns, turns_key
from plaudit.errors import DataError
from plaudit.starter.fits import Fit
from plaudit.starter.rows import Looked
from plaudit.types import PromptGroup, Source

if TYPE_CHECKING:
    from plaudit.data.render import Renderer

MOST_UNUSABLE = 0.05
"""Default of data.max_drop_fraction."""
TOKENISED = 5000
"""Rows whose tokens are counted, spread over the file; of a longer file lengths are an estimate."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The file of held-out rows that lies beside."""

    path: str
    rows: int
    unusable: int
    prompts: int
    shared: int
    """different prompts that are in the training file too"""
    counted: tuple[PromptGroup, ...] = ()
    """the groups whose tokens were counted"""

    @property
    def leaks(self) -> bool:
        """Whether it would mostly say how well the training file was learned by heart."""
        return 2 * self.shared > self.prompts


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the rows become.

    Attributes:
        rows: of the file.
        unusable: of them, those without content or signal.
        groups: a prompt with its answers each; an estimate where rows become several groups and not all are counted.
        prompts: different ones.
        shapes: the recognised row shapes.
        unit: "tokens" or "characters".
        prompt, total: lengths of the prompts, and of the prompts with their longest answers.
        totals: [rows counted] every one of the latter.
        sampled: whether only `TOKENISED` rows were counted.
        converted: what the conversion made and left out.
        held_out: the file beside, where a run could use it.
        untemplated: rows of text that the model's chat template, which is there, does not reach.
        counted: the groups whose tokens were counted.
        bos_id: of the tokenizer that counted them; None where it has none.
    """

    rows: int
    unusable: int
    groups: int
    prompts: int
    shapes: tuple[str, ...]
    unit: str
    prompt: Lengths
    total: Lengths
    totals: tuple[int, ...]
    sampled: bool
    converted: Converted | None
    held_out: HeldOut | None
    untemplated: int = 0
    counted: tuple[PromptGroup, ...] = ()
    bos_id: int | None = None

    @property
    def files(self) -> list[tuple[PromptGroup, ...]]:
        """The counted groups to train on, and those of the file beside where it is used."""
        beside = self.held_out
        return [self.counted, *([beside.counted] if beside is not None and beside.counted and not beside.leaks else [])]

    def over(self, most: int) -> int:
        """How many of the counted rows are longer."""
        return sum(total > most for total in self.totals)

    def lost(self, most: int, policy: Overlong) -> float:
        """Share of the counted groups that the policy leaves out: of the file where that is the larger one."""
        return max(_lost(groups, most, policy, self.bos_id) for groups in self.files)

    def holds_out(self, fraction: float) -> int | None:
        """Groups that data.eval_fraction would hold out; None where that is only known with a tokenizer, or all groups
        would be on one side."""
        if not self.counted or self.sampled:
            return None
        try:
            return len(split_by_prompt(self.counted, fraction)[1])
        except DataError:
            return 0


def measure(looked: Looked, fit: Fit, renderer: Renderer | None) -> Sizes:
    """Read the rows as the method will.

    Args:
        renderer: counts tokens; None counts characters.

    Raises:
        DataError: PL206 too many rows without content or signal, PL207 none that can be used, PL208 messages without a
            chat template, PL212 a conversion that cannot be done.
    """
    template = renderer is None or renderer.has_template
    found = _records(looked.rows, fit, has_template=template)
    if found.dropped > MOST_UNUSABLE * found.rows:
        raise DataError(
            "PL206",
            f"{found.dropped} of {found.rows} rows cannot be used\n{reason_table(found.files)}",
            where=looked.path,
            mend=f"`plaudit doctor {looked.path} --fix FILE` writes a copy without them; then `plaudit init FILE`",
        )
    placed, converted = list(found), None
    if fit.convert is not None:
        placed, converted = Conversion(fit.convert).apply(placed)
    if not placed:
        assert converted is not None
        raise DataError(
            "PL207",
            f"no row could be converted for {fit.name}\n" + "\n".join(converted.lines()),
            where=looked.path,
            mend="choose another method: `plaudit init` without --method takes the one that fits best",
        )
    prompts = {_prompt_key(record) for record, _ in placed}
    common = Sizes(
        rows=found.rows,
        unusable=found.dropped,
        groups=len(placed),
        prompts=len(prompts),
        shapes=tuple(dict.fromkeys(shape for file in found.files for shape in file.conventions)),
        unit="characters",
        prompt=Lengths(),
        total=Lengths(),
        totals=(),
        sampled=False,
        converted=converted,
        held_out=_held_out(looked, fit, prompts, renderer, has_template=template),
        untemplated=sum(_is_text(record) for record, _ in placed) if renderer is not None and template else 0,
    )
    return _in_characters(common, placed) if renderer is None else _in_tokens(common, placed, renderer, fit)


def _is_text(record: AnyRecord) -> bool:
    return isinstance(record.prompt, str) and bool(record.prompt)


def makes_groups(looked: Looked, fit: Fit) -> bool:
    """Whether the conversion makes anything: there may be no prompt with a liked and a disliked answer."""
    if fit.convert is None or looked.kind != "feedback":
        return True
    found = _records(looked.rows, fit, has_template=True)
    return bool(Conversion(fit.convert).apply(list(found))[0])


def _held_out(
    looked: Looked, fit: Fit, trained: set[str], renderer: Renderer | None, *, has_template: bool
) -> HeldOut | None:
    if looked.beside is None:
        return None
    found = _records(looked.beside, fit, has_template=has_template)
    if found.dropped > MOST_UNUSABLE * found.rows:
        return None
    prompts = {_prompt_key(record) for record in found.records}
    placed = list(found)
    if fit.convert is not None:
        placed, _ = Conversion(fit.convert).apply(placed)
    counted = () if renderer is None else _counted(placed, renderer, fit)[0]
    return HeldOut(looked.beside.name, found.rows, found.dropped, len(prompts), len(prompts & trained), counted)


def _records(rows: Rows, fit: Fit, *, has_template: bool) -> RecordSet[AnyRecord]:
    """As a run reads them: pairs are rankings of two where the method takes rankings."""
    kind = fit.reading.kind if fit.convert is not None else fit.method.data_kind
    named = dataclasses.replace(rows, columns=dict(fit.reading.columns))
    return records_of([named], kind, has_template=has_template, invalid="drop")


def _in_characters(sizes: Sizes, placed: Sequence[tuple[AnyRecord, Source]]) -> Sizes:
    prompts, totals = zip(*(_characters(record) for record, _ in placed), strict=True)
    return dataclasses.replace(sizes, prompt=Lengths.of(prompts), total=Lengths.of(totals), totals=totals)


def _in_tokens(sizes: Sizes, placed: Sequence[tuple[AnyRecord, Source]], renderer: Renderer, fit: Fit) -> Sizes:
    groups, problem = _counted(placed, renderer, fit)
    if not groups:
        assert problem is not None
        raise DataError(
            "PL207",
            f"no row can be rendered: {problem.detail}",
            where=str(placed[0][1]),
            mend="mend the rows, or give the model's own template (model.chat_template)",
        )
    totals = tuple(length(group) for group in groups)
    return dataclasses.replace(
        sizes,
        unit="tokens",
        groups=round(sizes.groups * len(groups) / min(len(placed), TOKENISED)),
        prompt=Lengths.of([len(group.prompt_ids) for group in groups]),
        total=Lengths.of(totals),
        totals=totals,
        sampled=len(placed) > TOKENISED,
        counted=groups,
        bos_id=renderer.encoder.bos_id,
    )


def _counted(
    placed: Sequence[tuple[AnyRecord, Source]], renderer: Renderer, fit: Fit
) -> tuple[tuple[PromptGroup, ...], RowProblem | None]:
    """(the rows in tokens, or of a long file `TOKENISED` of them; the first one that cannot be rendered)."""
    if len(placed) > TOKENISED:
        placed = [placed[i] for i in np.linspace(0, len(placed) - 1, TOKENISED, dtype=int)]
    records, sources = [record for record, _ in placed], [source for _, source in placed]
    rendered = renderer.render_batch(records, sources, train_on=fit.method().train_on)
    groups = tuple(group for each in rendered if not isinstance(each, RowProblem) for group in each.groups)
    return groups, next((each for each in rendered if isinstance(each, RowProblem)), None)


def _lost(groups: Sequence[PromptGroup], most: int, policy: Overlong, bos_id: int | None) -> float:
    longer = (copy.deepcopy(group) for group in groups if length(group) > most)  # a cut changes the group
    return sum(cut(group, most, policy, bos_id).group is None for group in longer) / max(len(groups), 1)


def _prompt_key(record: AnyRecord) -> str:
    """The same text for the same prompt."""
    return turns_key(_parts(record)[0])


def _characters(record: AnyRecord) -> tuple[int, int]:
    """(of the prompt, of the prompt with its longest answer)"""
    prompt, answers = _parts(record)
    own = _size(prompt)
    return own, own + max(map(_size, answers), default=0)


def _parts(record: AnyRecord) -> tuple[Turns, list[Turns]]:
    """(prompt, answers); a conversation's prompt is what stands before its last answer, and a text has none."""
    if isinstance(record, CompletionRecord):
        if record.text is not None:
            return "", [record.text]
        if record.messages is not None:
            assert not isinstance(record.messages, str)
            last = max(i for i, message in enumerate(record.messages) if message.role == "assistant")
            return record.messages[:last], [record.messages[last:]]
        assert record.prompt is not None
        assert record.completion is not None
        return record.prompt, [record.completion]
    if isinstance(record, RankingRecord):
        return record.prompt, list(record.completions)
    if isinstance(record, PromptRecord):
        return record.prompt, []
    answers = [getattr(record, name) for name in ("completion", "chosen", "rejected") if hasattr(record, name)]
    return record.prompt or "", answers


def _size(turns: Turns) -> int:
    return len(turns) if isinstance(turns, str) else sum(len(message.content or "") for message in turns)


__all__ = ["MOST_UNUSABLE", "HeldOut", "Sizes", "makes_groups", "measure"]
