"""Texts and bytes of single tokens, for the vocabularies that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plaudit.serving.pieces import Pieces


def test_bytes_of_a_byte_level_vocabulary_are_those_of_the_text(tiny_model_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny_model_dir))
    pieces = Pieces(tokenizer)
    text = "Žluťoučký kůň 🐎, naïve\n\t— the sky"
    ids = tokenizer(text)["input_ids"]
    assert b"".join(bytes(pieces.of(i)[1]) for i in ids).decode() == text
    assert any("\ufffd" in pieces.text(i) for i in ids), "some token is a part of a character"
    assert pieces.of(tokenizer.eos_token_id) == ("<|im_end|>", list(b"<|im_end|>"))
    assert all(pieces.of(i)[0] == tokenizer.decode([i]) for i in ids)


def test_a_sentencepiece_vocabulary() -> None:
    class Vocabulary:
        all_special_ids = (0,)
        names = ("</s>", "\u2581the", "sky", "<0xE2>", "\u2581")

        def convert_ids_to_tokens(self, token: int) -> str | None:
            return self.names[token] if token < len(self.names) else None

    pieces = Pieces(Vocabulary())
    found = [pieces.of(i) for i in range(6)]
    assert [text for text, _ in found] == ["</s>", " the", "sky", "\ufffd", " ", ""]
    assert [bytes(b) for _, b in found] == [b"</s>", b" the", b"sky", b"\xe2", b" ", b""]
