"""The page in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import plaudit
from tests.browser import PHONE, check_page, opened
from tests.conftest import write_jsonl
from tests.inspection.conftest import HOSTILE, PAIRS, TURN, says

ARABIC = "نعم، السماء زرقاء"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> dict[str, Path]:
    """Pages of hostile, long, right-to-left and unusable rows: as text, and token by token."""
    folder = tmp_path_factory.mktemp("pages")
    asks = {"role": "user", "content": HOSTILE}
    rows = [
        *PAIRS,
        {"prompt": [asks], "chosen": [says(ARABIC)], "rejected": [says("unbreakable" * 12)]},
        {"prompt": [TURN], "chosen": [says(HOSTILE)], "rejected": [says(HOSTILE)]},
        {"prompt": [asks] * 1, "chosen": [says("cats and dogs " * 40)], "rejected": [says("No.")]},
    ]
    data = str(write_jsonl(folder / "pairs.jsonl", rows))
    found = plaudit.inspect(data, model=tiny_model_dir, rows=9, dropped=True, row=range(1, 8))
    assert found.problem is not None
    names = {"text": False, "tokens": True}
    return {name: found.write_html(folder / f"{name}.html", tokens=apart) for name, apart in names.items()}


@pytest.mark.parametrize("name", ["text", "tokens"])
def test_the_page_fits_needs_nothing_and_can_be_read(browser: Any, pages: dict[str, Path], name: str) -> None:
    check_page(browser, pages[name])


def test_hostile_rows_are_seen_and_do_nothing(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["text"]) as found:
        assert found.evaluate("document.title") == "dpo · pairs.jsonl"
        assert HOSTILE in found.evaluate("document.body.innerText")
        assert found.evaluate("document.querySelectorAll('script, img, textarea').length") == 0


def test_arabic_runs_from_the_right_and_the_rest_does_not(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["text"]) as found:
        places = found.evaluate(
            "(() => { const edges = e => { const b = e.getBoundingClientRect();"
            " const p = e.parentElement.getBoundingClientRect(); return [b.left - p.left, p.right - b.right]; };"
            " const all = [...document.querySelectorAll('.seq .t')];"
            f" return ['{ARABIC}', 'Blue 0.'].map(text => edges(all.find(e => e.textContent === text)));"
            " })()"
        )
    (_, arabic_from_the_right), (english_from_the_left, _) = places
    assert arabic_from_the_right < 2
    assert english_from_the_left < 20  # behind the rule at the side


def test_trained_and_masked_are_told_apart_in_light_and_dark(browser: Any, pages: dict[str, Path]) -> None:
    for dark, trained in ((False, "rgb(217, 240, 224)"), (True, "rgb(23, 64, 42)")):
        with opened(browser, pages["text"], size=PHONE, dark=dark) as found:
            colours = found.evaluate(
                "['.seq .t.trained', '.seq .t.masked']"
                ".map(s => getComputedStyle(document.querySelector(s)).backgroundColor)"
            )
        assert colours == [trained, "rgba(0, 0, 0, 0)"]
