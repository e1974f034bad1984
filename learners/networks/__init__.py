"""Torch modules that learners share. This package has no learners."""
