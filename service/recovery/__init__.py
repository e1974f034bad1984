"""What is written beside the log, so that a restart goes on where the process stopped."""
