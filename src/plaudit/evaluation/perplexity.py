"""How surprised a model is by a text."""

from __future__ import annotations

import math

from plaudit.evaluation.estimates import Values, finite_array


def perplexity(logprob_sums_N: Values, token_counts_N: Values) -> float:
    """exp of the mean negative log-prob per token over all texts (a long text weighs more than a short one).

    Args:
        logprob_sums_N: log-probs in nats, summed over the scored tokens of each text.
        token_counts_N: how many tokens were scored in each text (the first has no context and is not one of them).

    Raises:
        ValueError: empty, not finite, of different length, or a count below 1.
    """
    sums, counts = finite_array(logprob_sums_N, "log-prob sums"), finite_array(token_counts_N, "token counts")
    if sums.shape != counts.shape:
        raise ValueError(f"{sums.size} log-prob sums and {counts.size} token counts: they must pair up")
    if (counts < 1).any():
        raise ValueError("every text must have at least one scored token")
    return math.exp(-float(sums.sum()) / float(counts.sum()))
