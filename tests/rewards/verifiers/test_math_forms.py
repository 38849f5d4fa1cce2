"""Forms that models and data sets really write, and answers beside them that are wrong or commit to nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plaudit.rewards.contract import Sample
from plaudit.rewards.verifiers.math import MathReward

RIGHT = [
    # equations and names
    ("x+y=1", "x+y=1"), ("x+y=1", "y+x=1"), ("x+y=1", "2x+2y=2"), ("x+y=1", "y=1-x"), ("x+y-1=0", "x+y=1"),
    ("y=2x+1", "y=2x+1"), ("y=2x+1", "y-1=2x"), ("y=2x+1", "2x-y+1=0"), ("x=5", "5"), ("5", "x=5"), ("5", "x = 5"),
    ("x=5", "5=x"), ("-x=5", "x=-5"), ("m+n=47", "47"), ("47", "m+n=47"), ("m+n=47", "n+m=47"), ("a-b=3", "3"),
    ("ab=6", "6"), ("ab=6", r"\text{the product}=6"), (r"\text{the sum}=5", "m+n=5"),
    (r"\sin A=\frac{3}{5}", r"\frac{3}{5}"), (r"\frac{3}{5}", r"\sin A=\frac{3}{5}"), ("f(2)=7", "7"),
    ("AB=5", "5"), ("5", "|AB|=5"), (r"\angle A=60^\circ", r"60^\circ"), ("f(x)=x^2", "f(x)=x^2"),
    ("f(x)=x^2", "x^2"),
    ("f(x)=x^2", "y=x^2"), ("f(x)=2x+1", "f(x)=1+2x"), ("f(n)=2^n", "f(n)=2^n"), ("x^2", "f(x)=x^2"),
    ("f(x,y)=x+y", "f(x,y)=y+x"), ("a-b=c", "a=b+c"), (r"x^2+y^2=25", "y^2+x^2=25"), (r"\vec{a}=(1,2)", "(1,2)"),
    (r"f^{-1}(x)=\frac{x-1}{2}", r"\frac{x-1}{2}"), ("391", r"17\cdot 23=391"), ("5", r"x=2+3=5"), ("9", "3^2"),
    ("768", r"3\cdot 2^{8}"), (r"\frac{1023}{1024}", r"1-\frac{1}{1024}"), ("120", "5!"), ("1500", r"1.5\times 10^3"),
    ("AB=5", "BA=5"), (r"\angle A=60", r"\angle BAC=60"), ("f(n)=n", r"f(n) = n \text{ for all } n"),
    ("f(x)=x", r"f(x) = x \text{ for all } x \in \mathbb{R}"), ("f(2)=5", "x=5"), (r"6\text{ PM}", "6"),
    # thousands
    (r"10,\!080", "10080"), (r"\$32,\!348", "32348"), ("10080", r"10,\!080"), ("10080", r"10,\,080"),
    ("10080", r"10\text{,}080"), ("1234567", r"1,\!234,\!567"), ("1234567", r"1{,}234{,}567"),
    # multiple choice
    ("A", r"\textbf{(A)}\ 7"), ("A", r"\text{(A) } 7"), ("A", r"\textbf{(A) }7"), (r"\textbf{(A) }7", "A"),
    (r"\textbf{(A) }7", "7"), ("7", r"\textbf{(A)}\ 7"), ("7", "(A) 7"), ("A", r"\text{A. 7}"),
    ("A", r"\text{Option A}"),
    (r"\text{(B)}", "B"), (r"\textbf{(D)}\ \frac{1}{2}", r"\frac12"),
    # units
    ("5", r"5\text{ m}"), ("5", r"5\mathrm{~m}"), ("5", r"5\mathrm{~m}^2"), ("5", r"5 \text{ g}"),
    ("5", r"5\text{ N}"),
    ("5", r"5\text{ J}"), ("5", r"5\text{ V}"), ("5", r"5 \text{ W}"), ("5", r"5\ \text{L}"), (r"2\text{ m}", "2"),
    ("20", "20 m/s"), (r"20\text{ m/s}", "20 m/s"), ("9.8", r"9.8\ \mathrm{m/s^2}"), (r"20\text{ m/s}^2", "20"),
    ("5", r"5\mathrm{~m} / \mathrm{s}"), ("5", r"5 \text{ kg}\cdot\text{m}"), (r"8 \mathrm{~km} / \mathrm{h}", "8"),
    (r"8 \mathrm{~km} / \mathrm{h}", r"8 \text{ km/h}"), ("3", r"\text{3 hours}"), ("5", r"\text{5 apples}"),
    ("5", r"\text{\$5}"), ("5", "₹5"), ("5", "¥5"), ("5", r"\text{Rs. }5"), ("5", r"\text{USD }5"),
    ("5", r"5 \Omega"),
    ("2m", "2m"), (r"2\pi", r"2\pi\text{ m}"), ("60", r"60\text{ miles per hour}"),
    # decimals that repeat
    (r"0.\overline{57}", r"\frac{19}{33}"), (r"\frac{1}{3}", r"0.\overline{3}"), (r"\frac{1}{3}", r"0.\dot{3}"),
    (r"\frac{1}{6}", r"0.1\overline{6}"), (r"\frac{100}{3}\%", r"33.\overline{3}\%"),
    (r"-\frac{1}{3}", r"-0.\overline{3}"),
    (r"\frac{1}{7}", r"0.\dot{1}4285\dot{7}"),
    # times
    ("3:00", "3:00"), ("12:00", r"12:00"), (r"11:00\text{ a.m.}", "11:00 AM"), ("6:00 PM", r"6:00 \text{ PM}"),
    (r"2:30 PM", r"2:30 \text{ PM}"), ("6:15 PM", r"6:15 \text{ p.m.}"), ("3:00", "3:00 PM"), ("1:2", "1:2"),
    # structures
    (r"\langle 1,2\rangle", r"\langle 1,2\rangle"), (r"\langle 1,2\rangle", "(1,2)"),
    (r"\{1\pm\sqrt{5},-2\}", r"1+\sqrt{5},1-\sqrt{5},-2"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]"),
    (r"\begin{pmatrix}\frac12&1\\2&3\end{pmatrix}", r"\frac12\begin{pmatrix}1&2\\4&6\end{pmatrix}"),
    (r"\begin{pmatrix}-2\\-14\\-7\end{pmatrix}", "(-2,-14,-7)"), ("x=1,y=2", r"\begin{cases}x=1\\y=2\end{cases}"),
    (r"\{x|x>3\}", r"(3,\infty)"), (r"(3,\infty)", r"\{x \mid x>3\}"), ("(0,1)", "]0,1["), ("[0,1)", "[0,1["),
    (r"\mathbb{R}\setminus\{0\}", r"(-\infty,0)\cup(0,\infty)"), (r"(-\infty,0)\cup(0,\infty)", r"x\ne0"),
    (r"x=2k\pi, k\in\mathbb{Z}", r"x = 2k\pi \quad (k \in \mathbb{Z})"), (r"7 \pmod{11}", r"x \equiv 7 \pmod{11}"),
    (r"\text{June 20}", "June 20"), (r"\text{ellipse}", r"\text{an ellipse}"), ("7", r"\underline{7}"),
    ("7", r"\color{red}{7}"), ("7", r"\textcolor{red}{7}"), (r"\frac{22}{7}", r"\frac{22}{7} \approx 3.14"),
    (r"\sqrt{2}", r"\sqrt{2}\approx 1.414"), ("3.14", r"\pi \approx 3.14"),
]  # fmt: skip

WRONG = [
    ("x+y=1", r"\text{the answer}=1"), ("-x=5", r"\text{the answer}=5"), (r"\text{the sum}=5", "-x=5"),
    ("x+y=1", "x-y=1"), ("x+y=1", "x+z=1"), ("x+y=1", "-x-y=1"), ("x+y=1", "1"), ("x+y=0", "x-y=0"), ("x+y=0", "0"),
    ("x-y=1", "y-x=1"), ("xy=1", "x/y=1"), ("xy=1", "1"), ("xy=1", "z=1"), ("xy=1", r"\sin x=1"), ("a-b=c", "a+b=c"),
    ("a-b=c", "b-a=c"), ("x+y=k", "xy=k"), (r"\sin x=1", r"\cos x=1"), ("x=5", "-x=5"), ("x=5", "|x|=5"),
    ("-x=5", "5"), ("5", "-x=5"), ("5", "|x|=5"), ("x=5", "y=5"), ("m+n=47", "mn=47"), ("y=2x+1", "y=2x-1"),
    ("y=2x+1", "x=2y+1"), ("f(x)=x^2", "f(x)=x^3"), ("f(x)=x^2", "x=3"), ("f(x)=x^2", "f(x)=0"), ("f(x)=x^2", "0=0"),
    ("f(x)=2x+1", "f(x)=2x"), ("f(n)=2^n", "f(n)=3^n"), ("f(x,y)=x+y", "f(x,y)=xy"), (r"\vec{a}=(1,2)", "x=3"),
    (r"f^{-1}(x)=2x", "f^{-1}(x)=3x"), (r"f(n)=n", r"f(n)=n+1 \text{ for all } n"), ("x=y", "0=0"),
    ("x=y", "y^2=y^2"),
    ("f(2)=5", "f(3)=5"), ("AB=5", "CD=5"), (r"\angle B=30", r"\angle A=30"), (r"\beta=5", r"\alpha=5"),
    ("P(A)=0.5", "P(B)=0.5"), ("x=5", "x'=5"), ("f(2)=5", "f(x)=5"), ("5", "5,5"), ("5", "5_2"), ("5", "5'"),
    ("5", r"(1\cup 2=3)\cup (4)"),
    ("5", r"5 \text{ (six)}"), ("5", r"5 \text{ six}"), (r"6\text{ PM}", "7"),
    # restated
    ("x=18", "3x-7=2x+11"), ("x=391", r"\frac{x}{17}=23"), ("x=2", "2x+4=8"), ("x=2", "x+1=3"),
    ("x=5556", "12345-6789=x"),
    ("391", r"17\cdot 23"), ("391", r"17 \times 23"), ("391", "17*23"), ("5556", "12345-6789"),
    ("5050", r"\sum_{k=1}^{100}k"),
    (r"\frac{1}{3}", r"\int_0^1 x^2 dx"), ("6", r"\gcd(12,18)"), ("7", "(3+4)"), ("7", "x=3+4"),
    ("36", r"\lcm(12,18)"),
    # thousands, choice, units
    (r"10,\!080", "080, 10"), (r"\$32,\!348", "348, 32"), ("A", r"\textbf{(B)}\ 7"), ("7", r"\textbf{(A)}\ 8"),
    (r"\textbf{(A) }7", "8"), (r"\textbf{(A) }7", "B"), ("A", r"\text{(A) or (B)}"), (r"5\text{ m}", r"5\text{ g}"),
    (r"20\text{ m/s}", r"20\text{ m}"), (r"8 \mathrm{~km} / \mathrm{h}", r"8 \text{ m/s}"), ("5", r"5 \text{ lakh}"),
    ("5", r"5 \text{ crores}"), ("5", r"5 \text{ doubled}"), (r"2m", r"2n"), ("2x", "2"), ("5", r"\text{5 or 6}"),
    ("5", r"\text{5 6}"),
    (r"0.\overline{57}", "0.57"), (r"\frac{1}{3}", r"0.\overline{4}"), ("3:00", "3:30"), ("6:00 PM", "6:00 AM"),
    ("3:00", "3"), ("3:00", "4:00"), (r"\{x|x>3\}", r"(-\infty,3)"), (r"\{1\pm\sqrt{5},-2\}", r"1+\sqrt{5},-2"),
    (r"\mathbb{R}\setminus\{0\}", r"\mathbb{R}\setminus\{1\}"),
    (r"\begin{pmatrix}-2\\-14\\-7\end{pmatrix}", "(-2,-14,7)"),
    (r"7 \pmod{11}", r"x \equiv 8 \pmod{11}"), (r"\text{June 20}", "June 21"),
    (r"\frac{22}{7}", r"3.14 \approx \frac{22}{7}"),
    ("5", r"5 \approx 7"), ("4", r"3 \approx 4"), ("0", r"\infty-\infty"), ("0", r"0\cdot\infty"),
    ("7", r"\frac{22}{7} \approx 3.14"),
]  # fmt: skip

PLACED = [
    ("7", "so 3+4=7 #### 7"), ("42", "**Final Answer**\n\n42"), ("7", "Some steps.\n\n### Answer\n7"),
    ("7", "Ans: 7"),
    ("7", "The answer should be 7."), ("7", "the answer is therefore 7"), ("7", "The answer is 7 (since 3+4=7)."),
    (r"\frac12", r"The answer is $\frac{1}{2}$ (or 50%)."), (r"\frac12", r"\boxed{\frac12 \text{ or } 0.5}"),
    ("B", "The correct option is (B)."), ("B", "The answer is option B"), ("The answer is 42.", "42"),
    ("Answer: 42", "42"),
    ("so 3+4=7 #### 7", "7"), ("7", "<answer>7</answer>"), ("7", "<think>8?</think><answer>7</answer>"),
    ("7", "<think>8?</think>\n<answer>\n7\n</answer>\n"), ("7", "<answer>x=7</answer>"),
    ("7", r"<answer>\boxed{7}</answer>"),
    ("7", r"<answer>The answer is 7.</answer>"), ("7", r"It is \boxed{7}. <answer>7</answer>"),
    ("<answer>42</answer>", "42"),
]  # fmt: skip

PLACED += [
    ("7", "<answer>7</answer> <answer>7</answer>"),
    ("7", "7<|im_end|>"),
    ("7", "The answer is 7.</s>"),
    ("7", r"\boxed{7}<|eot_id|>"),
]
MISPLACED = [
    ("7", "<answer>7</answer> <answer>8"),
    ("7", "<answer>7</answer><answer>8</answer>"), ("7", r"\boxed{8} <answer>7</answer>"), ("7", "<answer></answer>"),
    ("7", "<answer>7"), ("7", "<answer>7 or 8</answer>"), ("7", "The answer is 42."), ("The answer is 42.", "43"),
    ("7", "The answer is 8 (since 7 is odd)."), (r"\frac12", r"The answer is $\frac{1}{2}$ (or 60%)."),
]  # fmt: skip


@pytest.fixture(scope="module")
def reward() -> Iterator[MathReward]:
    reward = MathReward()
    yield reward
    reward.close()


def scored(reward: MathReward, table: list[tuple[str, str]], *, boxed: bool) -> dict[tuple[str, str], str]:
    samples = [
        Sample(prompt="q", completion=rf"\boxed{{{answer}}}" if boxed else answer, row={"answer": gold})
        for gold, answer in table
    ]
    return {
        case: f"{result.value} {result.error or ''} {result.note}"
        for case, result in zip(table, reward.score(samples), strict=True)
    }


@pytest.mark.parametrize(
    ("table", "boxed", "value"),
    [(RIGHT, True, "1"), (WRONG, True, "0"), (PLACED, False, "1"), (MISPLACED, False, "0")],
    ids=["right", "wrong", "placed", "misplaced"],
)
def test_forms(reward: MathReward, table: list[tuple[str, str]], boxed: bool, value: str) -> None:
    """A wrong answer is 0 and no failure: groups whose wrong answers fail would be left out, and the mean biased."""
    found = scored(reward, table, boxed=boxed)
    assert {case: said for case, said in found.items() if said.split()[0] not in (value, f"{value}.0")} == {}
