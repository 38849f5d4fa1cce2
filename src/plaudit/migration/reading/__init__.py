"""From what somebody has (YAML, JSON, a Python script, a command line) to a list of settings."""
