"""What HTML and Markdown have in a text and do not show: hidden elements, attributes, titles and destinations of links.

All of it is read in one pass, whose time is linear in the text.
"""

from __future__ import annotations

import html
import re

from plaudit.rewards.verifiers.colours import is_light, names

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)|<(?:![a-zA-Z\[]|\?[a-zA-Z])[^<>]*>", re.DOTALL)
_OPENING = re.compile(r"<(/?)([a-zA-Z][\w-]*)(?![\w-])")
_ATTRIBUTES = re.compile(r"""(?:[^<>"']|"[^"]*"|'[^']*')*>""")
_PLAIN_ATTRIBUTES = re.compile(r"[^<>]*>")
_NEVER_SHOWN = names(
    "template script style noscript noembed noframes head title datalist iframe object audio video canvas dialog defs "
    "metadata"
)
_RAW = frozenset(("script", "style"))
"""Nothing is nested in them."""
_VOID = names("area base br col embed hr img input link meta param source track wbr")
_KNOWN = (
    _NEVER_SHOWN
    | _VOID
    | names(
        "a abbr address article aside b bdi bdo big blockquote body button caption center cite code dd del details dfn "
        "div dl dt em fieldset figcaption figure font footer form h1 h2 h3 h4 h5 h6 header html i ins kbd label legend "
        "li main map mark menu nav ol optgroup option p picture pre q rp rt ruby s samp section select small span "
        "strike strong sub summary sup svg table tbody td text textarea tfoot th thead time tr tt u ul var"
    )
)
_ZERO = r"\s*:\s*[-+]?0*(?:\.0\d*)?(?:%|[a-z]{0,4})\s*(?:[;!\"'}]|$)"
_INVISIBLE = re.compile(
    r"\bhidden\b|display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|(?:left|right|top|bottom|indent)\s*:\s*-\d{3}"
    rf"|(?:opacity|(?<![\w-])(?:max-)?(?:height|width)|font-size){_ZERO}|font-size\s*:\s*[01](?:\.\d+)?p[xt]"
    r"|scale[xy]?\(\s*0*(?:\.0\d*)?\s*[,)]|(?<![\w-])clip(?:-path)?\s*:",
    re.IGNORECASE,
)
_COLOUR = re.compile(
    r"(?:(?<![\w-])color|text-fill-color)\s*:\s*([^;\"'!]+)|(?<![\w-])color\s*=\s*[\"']?\s*([^\s\"'>]+)", re.IGNORECASE
)
_CSS_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)

_DEFINITION = re.compile(
    r"^ {0,3}\[(?!\^)[^\[\]\n]{1,300}\]:[ \t]*\n?[ \t]*(?:<[^<>\n]*>|\S+)[ \t]*\n?(?:[ \t]*"
    r"(?:\"[^\"]*\"|'[^']*'|\([^()]*(?:\([^()]*\)[^()]*){0,20}\)))?[ \t]*$",
    re.MULTILINE,
)
_LINK = re.compile(r"(!?)\[([^\[\]\n]{0,500})\]\(((?:[^()\n]|\([^()\n]*\)){1,2000})\)")
_IS_LINK = re.compile(r"\s*(?:[<#/.]|[a-zA-Z][a-zA-Z+.-]+:|www\.)|.*\\f?box|.*\s[\"'(].*[\"')]\s*\Z", re.DOTALL)


def without_unseen_html(text: str) -> str:
    """A text without what a browser would not show of it; tags that are left have no attributes any more."""
    if "<" not in text:
        return text
    text = _COMMENT.sub(" ", text)
    kept, at, spent = list[str](), 0, 0
    while (tag := _OPENING.search(text, at)) is not None:
        end = _ATTRIBUTES.match(text, tag.end()) if spent <= 4 * len(text) else None
        spent += (end.end() if end is not None else len(text)) - tag.end()
        end = end or _PLAIN_ATTRIBUTES.match(text, tag.end())
        if end is None:
            kept.append(text[at : tag.end()])
            at = tag.end()
            continue
        name, attributes = tag[2].lower(), end[0][:-1]
        kept.append(text[at : tag.start()])
        at = end.end()
        if not tag[1] and name not in _VOID and (name in _NEVER_SHOWN or sets_invisibly(attributes)):
            kept.append(" ")
            at = _closed(text, at, name)
        elif name in _KNOWN and "=" in attributes and (len(name) > 1 or '"' in attributes or "'" in attributes):
            kept.append(f"<{tag[1]}{name}>")
        else:
            kept.append(text[tag.start() : at])
    return "".join(kept) + text[at:]


def _closed(text: str, at: int, name: str) -> int:
    """Where the element that is open is closed, those of its name within it being closed before."""
    depth = 1
    for tag in re.compile(rf"<(/?){re.escape(name)}(?![\w-])[^<>]*>?", re.IGNORECASE).finditer(text, at):
        depth += -1 if tag[1] else name not in _RAW
        if not depth:
            return tag.end()
    return len(text)


def sets_invisibly(style: str) -> bool:
    """Whether the attributes of an element, or a style, let nobody see what is in it."""
    style = _CSS_COMMENT.sub("", html.unescape(style))
    if _INVISIBLE.search(style) is not None:
        return True
    return any(is_light(found[1] or found[2]) for found in _COLOUR.finditer(style))


def without_unseen_markdown(text: str) -> str:
    """Without definitions of links (which comments are written as), their destinations and titles, and what stands for
    a picture."""
    if "](" in text:
        text = _LINK.sub(_shown_of_link, text)
    return _DEFINITION.sub("", text) if "]:" in text else text


def _shown_of_link(link: re.Match[str]) -> str:
    if link[1]:
        return " "
    return link[0] if _IS_LINK.match(link[3]) is None else f"[{link[2]}]"
