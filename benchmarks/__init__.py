"""Side-by-side measurements against other libraries; every script prints a ratio."""
