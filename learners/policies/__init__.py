"""Policies: they choose the items to show and return the probability of each choice. One file per method."""
