"""Contract suite: checks that every learner must pass, and simulated worlds with known answers."""
