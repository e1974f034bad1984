"""Parts of the joiner: elapsed time, the open batch, and clicks that come before their impression."""
