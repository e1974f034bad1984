"""Losse-FTL: a world model of the user, learned in one pass, that looks ahead."""
