"""Where the commands print: results to the standard output, remarks to the standard error."""

from __future__ import annotations

import sys

from rich.console import Console

__all__ = ["err", "out"]

# The default width for a pipe, 80 columns, would cut a table.
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, soft_wrap=True)
