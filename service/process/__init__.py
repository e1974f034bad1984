"""What runs in a process: the engine's thread, the logs, what is done before the service is ready."""
