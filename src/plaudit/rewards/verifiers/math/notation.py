"""One notation for what can be written in many: signs of Unicode, spaces, delimiters, commands that only change looks.

Digits that are not ASCII are refused and not read: Arabic-Indic, full-width and mathematical digits look like numbers
to some programs and like nothing to others, and honest answers have none. Superscripts, subscripts and vulgar
fractions (x², ½) are natural in plain text and read as what they mean.
"""

from __future__ import annotations

import math
import re
import unicodedata

LONGEST = 1000
"""Characters of an answer."""
MOST_DIGITS = 300
"""Digits of an answer, all together."""

_SIGNS = {
    "−": "-", "–": "-", "‐": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*",
    "÷": r"\div ", "±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ",
    "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "°": r"^\circ ",
    "º": r"^\circ ", "∘": r"\circ ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "π": r"\pi ", "⁄": "/", "∕": "/",
    "∠": r"\angle ", "△": r"\triangle ", "⟨": "(", "⟩": ")", "′": "'", "’": "'", "‘": "'", "“": '"',
    "”": '"', "€": r"\text{euro}", "£": r"\text{pound sterling}", "¢": r"\text{cent}",
    "₹": r"\text{rupee}", "¥": r"\text{yen}", "…": r"\ldots ",
}  # fmt: skip
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "ρ": "rho", "σ": "sigma", "τ": "tau",
    "φ": "phi", "ϕ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Δ": "Delta", "Σ": "Sigma", "Ω": "Omega",
}  # fmt: skip
_TABLE = str.maketrans(_SIGNS | {letter: f"\\{name} " for letter, name in _GREEK.items()})
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n", strict=True))
_RUN_RAISED = re.compile(f"[{''.join(_RAISED)}]+")
_RUN_LOWERED = re.compile(f"[{''.join(_LOWERED)}]+")

_NOT_A_NUMBER = re.compile(r"(?<![a-zA-Z])[-+]?(?:nan|inf)(?![a-zA-Z])", re.IGNORECASE)

MONEY = "\ue000"
"""Stands for a currency sign before a number."""
ROW = "\ue001"
"""Stands for the end of a matrix's row."""


class Refused(Exception):
    """An answer that is not read, and why."""


def screen(text: str) -> None:
    """Refuse what only an attack looks like.

    Raises:
        Refused: too long, too many digits, digits that are not ASCII, or words for no number.
    """
    if len(text) > LONGEST:
        raise Refused(f"{len(text)} characters are longer than any answer ({LONGEST})")
    digits = sum(c.isdigit() for c in text)
    if digits > MOST_DIGITS:
        raise Refused(f"{digits} digits are more than any answer has ({MOST_DIGITS})")
    for c in text:
        if not c.isascii() and c not in _RAISED and c not in _LOWERED and unicodedata.category(c)[0] == "N":
            if _vulgar(c) is None:
                raise Refused(f"the digit U+{ord(c):04X} is not ASCII")
        # Of control characters only white space is text; NUL stands for signs while a formula is taken apart.
        elif unicodedata.category(c) in ("Cf", "Co", "Cs") or (unicodedata.category(c) == "Cc" and not c.isspace()):
            raise Refused(f"the invisible character U+{ord(c):04X}")
    if (found := _NOT_A_NUMBER.search(text)) is not None:
        raise Refused(f"{found[0]!r} is no number")


_TOWER = re.compile(r"(\d+)\s*(?:\^|\*\*)\s*[{(\s]*(\d+)(?:\s*(?:\^|\*\*)\s*[{(\s]*(\d+))?")
_FACTORIAL = re.compile(r"(\d+)\s*!")


def screen_size(text: str) -> None:
    """Refuse powers of powers and factorials that nothing can compute. An answer that is the reference to the letter
    is not asked.

    Raises:
        Refused: see above.
    """
    for match in _TOWER.finditer(text):
        base, power, top = (int(part or 1) for part in match.groups())
        if base > 1 and (power > 100_000 or (power > 1 and top * math.log10(power) > 5)):
            raise Refused(f"the power {match[0]!r} is too large to compute")
    for match in _FACTORIAL.finditer(text):
        if int(match[1]) > 10_000:
            raise Refused(f"{match[0]} is too large to compute")


def _vulgar(c: str) -> tuple[str, str] | None:
    upper, slash, lower = unicodedata.normalize("NFKC", c).partition("⁄")
    return (upper, lower) if slash and upper.isascii() and lower.isascii() and upper and lower else None


