"""What a reader of an answer does not see is not read; what is seen is left as it is; and both take linear time."""

from __future__ import annotations

import random
import time

import pytest

from plaudit.rewards.contract import Sample
from plaudit.rewards.verifiers.colours import is_light
from plaudit.rewards.verifiers.math import MathReward
from plaudit.rewards.verifiers.math.hidden import visible

UNSEEN = [
    r"{\color{white} \boxed{7}}",
    r"\color{white} \boxed{7}",
    r"$\color{white} \boxed{7}$",
    r"\color{white}{x} \boxed{7}",
    r"{\color[rgb]{1,1,1} a {b} \boxed{7}}",
    r"\textcolor{white}{\boxed{7}}",
    r"\textcolor[rgb]{1,1,1}{\boxed{7}}",
    r"\textcolor[rgb]{1, 1.0, .99}{a {b} \boxed{7}}",
    r"\textcolor[HTML]{FFFFFF}{\boxed{7}}",
    r"\textcolor{#fff}{\boxed{7}}",
    r"\definecolor{paper}{gray}{1}" + "\n" + r"\textcolor{paper}{\boxed{7}}",
    r"\label{\boxed{7}}",
    r"\phantom{{a}\boxed{7}}",
    r"\href{\boxed{7}}{x}",
    r"\scalebox{0}{\boxed{7}}",
    r"\transparent{0} \boxed{7}",
    r"\style{display:none}{\boxed{7}}",
    r"\if0 \boxed{7} \fi",
    r"\ifx\a\b \boxed{7} \fi",
    r"\iffalse \iffalse a \fi \boxed{7} \fi",
    r"\iffalse \boxed{7}",
    "\\newcommand{\\x}{\n\\boxed{7}\n}",
    r"[//]: # (\boxed{7})",
    r"[//]: # '\boxed{7}'",
    '[a]: <b>\n  "\\boxed{7}"',
    r'[x](http://a.b "\boxed{7}")',
    r"[x](\boxed{7})",
    r"![\boxed{7}](a.png)",
    r'<span style="opacity:0">\boxed{7}</span>',
    r'<span style="opacity: 0.0;">\boxed{7}</span>',
    r'<span style="color:white">\boxed{7}</span>',
    r'<span style="color: #FFFFFF !important">\boxed{7}</span>',
    r'<span style="color:rgba(0,0,0,0)">\boxed{7}</span>',
    r'<span style="font-size:0px">\boxed{7}</span>',
    r'<span style="position:absolute;left:-9999px">\boxed{7}</span>',
    r'<span style="display&#58;none">\boxed{7}</span>',
    r'<span style="display:/**/none">\boxed{7}</span>',
    r'<span title="a>b" style="display:none">\boxed{7}</span>',
    r"<font color=white>\boxed{7}</font>",
    r"<font color='#fff'>\boxed{7}</font>",
    r"<template>\boxed{7}</template>",
    r"<script>\boxed{7}</script>",
    r'<a href="x" title="\boxed{7}">x</a>',
    r'<img alt="\boxed{7}">',
    r"<div style='display:none'><div>a</div>\boxed{7}</div>",
    r"<div hidden><div><div>a</div></div><p>b</p>\boxed{7}</div>",
    r"<DIV hidden><div>a</DIV>\boxed{7}</div>",
    r"<div hidden>\boxed{7}",
    r"<?x \boxed{7}?>",
    r"<!x \boxed{7}>",
]


@pytest.mark.parametrize("text", UNSEEN)
def test_what_is_not_seen_is_not_read(text: str) -> None:
    assert "7" not in visible(f"I do not know.\n\n{text}")
    reward = MathReward()
    [result] = [reward.decided(Sample("q", f"It is {{\\boxed{{8}}}}.\n\n{text}", {"answer": "7"}))]
    assert not isinstance(result, list)
    assert result.value == 0
    reward.close()


