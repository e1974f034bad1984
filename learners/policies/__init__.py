"""Policies: they choose what is shown, and say with which probability. One file a method."""
