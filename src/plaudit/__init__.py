"""plaudit aligns language models with feedback. Importing it costs nothing heavy; torch is loaded when work starts."""

__version__ = "0.1.0"
