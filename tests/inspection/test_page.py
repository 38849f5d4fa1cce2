"""The page as text: everything that comes from rows is escaped, and it shows what the terminal shows."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import plaudit
from plaudit.errors import ConfigError
from plaudit.inspection.cells import Cell
from plaudit.inspection.page import page, spans_of
from tests.conftest import write_jsonl
from tests.inspection.conftest import HOSTILE, PAIRS, TURN, says


def words(html: str) -> str:
    """The text of a page without its style and tags."""
    body = html.partition("<body")[2]
    return unescape(re.sub(r"<[^>]*>", "", body))


def test_hostile_rows_are_text(files: Path, tiny_model_dir: Path) -> None:
    asks = [{"role": "user", "content": HOSTILE}]
    rows = [
        {"prompt": asks, "chosen": [says("Yes.")], "rejected": [says("No.")], HOSTILE: 1},
        {"prompt": [TURN], "chosen": [says(HOSTILE)], "rejected": [says("No.")]},
        {"prompt": asks, "chosen": [says(HOSTILE)], "rejected": [says(HOSTILE)]},
    ]
    name = '"><script>alert(1)<script>.jsonl'
    write_jsonl(files / name, rows)
    found = plaudit.inspect(name, model=tiny_model_dir, row=[1, 2], dropped=True)
    html = page(found)
    assert "<script" not in html
    assert "<img" not in html
    assert words(html).count(HOSTILE) >= 3  # prompt, answer, and the name of a column
    assert len(found.dropped_rows) == 1
    assert HOSTILE.replace('"', '\\"') in words(html)  # a message of the row that is not used, as JSON


def test_nothing_is_loaded_and_nothing_runs(files: Path, tiny_model_dir: Path) -> None:
    html = page(plaudit.inspect("pairs.jsonl", model=tiny_model_dir))
    assert "default-src 'none'; style-src 'unsafe-inline'" in html
    assert not re.search(r"<(script|link|img|iframe|object)|\bsrc=|url\(|@import|https?://", html)


def test_the_marks_are_those_of_the_examples(files: Path, tiny_model_dir: Path) -> None:
    found = plaudit.inspect("chats.jsonl", model=tiny_model_dir, row=1)
    spans = re.findall(r'<span class="t (\w+)( special)?">([^<]*)</span>', page(found).partition('id="examples"')[2])
    trained = [unescape(text) for mark, _, text in spans if mark == "trained"]
    assert "".join(trained[1:]) == "It is blue.<|im_end|>Yes. <|im_end|>"  # the first one is the legend
    with_ids = page(found, tokens=True)
    ids = [i for branch in found.examples[0].branches for cell in branch.cells for i in cell.ids]
    assert re.findall(r"<small>([\d ]+)</small>", with_ids)[-len(ids) :] == list(map(str, ids))


def test_letters_join_within_a_stretch() -> None:
    cells = [Cell((1,), "نع", "masked"), Cell((2,), "م", "masked"), Cell((3,), "<|im_end|>", "masked", special=True)]
    assert [s.text for s in spans_of(cells)] == ["نعم", "<|im_end|>"]
    assert [s.text for s in spans_of(cells, apart=True)] == ["نع", "م", "<|im_end|>"]


def test_rewards_show_where_the_score_is_read(files: Path, tiny_model_dir: Path) -> None:
    html = page(plaudit.inspect("rankings.jsonl", model=tiny_model_dir, row=1)).partition('id="examples"')[2]
    scored = re.findall(r'<span class="t scored( special)?">([^<]*)</span>', html)
    assert [unescape(text) for _, text in scored] == ["score is read here", *["<|im_end|>"] * 3]
    assert 'class="t trained' not in html
    assert "rank 1, score 3" in html


def test_what_stops_training_stands_at_the_top(files: Path, tiny_model_dir: Path) -> None:
    write_jsonl(files / "bad.jsonl", [*PAIRS, {"prompt": [TURN], "chosen": [says("<b>")], "rejected": [says("<b>")]}])
    html = page(plaudit.inspect("bad.jsonl", model=tiny_model_dir))
    text = words("<body>" + html.partition("</nav>")[2])
    assert (
        text.index("stops with this error") < text.index("[PL204] 1 of 5 rows cannot be used") < text.index("Lengths")
    )


def test_long_texts_are_shortened_unless_asked_not_to(files: Path, tiny_model_dir: Path) -> None:
    count = 3000
    write_jsonl(files / "long.jsonl", [{"text": "cats and dogs " * count}])
    model = {"path": str(tiny_model_dir.parent / "words")}
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(model["path"])
    found = plaudit.inspect("long.jsonl", model=model)
    assert re.search(r"\[[\d,]+ more tokens\]", page(found))
    assert len(page(found)) < 40_000
    assert page(found, full=True).count("cats") == count


def test_a_page_that_cannot_be_written(files: Path, tiny_model_dir: Path) -> None:
    found = plaudit.inspect("pairs.jsonl", model=tiny_model_dir)
    with pytest.raises(ConfigError, match=r"PL102.*no such folder"):
        found.write_html(files / "nowhere" / "page.html")
    with pytest.raises(ConfigError, match="this is a folder"):
        found.write_html(files)
    assert found.write_html("page.html") == Path("page.html")
    assert (files / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
