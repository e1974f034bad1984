"""The command ``freshet key``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.console import err
from service.http.security import keys

__all__ = ["app"]

app = typer.Typer(help="The API keys of a service.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``new`` a command of its own: a single command would take the place of its group."""


@app.command("new")
def new_key(
    scope: Annotated[
        list[str], typer.Option(help="What the key allows: read, write, metrics or admin; repeat the option for several.")
    ],
    name: Annotated[str, typer.Option(help="Names the key in messages and in the file.")],
    file: Annotated[
        Path | None, typer.Option(help="File of keys to add the entry to, which only its owner may read; it need not exist.")
    ] = None,
) -> None:
    """Print a new API key, once, and its entry for the file of [server] keys or for FRESHET_API_KEYS, or add it to a file.

    The entry has a hash of the key. Nothing can restore the key from it.
    """
    made, entry = keys.new_key(name, scope)
    if file is not None:
        keys.add_line(file, entry)
        err.print(f"{file}: added {name}", markup=False, highlight=False)
    typer.echo(made)
    if file is None:
        typer.echo(entry)
