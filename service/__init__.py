"""The service: processes, and what they do with requests and events."""
