"""ReLoop2: corrects the ranker's scores with a memory of its recent errors."""
