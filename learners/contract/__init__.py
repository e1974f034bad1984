"""What every learner is put through: checks, and worlds with known answers."""
