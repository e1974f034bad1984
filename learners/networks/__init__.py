"""Torch modules that learners are built on. No learner is in here."""
