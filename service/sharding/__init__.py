"""Training on several processes: each reads its partitions, and all have the same state."""
