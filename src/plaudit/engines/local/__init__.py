"""The embedded engine: generation on the model's own weights, with nothing else to install."""

from plaudit.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
