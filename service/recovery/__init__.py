"""State of a process outside the log, so that a restart continues where the process stopped."""
