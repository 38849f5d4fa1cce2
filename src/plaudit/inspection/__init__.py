"""What a run would be trained on, looked at before it starts: rendered, masked, packed and counted as training does.

Nothing here decides anything. Rows go through `plaudit.train.intake`, groups through `plaudit.train.planning`, and the
mask that is shown is read back from the `Forest`s that come out of it. No weights are loaded.
"""
