"""The page of an evaluation, and of a frontier, in a real browser."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from plaudit.api import evaluate_reward
from plaudit.evaluation.frontier.analysis import frontier
from plaudit.evaluation.frontier.page import frontier_page
from plaudit.evaluation.reward_run import PAGE_NAME
from tests.browser import check_page, opened
from tests.evaluation.test_frontier import lawful


@pytest.fixture
def page(scored_files: list[str], tmp_path: Path) -> Path:
    folder = evaluate_reward(None, scored_files, output=tmp_path / "out").folder
    assert folder is not None
    return folder / PAGE_NAME


def labels_do_not_touch(found: Any, plots: int) -> None:
    """The labels of each horizontal axis stand side by side."""
    boxes = found.evaluate(
        "[...document.querySelectorAll('.plot')].map(p => [...p.querySelectorAll('.x')].map(e => {"
        " const b = e.getBoundingClientRect(); return [b.left, b.right]; }).sort((a, b) => a[0] - b[0]))"
    )
    assert len(boxes) == plots
    for labels in boxes:
        assert all(left[1] <= right[0] for left, right in pairwise(labels)), labels


def test_the_page_of_a_reward_model(browser: Any, page: Path) -> None:
    check_page(browser, page)
    for width in (390, 768, 1280):
        with opened(browser, page, size=(width, 900)) as found:
            labels_do_not_touch(found, 3)
    colours = []
    for dark in (False, True):
        with opened(browser, page, dark=dark) as found:
            colours.append(found.evaluate("getComputedStyle(document.querySelector('.bar .point')).backgroundColor"))
    assert colours == ["rgb(37, 99, 168)", "rgb(122, 179, 240)"]


def test_the_page_of_a_frontier(browser: Any, tmp_path: Path) -> None:
    models = ["runs/a-model-with-a-rather-long-name-that-goes-on-and-on-and-on", "another"]
    about = {"models": models, "reference": "base", "data": None}
    found = replace(frontier(*lawful(noise=0.3)), about=about)
    page = tmp_path / "frontier.html"
    page.write_text(frontier_page(found), encoding="utf-8")
    check_page(browser, page)
    with opened(browser, page, size=(390, 900)) as shown:
        labels_do_not_touch(shown, 1)


def test_the_page_of_two_runs(browser: Any, tmp_path: Path) -> None:
    """A figure, a table, laws and a verdict each, on the same axes; nothing of best-of-n, which nobody asked for."""
    start, points = lawful(noise=0.3)
    far = "runs-with-a-rather-long-name/and-its-folder-that-goes-on-and-on"
    curves = [("short", points[:3]), (far, points)]
    answers = [replace(p, curve=name, name=f"{name} {p.name}") for name, own in curves for p in own]
    about = {"models": ["short", far], "reference": "base", "data": None}
    page = tmp_path / "frontier.html"
    page.write_text(frontier_page(replace(frontier(start, answers), about=about)), encoding="utf-8")
    check_page(browser, page)
    with opened(browser, page, size=(390, 900)) as shown:
        labels_do_not_touch(shown, 2)
        assert shown.evaluate("[...document.querySelectorAll('figure h3')].map(e => e.innerText)") == ["short", far]
        ticks = shown.evaluate(
            "[...document.querySelectorAll('.plot')].map(p => [...p.querySelectorAll('.x, .y')].map(e => e.innerText))"
        )
        assert ticks[0] == ticks[1]
        tables = shown.evaluate("[...document.querySelectorAll('#policy table')].map(t => t.tBodies[0].rows.length)")
        assert tables == [3, 4]
        laws = shown.evaluate("[...document.querySelectorAll('#laws tbody td:first-child')].map(e => e.innerText)")
        assert laws == ["short", "short", far, far]
        text = shown.evaluate("document.body.innerText").lower()
        assert "short: gold is highest at the end" in text
        assert f"{far}: gold was highest at {far} step" in text
        assert "best of n" not in text
        assert "best-of-n" not in text
