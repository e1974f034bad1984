"""Networks of which only some weights exist."""
