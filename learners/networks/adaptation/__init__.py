"""Changes of a network's normalisations while it serves: how they are found, and what keeps them from doing harm."""