def _plain_signs(text: str) -> str:
    text = _RUN_RAISED.sub(lambda m: "^{" + "".join(_RAISED[c] for c in m[0]) + "}", text)
    text = _RUN_LOWERED.sub(lambda m: "_{" + "".join(_LOWERED[c] for c in m[0]) + "}", text)
    text = text.translate(_TABLE)
    if text.isascii():
        return text
    parts = []
    for c in text:
        vulgar = None if c.isascii() else _vulgar(c)
        parts.append(c if vulgar is None else rf"\frac{{{vulgar[0]}}}{{{vulgar[1]}}}")
    return "".join(parts)


_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-zA-Z])")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_COMMANDS = re.compile(
    r"\\(?P<frac>[dtc]frac)(?![a-zA-Z])"
    r"|\\(?P<left>left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|Biggl|Biggr|big|Big|bigg|Bigg|middle)"
    r"(?![a-zA-Z])\s*(?P<dot>\.?)"
    r"|\\(?P<looks>displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it|sf|tt|boldsymbol|mathstrut|strut)"
    r"(?![a-zA-Z])"
    r"|\\(?P<space>quad|qquad|enspace|thinspace|hfill|newline|hspace\*?\{[^{}]*\})(?![a-zA-Z])|\\(?P<thin>[,;: >])"
    r"|(?P<le>\\(?:leq|leqslant))(?![a-zA-Z])|(?P<ge>\\(?:geq|geqslant))(?![a-zA-Z])"
    r"|(?P<ne>\\neq)(?![a-zA-Z])|(?P<to>\\(?:tbinom|dbinom))(?![a-zA-Z])"
    r"|(?P<empty>\\varnothing)(?![a-zA-Z])|(?P<lt>\\lt)(?![a-zA-Z])|(?P<gt>\\gt)(?![a-zA-Z])"
    r"|(?P<lbrace>\\lbrace)(?![a-zA-Z])|(?P<rbrace>\\rbrace)(?![a-zA-Z])|(?P<paren>\\[()\[\]])"
    r"|(?P<lbrack>\\lbrack)(?![a-zA-Z])|(?P<rbrack>\\rbrack)(?![a-zA-Z])"
)
_INSTEAD = {
    "frac": r"\frac", "space": " ", "thin": " ", "looks": "", "le": r"\le ", "ge": r"\ge ", "ne": r"\ne ",
    "to": r"\binom", "empty": r"\emptyset ", "lt": "<", "gt": ">", "lbrace": r"\{", "rbrace": r"\}", "paren": " ",
    "lbrack": "[", "rbrack": "]", "left": "", "dot": "",
}  # fmt: skip
_GROUPED = re.compile(r"(?<=\d)(?:,\s*\\!|\{,\}\s*\\!|\\text\s*(?:\{,\}|,))\s*(?=\d{3}(?!\d))")
"""What stands between groups of digits and nothing else."""
_SPACED = re.compile(r"(?<=\d),\\[,;:](?=\d{3}(?!\d))")
_LOOKS = re.compile(r"\\(?:underline|uline)\s*(?=\{)|\\(?:text)?color\s*(?:\[\w+\]\s*)?\{[\w.,! -]*\}\s*(?=\{)")
_DOTS = re.compile(r"\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*(?:\{(\d+)\}|(\d))")
_VALUE_IN_WORDS = re.compile(rf"\\text\s*\{{\s*([-+]?\s*{MONEY}?\s*[\d.][^{{}}]*)\}}")
_UNIT_LETTER = "mgshlLNJVWKACF"
_BEFORE_UNIT = re.compile(r"(?:[\d})]|\\pi)\s*$|[\da-zA-Z}]\s*(?:/|\\cdot|\*)\s*$")
_LETTER = re.compile(
    r"\\(?:mathrm|mathbf|mathit|mathsf|text|textbf|textit|textrm|operatorname|mbox|emph)\s*\{\s*(\w)\s*\}"
)
_WORDS = re.compile(
    r"\\(?:text|mbox|mathrm|textrm|textbf|textit|mathbf|mathit|emph|textnormal|operatorname|mathsf)\s*(?=\{)"
)
_JOINT = re.compile(r"\\text\{[\s,;]*(?:\b(or|and)\b)[\s,;]*\}|\\(lor|vee|land|wedge)(?![a-zA-Z])", re.IGNORECASE)
_OVER = re.compile(r"\{\s*([^{}]+?)\s*\\over\s*([^{}]+?)\s*\}")
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d)\s*(\d)|(\d)\s*(?=\{)|(\{[^{}]*\})\s*(\d))")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z])")
_PLAIN_ROOT = re.compile(r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)|\\sqrt\s*\(([^()]*)\)")
_SCIENTIFIC = re.compile(r"(?<![\w.\\}])(\d+(?:\.\d+)?)[eE]([-+]?\d+)(?![\w.])")
_PLAIN_NAMES = re.compile(
    r"(?<![a-zA-Z\\{])(pi|infinity|infty|theta|alpha|beta|arcsin|arccos|arctan|sinh?|cosh?|tanh?|cot|sec|csc|log|ln|exp|gcd"
    r"|lcm|floor)"
    r"(?![a-zA-Z])"
)
_MARKS = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*|__(?=\S)(.+?)(?<=\S)__|`([^`]+)`")


def normalise(text: str) -> str:
    """In one notation: words stay in \\text{…}, brackets lose \\left and \\right, spaces become single ones."""
    text = _plain_signs(" ".join(text.split()))
    text = text.replace(r"\$", MONEY).replace("$", " ").replace("~", " ").replace("{,}", ",").replace(r"\%", "%")
    text = text.replace(r"\lvert", "|").replace(r"\rvert", "|").replace("<=", r"\le ").replace(">=", r"\ge ")
    text = _SPACED.sub(",", _GROUPED.sub("", text)).replace(r"\!", "")
    text = text.replace(r"\langle", "(").replace(r"\rangle", ")")
    text = text.replace("!=", r"\ne ").replace(r"{\circ}", r"\circ ").replace(r"\degree", r"^\circ ")
    if "\\begin" in text:
        text = _ROW_END.sub(ROW, text)
    else:  # a backslash too many, or a line break
        text = text.replace("\\\\", "\\") if _DOUBLED.search(text) else text.replace("\\\\", " ")
    text = _COMMANDS.sub(_replaced, text)
    text = _repeating(_LOOKS.sub("", text))
    text = _LETTER.sub(_letter, text)
    text = _WORDS.sub(r"\\text", text)
    if (match := _VALUE_IN_WORDS.fullmatch(text.strip(" .,;"))) is not None:
        text = match[1]
    text = _JOINT.sub(lambda m: f" {'or' if (m[1] or m[2]).lower() in ('or', 'lor', 'vee') else 'and'} ", text)
    text = _marks_removed(text)
    if r"\over" in text:
        text = _OVER.sub(r"\\frac{\1}{\2}", " ".join(text.split()))
    text = _SHORT_FRACTION.sub(_braced, text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _PLAIN_ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = _SCIENTIFIC.sub(r"\1\\times 10^{\2}", text)
    text = _PLAIN_NAMES.sub(lambda m: r"\infty " if m[1].startswith("inf") else f"\\{m[1]} ", text)
    return " ".join(text.split()).rstrip(" .;,").lstrip(" ;,")


def _letter(match: re.Match[str]) -> str:
    r"""\text{x} is x; behind a number \text{m} is a unit."""
    measured = match[1] in _UNIT_LETTER and _BEFORE_UNIT.search(
        match.string[max(match.start() - 40, 0) : match.start()]
    )
    return rf"\text{{{match[1]}}}" if measured else rf"{{{match[1]}}}"


def _repeating(text: str) -> str:
    r"""Decimals that repeat, 0.1\overline{6} and 0.\dot{3}, as fractions."""
    if "." not in text or "\\" not in text:
        return text
    text = _DOTS.sub(lambda m: rf"\overline{{{m[1]}{m[2] or ''}{m[3] or ''}}}", text)
    return _REPEATING.sub(_as_fraction, text)


def _as_fraction(match: re.Match[str]) -> str:
    once, again = match[1] + match[2], match[3] or match[4]
    upper = int(once + again) - int(once or 0)
    return rf"\frac{{{upper}}}{{{(10 ** len(again) - 1) * 10 ** len(match[2])}}}"


def _replaced(match: re.Match[str]) -> str:
    assert match.lastgroup is not None
    return _INSTEAD[match.lastgroup]


def _braced(match: re.Match[str]) -> str:
    if match[1]:
        return rf"\frac{{{match[1]}}}{{{match[2]}}}"
    return rf"\frac{{{match[3]}}}" if match[3] else rf"\frac{match[4]}{{{match[5]}}}"


def _marks_removed(text: str) -> str:
    """Without Markdown's marks for bold and code. A power written ** has something on one side only."""
    return _MARKS.sub(lambda m: m[1] or m[2] or m[3], text) if text[:1] in "*_`" else text


_BLANKS = re.compile(r"(?<![\d]) | (?!\d)")


def squeezed(text: str) -> str:
    """Without blanks, but for those between two numbers: 4 2 is not 42."""
    return _BLANKS.sub("", text)


_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d,])")


def joined_thousands(text: str) -> str:
    """1,000 and 1 000 without what stands between the groups; not in brackets, where (100,200) are two numbers."""

    def joined(match: re.Match[str]) -> str:
        before = text[: match.start()]
        opened = sum(before.count(c) for c in ("(", "[", r"\{")) - sum(before.count(c) for c in (")", "]", r"\}"))
        return match[0] if opened > 0 else match[0].replace(",", "").replace(" ", "")

    return _THOUSANDS.sub(joined, text)
