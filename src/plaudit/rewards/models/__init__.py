"""Reward models: trained scores of answers, alone, normalised, together (ensembles) and averaged in weight space.

Each is a `RewardModel`: `score(items)` takes prompts with their answers and returns a number per answer.
"""
