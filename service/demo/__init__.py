"""The demonstration: a service on localhost, simulated visitors, and what became of their clicks."""
