"""Verifiers: rewards that check an answer instead of judging it."""
