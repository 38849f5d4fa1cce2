"""Where code runs that nobody has read: bubblewrap, another machine, or (by name only) a bare process."""
