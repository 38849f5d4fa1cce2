"""The report, and the comparison of runs, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import plaudit
from plaudit.runs import jsonl
from plaudit.runs.comparison import compare_runs, write_comparison
from plaudit.runs.report import write_report
from tests.browser import DESKTOP, PHONE, check_page, opened
from tests.conftest import write_jsonl
from tests.runs.synthetic_run import HOSTILE, make_online_run, make_run

ATTACKS = (
    HOSTILE,
    "</script><script>document.title='pwned'</script>",
    '"><img src=x onerror="document.title=\'pwned\'">',
    "\x1b[31mred\x1b[0m and \u202ereversed",
    "unbreakable" * 16,
    "{{ 7 * 7 }} {% raw %}",
)
ARABIC = "نعم، السماء زرقاء"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A real run of DPO on pairs of which some are dropped, with what models and data should not be trusted with."""
    folder = tmp_path_factory.mktemp("trained")
    pairs = [
        {"prompt": f"{ATTACKS[i % len(ATTACKS)]} {i}?", "chosen": f"It is {i}.", "rejected": "No."} for i in range(12)
    ]
    pairs.append({"prompt": "Same?", "chosen": "Yes.", "rejected": "Yes."})
    data = write_jsonl(folder / "pairs.jsonl", pairs)
    run: Path = plaudit.train(
        "dpo", model=str(tiny_model_dir), data=str(data), lora=True, max_steps=6, groups_per_step=4, learning_rate=1e-2,
        output_dir=str(folder / "dpo-<b>tiny"), observers=(),
        **{"data.eval_fraction": 0.3, "data.max_drop_fraction": 0.5, "data.invalid": "drop", "eval.every": 2,
           "log.every": 1, "log.samples": 3, "checkpoint.every": 3},
    ).run_dir  # fmt: skip
    return run / "report.html"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> dict[str, Path]:
    """Pages about runs by what is special in them."""
    folder = tmp_path_factory.mktemp("runs")
    attacked = make_run(folder / "attacked", steps=80)
    for step in (0, 20, 40, 60, 80):
        for attack in (*ATTACKS, ARABIC):
            line = {"step": step, "prompt": attack, "completion": f"{attack} at {step}", "reward": step / 80}
            jsonl.append_line(attacked / "samples.jsonl", jsonl.dumps(line))
    stopped = make_run(folder / "stopped", complete=False)
    names = ("dpo-with-a-rather-long-name-that-goes-on-and-on", "dpo-2", "dpo-3")
    runs = [make_run(folder / name, steps=20 * (i + 1)) for i, name in enumerate(names)]
    return {
        "trained": trained,
        "attacked": write_report(attacked),
        "stopped": write_report(stopped),
        "online": write_report(make_online_run(folder / "ppo-tiny")),
        "compared": write_comparison(compare_runs(runs), folder / "compared.html"),
    }


@pytest.mark.parametrize("name", ["trained", "attacked", "stopped", "online", "compared"])
def test_every_page_fits_needs_nothing_and_can_be_read(browser: Any, pages: dict[str, Path], name: str) -> None:
    check_page(browser, pages[name])


def test_the_first_screen_says_how_it_went(browser: Any, trained: Path) -> None:
    with opened(browser, trained, size=PHONE) as found:
        seen = found.evaluate(
            "[...document.querySelectorAll('h1, .badge, .facts dd, .verdict strong')]"
            ".filter(e => e.getBoundingClientRect().bottom < innerHeight).map(e => e.innerText)"
        )
    assert seen[0] == "DPO · dpo-<b>tiny"
    assert seen[1] == "Finished"
    assert "6 of 6" in seen
    assert re.match(r"Going the right way|Better and worse|No clear change", seen[-1])


def test_there_is_a_curve_for_every_metric(browser: Any, trained: Path) -> None:
    lines = jsonl.read_lines(trained.parent / "metrics.jsonl")
    bases = {name.removeprefix("eval/") for line in lines for name in line if name != "step"}
    with opened(browser, trained, script=False) as found:  # the curves do not need the script
        shown = found.evaluate("[...document.querySelectorAll('figure h4')].map(e => e.innerText)")
        assert sorted(shown) == sorted(bases)
        drawn = found.evaluate(
            "[...document.querySelectorAll('figure svg')].map(s => [s.querySelectorAll('path').length,"
            " s.getBoundingClientRect().width, s.getBoundingClientRect().height])"
        )
        assert all(paths and width > 200 and height > 100 for paths, width, height in drawn)
        told = found.evaluate("[...document.querySelectorAll('figure .meaning')].map(e => e.innerText)")
        assert all(len(text) > 15 for text in told)


