"""Adversarial hardening of reward models: find answers that score high and divide the members, train against them."""
