"""Where the commands print: results to the standard output, remarks to the standard error. Any terminal can show them."""

from __future__ import annotations

import contextlib
import io
import math
import sys

from rich.console import Console

from learners.registry import ConfigError

__all__ = ["err", "finish", "out", "print_anything", "print_json", "require_finite"]

# The default width for a pipe, 80 columns, would cut a table.
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, soft_wrap=True)


def print_anything() -> None:
    """Let both outputs escape characters that their encoding lacks. Names of files and texts of rows may hold any."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(document: str) -> None:
    """Print JSON in the encoding of the terminal: characters that it may lack become JSON's own escapes."""
    unicode = (sys.stdout.encoding or "ascii").lower().startswith("utf")
    out.print_json(document, ensure_ascii=not unicode)


def finish() -> None:
    """Write what is still to be written, so that a full disk is an error and not a lost tail.

    Raises
    ------
    OSError
        If the output cannot be written. It is closed then.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        raise


def require_finite(**options: float | None) -> None:
    """Refuse options that are NaN or infinite: the bounds of an option let them through.

    Raises
    ------
    ConfigError
        Naming the option.
    """
    for name, value in options.items():
        if value is not None and not math.isfinite(value):
            raise ConfigError("options", f"--{name} {value}: no finite number; give one, or leave the option out")
