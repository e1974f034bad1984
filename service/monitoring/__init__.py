"""Metrics of the running service: quality, freshness, latency, rates."""
