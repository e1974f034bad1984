"""The command ``freshet config``: what a config says, whether it is right, and what there is to say."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from service import config as configs
from service.console import out

__all__ = ["app"]

app = typer.Typer(help="Look at a config, check it, and see what there is to configure.", no_args_is_help=True)

ConfigFile = Annotated[Path | None, typer.Argument(help="TOML file; the default is the built-in config.")]


@app.command()
def show(
    config: ConfigFile = None,
    given: Annotated[bool, typer.Option("--given", help="Leave the defaults out.")] = False,
) -> None:
    """Print a config with all its values as TOML, and mark those that are defaults."""
    from service.reference.resolved import as_toml

    contents = {} if config is None else tomllib.loads(configs.read(config))
    typer.echo(as_toml(configs.parse(contents, config.stem if config else "default"), contents, only_given=given), nl=False)


@app.command()
def check(config: Annotated[Path, typer.Argument(help="TOML file.")]) -> None:
    """Check a config as a service does at its start: all keys and values, and whether the learners fit each other."""
    from service.process.runtime import build_pipeline

    pipeline = build_pipeline(configs.load(config))
    learners = (*pipeline.retrievers.named, pipeline.ranker_name, *pipeline.adapters.named, *pipeline.rerankers.named)
    typer.echo(f"{config}: right; learners: {', '.join(learners)}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of config files. Editors complete and check with it.

    Save it beside your config as freshet.schema.json, and begin the config with the line "#:schema freshet.schema.json".
    """
    from service.reference.schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=2))


@app.command()
def learners(
    name: Annotated[str | None, typer.Argument(help="A learner, such as fm: print what it does and its keys.")] = None,
) -> None:
    """List all learners, or print the page of one."""
    from service.reference import pages

    if name is None:
        out.print(pages.learners_table())
    else:
        typer.echo(pages.learner_page(name), nl=False)
