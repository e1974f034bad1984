"""The walk of a request: retrieve, score, choose, answer."""
