"""Vector indexes: nearest-neighbour search on the CPU and the GPU."""
