"""Indexes of vectors: the nearest of many, on the CPU and the GPU."""
