"""Embeddings of which only some blocks exist, and the rule that moves the blocks."""
