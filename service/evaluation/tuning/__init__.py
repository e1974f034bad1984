"""Tuning: search the values of a config's keys that are best on a stream, and confirm them on its rest."""
