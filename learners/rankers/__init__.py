"""Rankers: they score rows. One file a method."""
