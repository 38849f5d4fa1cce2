"""Known hacks of verifiers, and whether a reward falls for them."""
