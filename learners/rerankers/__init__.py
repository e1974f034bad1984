"""Rerankers: they correct the ranker's scores. One file per method."""
