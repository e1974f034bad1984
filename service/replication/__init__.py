"""Replicas: the trainer publishes changes of its state, and replicas apply them."""
