"""API keys, who may use which route, and the headers that protect browsers."""
