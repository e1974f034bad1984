"""The command ``freshet topics``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service import config as configs
from service.console import err, out, require_finite

__all__ = ["app"]

app = typer.Typer(help="The Kafka topics that a config names.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``create`` a command of its own: a single command would take the place of its group."""


@app.command("create")
def create_topics(
    config: Annotated[Path, typer.Option("--config", "-c", help="TOML file.")],
    partitions: Annotated[int | None, typer.Option(min=1, help="Partitions of the events topic; 4 for a new topic.")] = None,
    replication: Annotated[
        int | None,
        typer.Option(min=1, help="Replicas of each partition; a new topic gets 3, or one per broker if there are fewer."),
    ] = None,
    retention: Annotated[float | None, typer.Option(min=0.0, help="Days to keep events; 7 for a new topic.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the topics, but create none.")] = False,
) -> None:
    """Create the topics that a config names, and check existing ones. Nothing is altered or deleted.

    The events topic gets the partitions you ask for; weights and dead letters get one. No topic is compacted: compaction
    keeps only the last record of a key, and every record counts here.
    """
    from service.process import topics as kafka_topics  # Imported late: the Kafka client is slow to import.

    require_finite(retention=retention)
    seconds = None if retention is None else retention * kafka_topics.DAY
    needed = kafka_topics.required_topics(configs.load(config), partitions, seconds)
    reports = kafka_topics.create(needed, replication, dry_run=dry_run)
    out.print(kafka_topics.table(reports))
    for report in reports:
        for difference in report.differences:
            word = "not usable" if difference.essential else "differs"
            err.print(f"{report.topic.name}: {word}: {difference.text}", markup=False, highlight=False)
    if not all(report.usable for report in reports):
        raise typer.Exit(2)  # a wrong config
