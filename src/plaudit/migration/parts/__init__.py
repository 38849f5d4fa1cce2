"""What several keys of the other tool mean together."""
