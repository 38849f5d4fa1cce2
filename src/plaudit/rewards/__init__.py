"""Rewards: whatever gives an answer a number.

`contract` says what a reward is: a value or a typed error for each answer, never a default. `models` are trained ones.
"""
