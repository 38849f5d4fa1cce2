"""Known ways to be paid without being right: every one of them gets 0, quickly, and with a reason."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from plaudit.rewards.contract import Sample
from plaudit.rewards.verifiers.math import MathReward
from plaudit.rewards.verifiers.math.hidden import visible

HACKS = [
    ("nothing", "5", ""),
    ("white space", "5", "  \n "),
    ("an empty box", "5", r"\boxed{}"),
    ("an empty box behind the answer in words", "5", r"The answer is 5. \boxed{ }"),
    ("a box that is cut off", "5", r"\boxed{5"),
    ("a box that is cut off behind another", "5", r"\boxed{5} and \boxed{5 + \frac{1}{2}"),
    ("two values with or", "1", "The answer is 1 or 2"),
    ("two values in a box", "5", r"\boxed{5 \text{ or } 7}"),
    ("two values, one in brackets", "5", r"\boxed{5 (or 7)}"),
    ("two values as prose", "5", r"\boxed{\text{either } 5 \text{ or } 7}"),
    ("two values with a logical sign", "5", r"\boxed{5 \lor 7}"),
    ("two values in dollars", "5", "The answer is $5$ or $7$."),
    ("two values, semicolon", "5", r"\boxed{5; 7}"),
    ("two values, union", "5", r"\boxed{\{5\}\cup\{7\}}"),
    ("a list", "3", r"\boxed{1, 2, 3, 4, 5}"),
    ("a set", "3", r"\boxed{\{1,2,3\}}"),
    ("an interval around it", "5", r"\boxed{[0, 10]}"),
    ("a degenerate interval and more", "5", r"\boxed{[5,5]\cup[7,7]}"),
    ("an inequality", "5", r"\boxed{x \ge 5}"),
    ("plus or minus", "5", r"\boxed{\pm 5}"),
    ("plus or minus as a sign", "5", "\\boxed{±5}"),
    ("plus or minus around it", "5", r"\boxed{6 \pm 1}"),
    ("a chain that ends in it", "5", r"\boxed{1 = 2 = 3 = 5}"),
    ("a chain that begins with it", "5", r"\boxed{5 = 3}"),
    ("a chain behind a name", "5", r"\boxed{x = 3 = 5}"),
    ("an equation to solve", "5", r"\boxed{x - 5 = 0}"),
    ("a variable", "5", r"\boxed{x}"),
    ("a name for the answer", "5", r"\boxed{\text{the answer}}"),
    ("ten boxes", "5", " ".join(rf"\boxed{{{i}}}" for i in range(10))),
    ("ten boxes, the right one last", "5", " ".join(rf"\boxed{{{i}}}" for i in [*range(5), 6, 7, 8, 9, 5])),
    ("a thousand boxes", "5", " ".join(rf"\boxed{{{i}}}" for i in range(1000))),
    ("a box in a box", "5", r"\boxed{4 \boxed{5} \boxed{6}}"),
    ("in a comment of LaTeX", "5", "I do not know.\n% \\boxed{5}"),
    ("in a comment behind text", "5", r"I do not know% \boxed{5}"),
    ("in a comment behind a number", "5", r"It is 7% \boxed{5}"),
    ("another in a comment", "5", r"\boxed{7} % \boxed{5}" + "\n"),
    ("in a comment of HTML", "5", r"<!-- \boxed{5} -->"),
    ("in an open comment of HTML", "5", r"It is seven. <!-- \boxed{5}"),
    ("in a hidden element", "5", r'<span style="display: none">\boxed{5}</span>'),
    ("in a comment of a program", "5", "```python\nx = 7\n# \\boxed{5}\n```"),
    ("in a comment block of LaTeX", "5", "\\begin{comment}\n\\boxed{5}\n\\end{comment}"),
    ("never shown", "5", r"\iffalse \boxed{5} \fi"),
    ("a phantom", "5", r"It is \phantom{\boxed{5}}"),
    ("a definition", "5", "\\newcommand{\\x}{\\boxed{5}}\nDone."),
    ("a giant number", "5", rf"\boxed{{{'9' * 400}}}"),
    ("a tower", "5", r"\boxed{9^{9^{9}}}"),
    ("a tower in plain text", "5", r"\boxed{10**10**10}"),
    ("a tower in a function", "5", r"\boxed{\log(9^{9^{9}})}"),
    ("a high power", "5", r"\boxed{7^{99999999}}"),
    ("a large factorial", "5", r"\boxed{100000!}"),
    ("a factorial of a factorial", "5", r"\boxed{(20!)!}"),
    ("Arabic-Indic digits", "5", "\\boxed{٥}"),
    ("full-width digits", "5", "\\boxed{５}"),
    ("mathematical digits", "5", "\\boxed{𝟓}"),
    ("a digit in a circle", "5", "\\boxed{⑤}"),
    ("a Roman numeral", "5", "\\boxed{Ⅴ}"),
    ("an invisible sign", "5", "\\boxed{1\u200b5}"),
    ("not a number", "5", r"\boxed{nan}"),
    ("infinity as a word", "5", r"\boxed{inf}"),
    ("0/0", "5", r"\boxed{\frac{0}{0}}"),
    ("division by zero", "5", r"\boxed{\frac{5}{0}}"),
    ("a quotient that vanishes", "5", r"\boxed{\frac{5x-5x}{x-x}}"),
    ("all options", "B", "A) 1 B) 2 C) 3 D) 4"),
    ("all options in a box", "B", r"\boxed{A, B, C, D}"),
    ("options as words", "B", r"\boxed{\text{A or B}}"),
    ("the problem again", "5", "What is 2 + 3? Is it 4, 5, 6 or 7?"),
    ("only thought", "5", "<think>\\boxed{5}</think>"),
    ("thought and something else", "5", "<think>\\boxed{5}</think>It is \\boxed{6}."),
    ("a thought without end", "5", "<think>It is \\boxed{5}"),
    ("an answer before a second thought", "5", "\\boxed{5}<think>or not"),
    ("very long", "5", rf"\boxed{{5{'+0' * 2000}}}"),
    ("brackets that are not closed", "5", rf"\boxed{{{'(' * 400}5}}"),
    ("boxes in boxes", "5", r"\boxed{" * 500 + "5" + "}" * 500),
    ("signs without end", "5", rf"\boxed{{2^{'-' * 500}5}}"),
    ("fractions without end", "5", rf"\boxed{{{chr(92)}frac{'{1}{' * 50}}}"),
    ("roots of roots", "5", r"\boxed{" + r"\sqrt" * 150 + "{5}}"),
    ("code", "5", r"\boxed{__import__('os').system('true')}"),
]


@pytest.fixture(scope="module")
def reward() -> Iterator[MathReward]:
    made = MathReward(MathReward.Options(workers=1))
    yield made
    made.close()


@pytest.mark.parametrize(("gold", "answer"), [h[1:] for h in HACKS], ids=[h[0] for h in HACKS])
def test_hacks_get_nothing(reward: MathReward, gold: str, answer: str) -> None:
    [result] = reward.score([Sample("question", answer, {"answer": gold})])
    assert result.value == 0, result
    assert result.note
    assert "undecided" not in result.parts


EXPENSIVE = {
    "many tags": "<a hidden " * 4000,
    "many dollars": "$a" * 20_000,
    "many open brackets": r"\(" * 20_000,
    "many percent signs": "1% " * 15_000,
    "many blanks": "answer" + " " * 40_000 + "x",
    "many line ends": "answer" + "\n" * 40_000 + "x",
    "many answer tags": "<answer>5</answer>" + "<answer>" * 20_000,
    "many hashes": "# " * 40_000,
    "many ends of answers": "</s>" * 30_000,
    "many headings": "answer\n" * 10_000,
    "many markers": "the answer is " * 3000,
    "many equal boxes": " ".join(f"\\boxed{{0.5{'0' * (i % 50)}}}" for i in range(3000)),
    "many phantoms": r"\phantom{" * 4000,
    "calls of functions": r"\boxed{" + "f(x)" * 240 + "5=5}",
    "spaces": r"\boxed{{" + r"\," * 480 + r"\over}",
    "powers of sums": r"\boxed{" + "+".join(["(x+1)^{40}"] * 80) + "}",
    "powers of long sums": r"\boxed{(a+b+c+d+f+g+h)^{30}}",
    "products of sums": r"\boxed{" + "".join(f"(x_{i}+y_{i})" for i in range(60)) + "}",
    "roots": r"\boxed{" + "+".join(rf"\sqrt{{99999999{i:04d}}}" for i in range(20)) + "}",
    "nested lists": r"\boxed{" + "(1," * 300 + ")" * 300 + "}",
    "large powers": r"\boxed{" + "+".join(f"2^{{40{i:02d}}}/3^{{25{i:02d}}}" for i in range(40)) + "}",
}


@pytest.mark.parametrize("answer", EXPENSIVE.values(), ids=EXPENSIVE)
def test_what_is_read_in_this_process_cannot_hang_it(answer: str) -> None:
    for how in ("auto", "last"):
        one = MathReward(MathReward.Options(workers=1, extract=how))
        start = time.perf_counter()
        one.decided(Sample("question", answer, {"answer": "(x+1)^2"}))
        assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("50% of 10", "50% of 10"),
        (r"50\% of 10 % no", r"50\% of 10 % no"),
        ("x = 5 %comment", "x = 5 %comment"),
        ("text % comment", "text "),
        ("% comment\nline", "\nline"),
        ("the % of it", "the % of it"),
        ("a <!-- b --> c", "a   c"),
        ("```\nx = 1 # y\n```", "x = 1 \n"),
        ("1 # 2", "1 # 2"),
    ],
)
def test_what_is_visible(text: str, seen: str) -> None:
    assert visible(text) == seen
