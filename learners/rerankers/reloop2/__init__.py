"""ReLoop2: a memory of errors compensates the ranker's scores."""
