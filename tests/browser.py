"""Pages in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DESKTOP, PHONE = (1280, 900), (360, 740)
_SEEN = "e => e.getClientRects().length > 0 && getComputedStyle(e).visibility === 'visible'"


class Chromium:
    """A running browser. A desktop and a phone are each made once: starting one takes longer than showing a page."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._pages: dict[tuple[bool, bool], Page] = {}

    def page(self, phone: bool, script: bool) -> Page:
        """The window of a device."""
        if (phone, script) not in self._pages:
            context = self._browser.new_context(
                java_script_enabled=script, is_mobile=phone, has_touch=phone, device_scale_factor=2 if phone else 1
            )
            context.set_default_timeout(120_000)
            self._pages[phone, script] = context.new_page()
        return self._pages[phone, script]


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Starts it; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    if EXECUTABLE is None:
        pytest.skip("there is no Chromium: apt-get install -y --no-install-recommends chromium")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        running = playwright.chromium.launch(executable_path=EXECUTABLE, args=flags, timeout=120_000)
        try:
            yield Chromium(running)
        finally:
            running.close()


@dataclass(slots=True)
class Opened:
    """A file in a window, with what the page has asked for and what went wrong in it."""

    page: Page
    file: Path
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(expression)

    def fits(self) -> None:
        """Nothing is wider than the window, but for what scrolls in a box of its own."""
        wide = self.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
            " && !e.closest('.scroll, .steps, pre, svg')).map(e => e.outerHTML.slice(0, 200))"
        )
        assert wide == []
        assert self.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def is_whole(self) -> None:
        """It has asked for nothing, nothing has failed, and one can find one's way with a screen reader."""
        assert self.requests == [self.file.as_uri()]
        assert self.problems == []
        headings = self.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(e => +e.tagName[1])")
        assert headings[0] == 1
        assert headings.count(1) == 1
        assert all(b <= a + 1 for a, b in pairwise(headings)), "no level is left out"
        assert self.evaluate(f"[...document.querySelectorAll('h1, h2')].every({_SEEN})")
        assert self.evaluate("[...document.querySelectorAll('svg')].every(e => e.getAttribute('aria-label'))")
        assert self.evaluate("[...document.querySelectorAll('thead th')].every(e => e.scope === 'col')")

    def faint(self) -> list[str]:
        """Texts whose contrast with what is behind them is below 4.5 (WCAG AA)."""
        found: list[str] = self.evaluate(_FAINT)
        return found


_FAINT = """(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = channels(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const light = (c) => {
    const [r, g, b] = c.map((v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    const text = walk.currentNode.data.trim();
    if (!text || e.closest("script, style, svg, [hidden]") || !e.getClientRects().length) continue;
    const both = [channels(getComputedStyle(e).color), behind(e)].map((c) => light(c.slice(0, 3)));
    const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (ratio < 4.5) found.add(`${e.className}: ${text.slice(0, 40)} ${ratio.toFixed(2)}`);
  }
  return [...found];
})()"""


@contextmanager
def opened(
    browser: Chromium, file: Path, *, size: tuple[int, int] = DESKTOP, dark: bool = False, script: bool = True
) -> Iterator[Opened]:
    """A page that is loaded. A window as narrow as a phone is one: it has touch."""
    page = browser.page(phone=size[0] < 500, script=script)
    page.goto("about:blank")
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme="dark" if dark else "light", media="screen")
    page.mouse.move(0, 0)
    found = Opened(page, file)
    listeners: dict[Any, Callable[[Any], None]] = {
        "request": lambda request: found.requests.append(request.url),
        "pageerror": lambda error: found.problems.append(str(error)),
        "console": lambda said: found.problems.append(said.text) if said.type in ("error", "warning") else None,
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    try:
        page.goto(file.as_uri())
        yield found
    finally:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)


def check_page(browser: Chromium, file: Path, *, most: int = 40_000) -> None:
    """What holds of every page: it needs no network, fits a desktop, a tablet and a phone, and can be read in light and
    dark.

    Args:
        most: its height on a phone in CSS pixels.
    """
    for size in (DESKTOP, PHONE):
        with opened(browser, file, size=size) as found:
            found.is_whole()
            found.fits()
            grounds = []
            for scheme in ("light", "dark"):
                found.page.emulate_media(color_scheme=scheme)
                faint = found.faint()
                assert faint == [], scheme
                grounds.append(found.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert grounds == ["rgb(251, 251, 250)", "rgb(21, 23, 26)"]
            assert found.evaluate("document.documentElement.scrollHeight") < most
            if size == DESKTOP:
                found.page.set_viewport_size({"width": 768, "height": 1024})
                found.fits()
