"""Pure functions of online reinforcement learning, and what its methods share."""
