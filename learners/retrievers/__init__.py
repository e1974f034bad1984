"""Retrievers: they find candidates. One file a method."""
