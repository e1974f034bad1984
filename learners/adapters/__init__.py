"""Adapters: they change a ranker's weights for the requests at hand. One file a method."""
