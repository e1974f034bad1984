"""The walk of an event: read, validate, join, predict, learn."""
