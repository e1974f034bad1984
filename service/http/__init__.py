"""The HTTP interface: routes, request checks, and responses."""
