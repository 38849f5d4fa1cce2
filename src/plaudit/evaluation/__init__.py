"""Numbers about a finished model, each with its confidence interval. Pure functions on arrays: numpy, no torch."""

from plaudit.evaluation.estimates import Estimate, mean_estimate, proportion_estimate
from plaudit.evaluation.kl import sequence_kl
from plaudit.evaluation.perplexity import perplexity
from plaudit.evaluation.preference import preference_accuracy
from plaudit.evaluation.winrate import WinRate, win_rate

__all__ = [
    "Estimate",
    "WinRate",
    "mean_estimate",
    "perplexity",
    "preference_accuracy",
    "proportion_estimate",
    "sequence_kl",
    "win_rate",
]
