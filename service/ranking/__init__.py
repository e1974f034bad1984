"""What happens to a request: retrieve, score, select, respond."""
