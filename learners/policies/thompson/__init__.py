"""Thompson sampling."""
