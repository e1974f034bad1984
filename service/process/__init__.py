"""The serving process: the engine's thread, the logs it opens, and the warm-up before it is ready."""
