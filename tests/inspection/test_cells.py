"""Tokens as text: nothing is lost, nothing is invisible."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from plaudit.inspection.cells import Cell, Mark, Speller, shortened, token_text, visible

TEXTS = [
    "It is blue.",
    "  two spaces\tand a tab\n\nand lines ",
    "<|im_start|>user\nهل السماء زرقاء؟ می‌خواهم<|im_end|>",
    "世界 👩‍👩‍👧 é e\u0301 ﷽",
    "\x1b[31m red \x07 \u202egnp.exe \ufeff\u200b",
]


@pytest.fixture(scope="module")
def speller(tiny_model_dir: Path) -> Speller:
    return Speller(AutoTokenizer.from_pretrained(tiny_model_dir))


def ids_of(speller: Speller, text: str) -> list[int]:
    return list(speller.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("text", TEXTS)
def test_cells_are_the_whole_text(speller: Speller, text: str) -> None:
    ids = ids_of(speller, text)
    cells = speller.cells(ids, ["masked"] * len(ids))
    assert [i for cell in cells for i in cell.ids] == ids
    assert "".join(cell.text for cell in cells) == visible(text)


def test_a_character_of_several_tokens_is_one_cell_unless_its_tokens_differ(speller: Speller) -> None:
    ids = ids_of(speller, "a世b")
    assert len(ids) == 5  # bytes
    whole = speller.cells(ids, ["masked", *["trained"] * 3, "masked"])
    assert [(c.text, len(c.ids)) for c in whole] == [("a", 1), ("世", 3), ("b", 1)]
    torn = speller.cells(ids, ["masked", "masked", "trained", "trained", "trained"])
    assert [c.mark for c in torn] == ["masked", "masked", "trained", "trained", "trained"]
    assert [len(c.ids) for c in torn] == [1] * 5
    assert "世" not in "".join(c.text for c in torn)


def test_special_tokens_are_told_from_text_that_looks_like_them(speller: Speller) -> None:
    real = speller.cells(ids_of(speller, "<|im_end|>"), ["trained"])
    assert [(c.text, c.special) for c in real] == [("<|im_end|>", True)]
    ids = [i for letter in "<|im_end|>" for i in ids_of(speller, letter)]
    written = speller.cells(ids, ["trained"] * len(ids))
    assert "".join(c.text for c in written) == "<|im_end|>"
    assert not any(c.special for c in written)


def test_stray_bytes_are_shown_and_end(speller: Speller) -> None:
    stray = ids_of(speller, "世")[:2] * 20
    cells = speller.cells(stray, ["trained"] * len(stray))
    assert [i for c in cells for i in c.ids] == stray
    assert max(len(c.ids) for c in cells) <= 4
    assert all("\ufffd" in c.text for c in cells)


def test_nothing_commands_a_terminal_or_hides() -> None:
    shown = visible("".join(TEXTS))
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert not set(shown) & set("\u202e\ufeff\u200b\x7f")
    assert visible("\x1b[31m") == "␛[31m"
    assert visible("\u202e") == "⟨U+202E⟩"
    assert visible("a\nb") == "a⏎\nb"
    assert visible("⟦trained⟧ ◆") == "⟨U+27E6⟩trained⟨U+27E7⟩ ⟨U+25C6⟩"  # nobody fakes our marks
    assert visible("می‌خواهم 👩‍👩‍👧") == "می‌خواهم 👩‍👩‍👧"


def test_a_token_of_its_own_is_one_line() -> None:
    assert token_text(Cell((1,), " a⏎\n", "masked")) == "␣a⏎"


def cells_of(*stretches: tuple[Mark, int]) -> list[Cell]:
    rng = random.Random(0)
    found = []
    for mark, count in stretches:
        while count:
            size = min(count, rng.choice((1, 1, 1, 3)))
            found.append(Cell(tuple(range(size)), "x" * size, mark))
            count -= size
    return found


@pytest.mark.parametrize("limit", [4, 7, 50])
def test_long_stretches_lose_their_middle_and_say_how_much(limit: int) -> None:
    cells = cells_of(("masked", 300), ("trained", 5), ("masked", 40), ("trained", 90))
    short = shortened(cells, limit)
    assert sum(c.count for c in short) == sum(c.count for c in cells)
    for mark in ("masked", "trained"):
        assert sum(c.count for c in short if c.mark == mark) == sum(c.count for c in cells if c.mark == mark)
    assert sum(bool(c.left_out) for c in short) == {4: 3, 7: 3, 50: 2}[limit]
    assert shortened(cells, 1000) == cells


def test_decoders_that_drop_a_space_at_a_start_do_not_here() -> None:
    class Dropping:
        """Like SentencePiece's: ▁ is a space, but not at the start of what is decoded."""

        all_special_ids: tuple[int, ...] = ()
        added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012
        pieces = ("▁It", "▁is", "▁blue", ".")

        def decode(self, ids: list[int], **options: Any) -> str:
            return "".join(self.pieces[i] for i in ids).replace("▁", " ").removeprefix(" ")

    cells = Speller(Dropping()).cells([0, 1, 2, 3], ["masked"] * 4)
    assert [c.text for c in cells] == ["It", " is", " blue", "."]
