"""Names and titles of the methods without importing them: `plaudit --help` has to be instant."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

_NAME = re.compile(r'^    name = "([\w-]+)"$', re.MULTILINE)
_TITLE = re.compile(r'^    title = "(.+)"$', re.MULTILINE)


def method_titles() -> dict[str, str]:
    """Method name → title, read from the source files; a test compares it with the registry."""
    spec = find_spec("plaudit.methods")
    assert spec is not None
    titles: dict[str, str] = {}
    for folder in spec.submodule_search_locations or ():
        for file in sorted(Path(folder).glob("*.py")):
            text = file.read_text(encoding="utf-8")
            name, title = _NAME.search(text), _TITLE.search(text)
            if name and title:
                titles[name[1]] = title[1]
    return titles
