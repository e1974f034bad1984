"""Diag-LinUCB: a bandit over clusters of users."""
