"""Retrievers: they generate candidates. One file per method."""
