"""Programs of several stages: what others do in one go is put together here from sampling, scoring and training."""
