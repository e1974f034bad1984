"""Reports of replays and evaluations: tables, JSON, pictures, and one HTML page."""
