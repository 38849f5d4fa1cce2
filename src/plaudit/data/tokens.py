"""Text to token ids, in batches, and where a character position falls among the tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of a text; `ends` and `starts` are character positions, None where they were not asked for."""

    ids: list[int]
    starts: list[int] | None = None
    ends: list[int] | None = None
    double_bos: bool = False
    """The text started with two BOS tokens; one was removed."""


class Encoder:
    """Tokenises without adding anything.

    Attributes:
        lead: what the tokenizer puts before plain text (mostly BOS, or nothing).
        bos_id, eos_id: None where the tokenizer has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id
        with_special = list(tokenizer("a", verbose=False)["input_ids"])
        self.lead: list[int] = [self.bos_id] if self.bos_id is not None and with_special[:1] == [self.bos_id] else []

    def encode(self, texts: Sequence[str], *, offsets: bool = False) -> dict[str, Encoded]:
        """Token ids of each different text. A second BOS at the start, whoever wrote it, is removed."""
        different = list(dict.fromkeys(texts))
        if not different:
            return {}
        with_offsets = offsets and bool(self.tokenizer.is_fast)
        batch = self.tokenizer(
            different,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=with_offsets,
            verbose=False,
        )
        spans = batch["offset_mapping"] if with_offsets else [None] * len(different)
        out = {}
        for text, ids, span in zip(different, batch["input_ids"], spans, strict=True):
            extra = self._extra_bos(ids)
            starts = None if span is None else [s for s, _ in span[extra:]]
            ends = None if span is None else [e for _, e in span[extra:]]
            out[text] = Encoded(list(ids[extra:]), starts, ends, double_bos=extra > 0)
        return out

    def ids(self, text: str) -> list[int]:
        """Token ids of one text."""
        return self.encode([text])[text].ids

    def continuation(self, text: str) -> list[int]:
        """Token ids of a text that follows another. Tokenizers of the SentencePiece family put a space before whatever
        starts a text; after a line end, which is taken away again, they do not."""
        anchor, whole = self.ids("\n"), self.ids("\n" + text)
        return whole[len(anchor) :] if whole[: len(anchor)] == anchor else self.ids(text)

    def _extra_bos(self, ids: Sequence[int]) -> int:
        count = 0
        while self.bos_id is not None and list(ids[count : count + 2]) == [self.bos_id, self.bos_id]:
            count += 1
        return count

    def cuts(self, text: str, encoded: Encoded, positions: Sequence[int]) -> tuple[list[int], int]:
        """For each character position, the number of tokens before it.

        Offsets answer where a token ends and the next begins exactly there. Where they do not (some tokenizers leave
        white space out of them, some have none), the text up to the position is tokenised and compared.

        Returns:
            (cuts, straddles): a token that reaches over a position counts as after it, and is a straddle.
        """
        cuts, straddles = [], 0
        for position in positions:
            cut = self._exact(encoded, position)
            if cut is None:
                part = self.ids(text[:position])
                cut = next((i for i, (a, b) in enumerate(zip(part, encoded.ids, strict=False)) if a != b), len(part))
                straddles += cut != len(part)
            cuts.append(min(cut, len(encoded.ids)))
        return cuts, straddles

    @staticmethod
    def _exact(encoded: Encoded, position: int) -> int | None:
        starts, ends = encoded.starts, encoded.ends
        if starts is None or ends is None:
            return None
        cut = bisect_right(ends, position)
        if cut and (ends[cut - 1] != position or starts[cut - 1] == position):
            return None
        if cut < len(starts) and starts[cut] != position:
            return None
        return cut