def test_pointing_at_a_curve_reads_it(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["attacked"]) as found:
        page, plot = found.page, found.page.locator(".plot").first
        readout = plot.locator(".readout")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        assert box is not None
        assert not readout.is_visible()
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
        shown = readout.inner_text().split("\n")
        assert shown[0] == "step 20"
        assert shown[1].startswith("train 0.")
        assert shown[2] == "eval 0.65"
        # a dot on each of the two lines, at that step
        dots = plot.locator(".at:visible").evaluate_all("dots => dots.map(d => d.getBoundingClientRect().x)")
        assert dots == pytest.approx([box["x"] + box["width"] / 4 - 3.5] * 2, abs=1)
        plot.focus()
        page.keyboard.press("ArrowRight")
        assert readout.inner_text().startswith("step 21")
        page.mouse.move(1, 1)
        assert not readout.is_visible()


def test_a_finger_reads_a_curve_and_may_be_lifted(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["attacked"], size=PHONE) as found:
        first, second = (found.page.locator(".plot").nth(i) for i in (0, 1))
        first.tap()
        assert first.locator(".readout").inner_text().startswith("step 40")
        second.tap()
        assert second.locator(".readout").is_visible()
        assert not first.locator(".readout").is_visible()


def test_an_alert_leads_to_its_mark_and_back(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["attacked"]) as found:
        page = found.page
        page.locator(".alert a").first.click()
        chart = page.locator(".chart:target")
        assert chart.locator("h4").inner_text() == "rewards/margins"
        mark = chart.locator(".mark")
        assert mark.get_attribute("aria-label") == "Alert 1 at step 20"
        plot, at = chart.locator(".plot").bounding_box(), mark.bounding_box()
        assert plot is not None
        assert at is not None
        assert at["x"] + at["width"] / 2 == pytest.approx(plot["x"] + plot["width"] * 19 / 79, abs=1.5)
        mark.click()
        assert page.locator(".alert:target .level").inner_text() == "Warning"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_answers_of_several_steps_stand_side_by_side(
    browser: Any, pages: dict[str, Path], size: tuple[int, int]
) -> None:
    with opened(browser, pages["attacked"], size=size) as found:
        boxes = found.evaluate(
            "[...document.querySelector('.steps').querySelectorAll('.column')]"
            ".map(e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.width]; })"
        )
        assert len(boxes) == 4
        assert len({top for _, top, _ in boxes}) == 1
        lefts = [left for left, _, _ in boxes]
        assert lefts == sorted(set(lefts))
        assert all(width > 200 for *_, width in boxes), "wide enough to be read"
        marked = found.evaluate(
            "[...document.querySelector('.steps').querySelectorAll('.column')]"
            ".map(e => [...e.querySelectorAll('mark')].map(m => m.innerText.trim()).join(' '))"
        )
        assert marked == ["", "20", "60", "80"], "what is not in the first answer"


def test_texts_of_models_and_data_are_text(browser: Any, pages: dict[str, Path]) -> None:
    for name in ("trained", "attacked"):
        with opened(browser, pages[name]) as found:
            assert "pwned" not in found.evaluate("document.title")
            assert found.evaluate("document.querySelectorAll('img, textarea, b').length") == 0
            shown = found.evaluate("document.body.innerText")
            assert "\x1b" not in shown
    for attack in (*ATTACKS[:3], "␛[31mred␛[0m and ⟨U+202E⟩reversed", *ATTACKS[4:]):
        assert attack in shown


def test_arabic_begins_at_the_right(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["attacked"]) as found:
        sides = found.evaluate(
            "[...document.querySelectorAll('.prompt .text')].map(e => { const r = document.createRange();"
            " r.selectNodeContents(e); const b = r.getBoundingClientRect(), p = e.getBoundingClientRect();"
            " return [e.innerText, b.left - p.left, p.right - b.right]; })"
        )
    from_the_left = {text: left for text, left, _ in sides}
    from_the_right = {text: right for text, _, right in sides}
    assert from_the_right[ARABIC] < 2 < from_the_left[ARABIC]
    assert from_the_left["Why?"] < 2 < from_the_right["Why?"]


def test_on_paper_everything_is_unfolded(browser: Any, trained: Path) -> None:
    with opened(browser, trained) as found:
        found.page.emulate_media(media="print")
        found.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert found.page.locator("pre").is_visible()
        assert not found.page.locator("nav").first.is_visible()
        found.evaluate("dispatchEvent(new Event('afterprint'))")
        assert found.evaluate("document.querySelectorAll('details[open]').length") == 0


def test_runs_side_by_side(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["compared"]) as found:
        assert HOSTILE in found.evaluate("document.body.innerText")
        strokes = found.evaluate(
            "[...document.querySelector('.plot').querySelectorAll('path:not(.raw)')].map("
            "(p) => getComputedStyle(p).stroke + ' ' + getComputedStyle(p).strokeDasharray)"
        )
        assert len(set(strokes)) == 3, "each run has its own colour and dashes"
        found.page.locator(".plot").first.focus()
        found.page.keyboard.press("ArrowRight")
        shown = found.page.locator(".readout").first.inner_text().split("\n")
        assert shown[0] == "step 1"
        assert [line.split()[0] for line in shown[1:]] == [
            "dpo-with-a-rather-long-name-that-goes-on-and-on",
            "dpo-2",
            "dpo-3",
        ]
