"""Rerankers: they make new scores from scores. One file a method."""
