"""The template engine of every page, and the style that they share."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined

_OWN = "plaudit.runs"
STYLE = "report.css"
"""What all pages look like; a page may add to it."""


def template_engine(package: str = _OWN, styles: Sequence[str] = ()) -> tuple[Environment, str]:
    """(an engine for the templates of a package, the style of its pages). Every text is escaped.

    Args:
        package: has a folder `templates`; those of a run's report can be included too.
        styles: style sheets among the templates, beyond the common one.
    """
    packages = dict.fromkeys([package, _OWN])
    loader: BaseLoader = ChoiceLoader([PackageLoader(name, "templates") for name in packages])
    engine = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return engine, "\n".join(source(engine, name) for name in (STYLE, *styles))


_UNSEEN = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "␡"}
"""Control characters by their pictures."""
_UNSEEN |= {
    code: f"⟨U+{code:04X}⟩" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0xFEFF)
}
"""What would set text in another order than it is stored, and what takes no room, by their numbers."""


def visible(text: str) -> str:
    """A text of a model or of data with what is not seen, or would order it anew, made visible; line ends stay."""
    return text.translate(_UNSEEN)


def source(engine: Environment, name: str) -> str:
    """The text of one of its files."""
    assert engine.loader is not None
    return engine.loader.get_source(engine, name)[0]


__all__ = ["source", "template_engine", "visible"]