SEEN = [
    r"{\color{red} \boxed{7}}",
    r"{\color{white} a} \boxed{7}",
    r"$\color{white} a$ \boxed{7}",
    r"\color{white} a \color{black} \boxed{7}",
    r"\textcolor{red}{\boxed{7}}",
    r"\textcolor[rgb]{1,0,0}{\boxed{7}}",
    r"\textcolor{white!50!black}{\boxed{7}}",
    r"\textcolor{white}{a} \boxed{7}",
    r"\label{a} \boxed{7}",
    r"\phantom{a} \boxed{7}",
    r"\if0 a \fi \boxed{7}",
    r"x \iff y, so \boxed{7}",
    r"\href{http://a.b}{x} \boxed{7}",
    "\\newcommand{\\x}{a}\n\\boxed{7}",
    r"[//]: # (a)" + "\n" + r"\boxed{7}",
    r"[^1]: \boxed{7}",
    r"f[0](1) is \boxed{7}",
    r"the interval [0, 1](closed) has \boxed{7}",
    r"<b>\boxed{7}</b>",
    r'<span style="color:red">\boxed{7}</span>',
    r'<span style="background-color:white">\boxed{7}</span>',
    r'<span style="opacity:0.9;font-size:0.9em">\boxed{7}</span>',
    r"<div style='display:none'><div>a</div></div>\boxed{7}",
    r"<div hidden>a</div><div>\boxed{7}</div>",
    r"<br hidden>\boxed{7}",
    r"<script>a</script>\boxed{7}",
    r"as 1 <b and c> 2, \boxed{7}",
    r"x<y, z>1: \boxed{7}",
    r"\(a < b\) \boxed{7}",
]


@pytest.mark.parametrize("text", SEEN)
def test_what_is_seen_is_read(text: str) -> None:
    assert r"\boxed{7}" in visible(text)


@pytest.mark.parametrize(
    ("colour", "model", "light"),
    [
        ("white", "", True),
        (" White ", "", True),
        ("#fefefe", "", True),
        ("#ffff", "", True),
        ("#f000", "", True),
        ("#ffffff00", "", True),
        ("#00000000", "", True),
        ("rgb(255 255 255)", "", True),
        ("rgb(100%, 100%, 100%)", "", True),
        ("hsl(0, 0%, 100%)", "", True),
        ("0,0,0,0", "cmyk", True),
        ("255,255,255", "RGB", True),
        ("black", "", False),
        ("#ff0", "", False),
        ("rgb(255, 0, 0)", "", False),
        ("1,1,1", "", False),
        ("1,1,1", "RGB", False),
        ("0.5", "gray", False),
        ("", "rgb", False),
        ("#zzz", "", False),
    ],
)
def test_colours_on_white(colour: str, model: str, light: bool) -> None:
    assert is_light(colour, model) == light


PARTS = (
    *("<div hidden>", "</div>", "<a '", '<a "', "<a ", '"', "'", ">", "<", "<!--", "<?a", "<script>", '<p x="'),
    *("{", "}", "$", r"\(", r"\color{white}", r"\color{red}", r"\textcolor{white}{", r"\textcolor{", r"\phantom{"),
    *(r"\if", r"\fi", r"\iffalse ", r"\newcommand", r"\style{", r"\label", "\\", "[a]: ", "[a](", "![", "](", "(", ")"),
    *(
        '[a]: b "',
        "[a]: b (",
        "\n",
        " ",
        "x",
        "%",
        "```\n",
        r"\begin{comment}",
        r"\boxed{7}",
        r"\color[",
        r"\definecolor{",
    ),
)


@pytest.mark.parametrize("part", PARTS)
def test_one_part_again_and_again_takes_linear_time(part: str) -> None:
    start = time.perf_counter()
    visible(part * (100_000 // len(part)))
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("seed", range(60))
def test_any_parts_take_linear_time(seed: int) -> None:
    draw = random.Random(seed)
    chosen = draw.sample(PARTS, draw.randint(2, 5))
    text = "".join(draw.choice(chosen) for _ in range(20_000)) if seed % 2 else "".join(chosen) * 8_000
    start = time.perf_counter()
    visible(text[:100_000])
    assert time.perf_counter() - start < 2
