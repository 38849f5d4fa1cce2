"""An OpenAI-compatible endpoint on the project's own engine: `plaudit serve`."""
