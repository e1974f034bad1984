"""Adapters: they change a ranker's parameters for one batch of requests. One file per method."""
