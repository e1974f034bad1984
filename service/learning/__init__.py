"""The path of an event: read, validate, join, predict, learn."""
