"""Diag-LinUCB: a contextual bandit over clusters of users."""
