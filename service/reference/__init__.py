"""What there is to configure: every key with its type, bounds, default and meaning, read from the code."""
