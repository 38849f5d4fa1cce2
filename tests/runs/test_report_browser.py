"""The report in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plaudit.runs.comparison import compare_runs, write_comparison
from plaudit.runs.report import write_report
from tests.runs.browser import CHROMIUM, Browser, browser
from tests.runs.synthetic_run import HOSTILE, make_online_run, make_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "dpo-tiny"))


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_online_run(tmp_path_factory.mktemp("runs") / "ppo-tiny"))


def test_nothing_runs_but_the_reports_own_script(chromium: Browser, report: Path) -> None:
    chromium.open(report, width=1280)
    assert chromium.evaluate("document.title") == "DPO · dpo-tiny"
    assert HOSTILE in chromium.evaluate("document.body.innerText")
    methods = [e["method"] for e in chromium.events]
    requests = [e for e in chromium.events if e["method"] == "Network.requestWillBeSent"]
    assert [e["params"]["request"]["url"] for e in requests] == [report.as_uri()]
    assert "Runtime.exceptionThrown" not in methods
    assert "Log.entryAdded" not in methods  # the content security policy has refused nothing


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_does_not_scroll_sideways(chromium: Browser, report: Path, width: int) -> None:
    chromium.open(report, width=width)
    assert chromium.evaluate("window.innerWidth") == width
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate("parseFloat(getComputedStyle(document.querySelector('.plot .x')).fontSize)") >= 12


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_of_samples_with_rewards_does_not_scroll_sideways_either(
    chromium: Browser, online: Path, width: int
) -> None:
    chromium.open(online, width=width)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    label = chromium.evaluate("document.querySelector('.cell .label').innerText")
    assert label == "step 1 · reward 1"
    assert chromium.evaluate("document.title") == "PPO · ppo-tiny"


def test_pointing_at_a_curve_reads_it(chromium: Browser, report: Path) -> None:
    chromium.open(report, width=1280)
    chromium.evaluate("document.querySelector('.plot').scrollIntoView({block: 'center', behavior: 'instant'})")
    left, top, width, height = chromium.evaluate(
        "(() => { const b = document.querySelector('.plot').getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })()"
    )
    assert chromium.evaluate("document.querySelector('.readout').hidden") is True
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + width / 3, y=top + height / 2)
    shown = chromium.evaluate("document.querySelector('.readout').innerText").split("\n")
    assert shown[0] == "step 20"
    assert shown[1].startswith("train 0.")
    assert shown[2] == "eval 0.65"
    chromium.evaluate("document.querySelector('.plot').focus()")
    chromium.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert chromium.evaluate("document.querySelector('.readout').innerText").startswith("step 21")
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert chromium.evaluate("document.querySelector('.readout').hidden") is True


def test_dark_and_light(chromium: Browser, report: Path) -> None:
    colours = []
    for dark in (False, True):
        chromium.open(report, width=1280, dark=dark)
        colours.append(chromium.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(251, 251, 250)", "rgb(21, 23, 26)"]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    names = ("dpo-with-a-rather-long-name-that-goes-on-and-on", "dpo-2", "dpo-3")
    runs = [make_run(folder / name, steps=20 * (i + 1)) for i, name in enumerate(names)]
    return write_comparison(compare_runs(runs), folder / "compared.html")


@pytest.mark.parametrize("width", [390, 1280])
def test_runs_side_by_side(chromium: Browser, comparison: Path, width: int) -> None:
    chromium.open(comparison, width=width)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert HOSTILE in chromium.evaluate("document.body.innerText")
    assert "Log.entryAdded" not in [e["method"] for e in chromium.events]
    strokes = chromium.evaluate(
        "[...document.querySelector('.plot').querySelectorAll('path:not(.raw)')].map("
        "(p) => getComputedStyle(p).stroke + ' ' + getComputedStyle(p).strokeDasharray)"
    )
    assert len(set(strokes)) == 3, "each run has its own colour and dashes"
    chromium.evaluate("document.querySelector('.plot').focus()")
    chromium.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    shown = chromium.evaluate("document.querySelector('.readout').innerText").split("\n")
    assert shown[0] == "step 1"
    assert [line.split()[0] for line in shown[1:]] == [
        "dpo-with-a-rather-long-name-that-goes-on-and-on",
        "dpo-2",
        "dpo-3",
    ]
