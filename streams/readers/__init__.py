"""Readers of recorded files, one per format; `streams.recorded` chooses among them."""
