"""The page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import plaudit
from tests.conftest import write_jsonl
from tests.inspection.conftest import HOSTILE, PAIRS, TURN, says
from tests.runs.browser import CHROMIUM, Browser, browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
ARABIC = "نعم، السماء زرقاء"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


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
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_fits_and_asks_for_nothing(chromium: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    chromium.open(pages[name], width=width)
    assert chromium.evaluate("window.innerWidth") == width
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    requests = [e for e in chromium.events if e["method"] == "Network.requestWillBeSent"]
    assert [e["params"]["request"]["url"] for e in requests] == [pages[name].as_uri()]
    assert not [e for e in chromium.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert chromium.evaluate("document.title") == "dpo · pairs.jsonl"


def test_hostile_rows_are_seen_and_do_nothing(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["text"], width=1280)
    assert HOSTILE in chromium.evaluate("document.body.innerText")
    assert chromium.evaluate("document.querySelectorAll('script, img, textarea').length") == 0


def test_arabic_runs_from_the_right_and_the_rest_does_not(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["text"], width=1280)
    places = chromium.evaluate(
        "(() => { const edges = e => { const b = e.getBoundingClientRect();"
        " const p = e.parentElement.getBoundingClientRect(); return [b.left - p.left, p.right - b.right]; };"
        f" const all = [...document.querySelectorAll('.seq .t')];"
        f" return [all.find(e => e.textContent === '{ARABIC}'), all.find(e => e.textContent === 'Blue 0.')].map(edges)"
        "; })()"
    )
    (_, arabic_from_the_right), (english_from_the_left, _) = places
    assert arabic_from_the_right < 2
    assert english_from_the_left < 20  # behind the rule at the side


@pytest.mark.parametrize("dark", [False, True])
def test_trained_and_masked_are_told_apart_in_light_and_dark(
    chromium: Browser, pages: dict[str, Path], dark: bool
) -> None:
    chromium.open(pages["text"], width=390, dark=dark)
    colours = chromium.evaluate(
        "['.seq .t.trained', '.seq .t.masked'].map(s => getComputedStyle(document.querySelector(s)).backgroundColor)"
    )
    assert colours == [["rgb(217, 240, 224)", "rgb(23, 64, 42)"][dark], "rgba(0, 0, 0, 0)"]
