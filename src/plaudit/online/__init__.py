"""Learning from sampled answers: rollouts, their rewards, and what watches them."""
