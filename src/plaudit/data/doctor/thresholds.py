"""Every number that decides a verdict, with its reason. Shares are of the rows that a check applies to."""

from __future__ import annotations

# ---------------------------------------------------------------- shares

SOME = 0.01
"""From one row in a hundred a fault is no accident of a few rows, it lies in how the data was made: that fails."""
DUPLICATES_FAIL = 0.05
"""Repeated rows are rows that weigh more, not wrong ones. One in twenty is an extra epoch for a part of the data."""
QUOTES_WARN = 0.05
"""Answers that contain their prompt: rewriting and proof-reading do so rightly, so a few say nothing."""
OTHER_LANGUAGE_WARN = 0.02
"""Answers in another language or script than the prompt: translations do so rightly; language identification itself
errs on about one text in fifty of a few sentences. For languages, of which few rows are looked at, the lower bound of
the interval decides."""
BOTH_SIDES_WARN = 0.05
"""An answer that beats one and loses to another is how rankings look as pairs; only much of it is worth a word."""
LONE_SYSTEM_PROMPT = 0.2
"""A system prompt that fewer than a fifth of the rows have (or lack) looks forgotten rather than chosen."""

# ---------------------------------------------------------------- repeats

PERMUTATIONS = 128
"""Slots of a MinHash digest. The similarity is estimated with a standard error of 0.03 near 0.8."""
SHINGLE = 3
"""Words in a shingle. Lee et al. 2022 (arXiv 2107.06499) take 5 for web pages. Rows are shorter: one changed word of 40
costs three 3-grams of 38 (similarity 0.85), but five 5-grams of 36 (0.76)."""
SIMILAR = 0.8
"""Jaccard similarity of the shingles from which two texts are near duplicates; that of Lee et al. 2022."""
FEWEST_WORDS = 20
"""Shorter rows are near duplicates only when they are equal but for case and punctuation: each word counts there."""
BANDS = 32
"""A band holds values of both texts (see `BAND_PROMPT`, `BAND_ANSWER`). With 2 + 4 values two rows of similarity 0.8 in
both meet in one of 32 bands with probability 1 - (1 - 0.8⁶)³² > 0.9999, and rows that share the prompt alone
(answers 0.2) with 5 %: those are told apart by their digests."""
BAND_PROMPT, BAND_ANSWER = 2, 4
NEIGHBOURS = 8
"""Rows of one band that a row is compared with, besides the first: a band of thousands stays linear."""

# ---------------------------------------------------------------- length

LENGTH_WARN = 0.64
"""Share of comparisons in which the better answer is the longer one. Φ(d/√2) of Cohen's d = 0.5, a medium effect
(McGraw and Wong 1992, Psychological Bulletin 111:361). Reward models learn such a bias first (Singhal et al. 2023,
arXiv 2310.03716)."""
LENGTH_FAIL = 0.8
"""A rule that counts characters is right four times in five. The bound of the interval decides, not the share, so a
small file never fails by chance."""
FEWEST_COMPARISONS = 20
"""Below it an interval says nothing, and neither do we."""

# ---------------------------------------------------------------- balance

LABELS_WARN = 4.0
"""Rows of the larger class per row of the smaller one. KTO wants weights that bring the classes to at most 3 : 2
(Ethayarajh et al. 2024, arXiv 2402.01306), which weights near 1 cannot do from here on."""
POSITION_WARN = 0.1
"""How far the bound of the interval may lie from the even share: judges of pairs are known to prefer a side by ten
points and more (Wang et al. 2023, arXiv 2305.17926)."""

# ---------------------------------------------------------------- leaks

LEAK_CHARACTERS = 20
"""A shorter prompt ("Hello") is no leak when the answer begins with it."""
QUOTE_CHARACTERS = 40
"""A shorter prompt is quoted by chance."""

# ---------------------------------------------------------------- languages

LANGUAGE_ROWS = 1000
"""Rows whose language is identified, evenly spread over the file: a share of 2 % is then known to ± 0.9 points."""
LANGUAGE_LETTERS = 40
"""Fewer letters cannot be told apart."""
LANGUAGE_SURE = 0.95
"""Least probability by the identifier's own account: of lists and names it is not sure."""
LANGUAGE_CHARACTERS = 400
"""Of each text, from its beginning."""
SCRIPT_LETTERS = 20
"""Fewer letters have no script to speak of."""

# ---------------------------------------------------------------- output

EXAMPLES = 3
SHOWN = 70
"""Characters of an example."""
