"""Attention over a forest without copying a prompt's keys to its branches.

A branch token attends to its prompt and to its own branch. The two parts are computed apart and merged by their
log-sum-exp, the way ring attention merges blocks (Liu et al. 2023, arXiv 2310.01889, §3). The backward pass calls each
part's kernel with the *merged* output and log-sum-exp, which yields exactly that part's share of the gradient. One
autograd node per layer covers the whole row, so memory follows unique tokens.

There are two ways to compute the parts. `rectangles` takes them one by one: torch's flash kernel on a CPU, plain
operations elsewhere. `varlen` gives all parts of a kind to one variable-length kernel (CUDA), so that the number of
launches does not grow with the number of segments; `choose` admits such a kernel only after it has been compared with
the plain operations on the device where it is to run.
"""

from plaudit.forest.attention.choose import kernel_notes
from plaudit.forest.attention.function import LAYOUT_KEYWORD, NAME, attend_segments, forest_attention
from plaudit.forest.attention.plan import Layout, Plan, Rule, Segments
from plaudit.forest.attention.portable import attend_part_anywhere, merge
from plaudit.forest.attention.rectangles import attend_part

__all__ = [
    "LAYOUT_KEYWORD",
    "NAME",
    "Layout",
    "Plan",
    "Rule",
    "Segments",
    "attend_part",
    "attend_part_anywhere",
    "attend_segments",
    "forest_attention",
    "kernel_notes",
    "merge",
]
