"""What each key of the other tools is here: one line per key."""
