"""Models: loading, adapters, heads, roles, and `ForestModel`, the only way into a forward pass."""
