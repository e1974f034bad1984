"""Replicas: changes of the state, published by the trainer and applied by those who follow."""
