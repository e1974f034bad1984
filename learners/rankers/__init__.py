"""Rankers: they score rows. One file per method."""
