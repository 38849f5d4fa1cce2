"""How far a policy has moved from its reference, on what it says itself."""

from __future__ import annotations

from plaudit.evaluation.estimates import Estimate, Values, finite_array, mean_estimate


def sequence_kl(policy_logprobs_N: Values, reference_logprobs_N: Values, confidence: float = 0.95) -> Estimate:
    """KL(policy ‖ reference) per sequence in nats: the mean of log π(y) - log π_ref(y) over y ~ π.

    Unbiased only when the sequences were sampled from the very distribution that ``policy_logprobs_N`` scores: the same
    temperature on both sides, no top-k or top-p. The estimate of a small KL can be negative.

    Args:
        policy_logprobs_N, reference_logprobs_N: log-probs of N sampled sequences, summed over their tokens.

    Raises:
        ValueError: empty, not finite, or of different length.
    """
    policy = finite_array(policy_logprobs_N, "policy log-probs")
    reference = finite_array(reference_logprobs_N, "reference log-probs")
    if policy.shape != reference.shape:
        raise ValueError(f"{policy.size} policy and {reference.size} reference log-probs: they must pair up")
    return mean_estimate(policy - reference, confidence)
