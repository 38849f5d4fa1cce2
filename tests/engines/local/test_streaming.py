"""Text that was told is never taken back, and all of it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.engines import Sampling
from plaudit.engines.hf import HFEngine
from plaudit.engines.local import LocalEngine
from plaudit.engines.local.streaming import TextStream
from plaudit.models.forest_model import ForestModel
from tests import zoo
from tests.engines.tiny import Words


def by_bytes(tokens: Sequence[int]) -> str:
    """A byte is a token, as in the worst case of a byte-level tokenizer."""
    return bytes(tokens).decode("utf-8", errors="replace")


@given(st.text(alphabet="aä€😀bEND", max_size=20), st.sampled_from([(), ("END",), ("NDE", "b")]))
def test_pieces_add_up_and_never_hold_half_a_character(text: str, stops: tuple[str, ...]) -> None:
    cuts = [at for s in stops if (at := text.find(s)) >= 0]
    final = text[: min(cuts)] if cuts else text
    pieces: list[str] = []
    stream = TextStream(by_bytes, pieces.append, stops)
    tokens = list(text.encode())
    for n in range(1, len(tokens) + 1):
        stream.update(tokens[:n])
        so_far = "".join(pieces)
        assert final.startswith(so_far), (so_far, final)
        if any(s in by_bytes(tokens[:n]) for s in stops):
            break  # the engine ends here
    stream.finish(final)
    assert "".join(pieces) == final
    assert all(pieces)


def by_words(tokens: Sequence[int]) -> str:
    """Every token a word, and the first without its space, as SentencePiece's vocabularies decode."""
    return "".join(f" w{t}" for t in tokens).removeprefix(" ")


@pytest.mark.parametrize("decode", [by_bytes, by_words])
@given(st.lists(st.sampled_from("a ä€😀\ufffdb"), min_size=80, max_size=160))
def test_long_texts_are_told_exactly_and_decoded_at_their_end(
    decode: Callable[[Sequence[int]], str], characters: list[str]
) -> None:
    tokens = list("".join(characters).encode())
    decoded: list[int] = []
    pieces: list[str] = []

    def counted(part: Sequence[int]) -> str:
        decoded.append(len(part))
        return decode(part)

    stream = TextStream(counted, pieces.append)
    for n in range(1, len(tokens) + 1):
        stream.update(tokens[:n])
        assert "".join(pieces) == decode(tokens[:n]).rstrip("\ufffd")[: len("".join(pieces))]
    assert "".join(pieces).startswith(decode(tokens).rstrip("\ufffd"))
    assert sum(decoded) < 100 * len(tokens), "in proportion to the length, not to its square"


def test_an_engine_that_cannot_tells_all_at_once() -> None:
    engine = HFEngine(zoo.build("llama").eval(), Words())
    pieces: list[str] = []
    group = engine.stream(zoo.Maker(1).ids(5), Sampling(max_new_tokens=9, seed=3), pieces.append)
    assert pieces == [group.completions[0].text]


@pytest.mark.parametrize("stop", [(), ("w5",)])
def test_the_engine_tells_what_it_returns(stop: tuple[str, ...]) -> None:
    engine = LocalEngine(ForestModel(zoo.build("llama").eval()), Words())
    sampling = Sampling(max_new_tokens=30, seed=3, stop=stop)
    pieces: list[str] = []
    group = engine.stream(zoo.Maker(1).ids(5), sampling, pieces.append)
    (plain,) = engine.generate([zoo.Maker(1).ids(5)], 1, sampling)
    assert "".join(pieces) == group.completions[0].text == plain.completions[0].text
    assert len(pieces) >= min(3, len(group.completions[0].token_ids) - 1)


def test_a_listener_that_raises_ends_the_work() -> None:
    engine = LocalEngine(ForestModel(zoo.build("llama").eval()), Words())

    def listen(piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.stream(zoo.Maker(1).ids(5), Sampling(max_new_tokens=30), listen)
    assert engine.counts.generated_tokens == 1
