"""The demonstration: a service on localhost, simulated visitors, and metrics of their clicks."""
