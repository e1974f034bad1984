"""Mixture of factorization machines and linear models that learn at different speeds."""
