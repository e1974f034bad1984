"""The commands ``freshet log info | trim | copy``."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service import config as configs
from service.config import Config, ConfigError
from service.console import err, out
from service.log_tools import changes
from service.log_tools.summary import Summary, find_logs, summarize
from streams.disk.child import survives
from streams.disk.file import DATA

__all__ = ["app"]

app = typer.Typer(help="The logs on disk: what they hold, trimming, copies.", no_args_is_help=True, rich_markup_mode=None)

LogFolder = Annotated[
    str | None, typer.Argument(metavar="LOG", help="Folder of a log, or of a service, or lmdb:///folder; or give --config.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file; its [stream] url names the folder.")]

DAMAGED = 5
"""Exit code for a log with damaged records, as for every file that cannot be read."""


@app.command()
def info(
    log: LogFolder = None,
    config: ConfigFile = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare the checksum of every record.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Show offsets, times, bytes, retention and checksums of a log, or of every log of a service. A service may run."""
    folder, settings = _folder(log, config)
    for path in find_logs(folder):
        survives(partial(summarize, path, verify=verify), path / DATA)
    found = [summarize(path, verify=verify) for path in find_logs(folder)]
    if not found:
        raise FileNotFoundError(2, "no log here; give the folder of a log or of a service", str(folder))
    if as_json:
        out.print_json(json.dumps([asdict(one) | {"path": str(one.path)} for one in found]))
    else:
        out.print(_table(found, folder))
        if settings is None:
            text = "retention: give --config to see it"
        elif settings.stream.retain is None:
            text = "retention: none; events are kept until the log is full, and refused then ([stream] retain)"
        else:
            text = f"retention: {settings.stream.retain} records before the oldest checkpoint ([stream] retain)"
        out.print(text, markup=False, highlight=False, soft_wrap=True)
    for summary in found:
        for number, partition in summary.partitions.items():
            for offset in partition.damaged[:10]:
                err.print(f"{summary.path}: record {offset} of partition {number} is damaged", markup=False, highlight=False)
    if any(summary.damaged for summary in found):
        raise typer.Exit(DAMAGED)


@app.command()
def trim(
    log: LogFolder = None,
    config: ConfigFile = None,
    before: Annotated[int | None, typer.Option(min=0, help="Delete the records before this offset, in each partition.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0.0, help="Delete the records appended more than this many days ago.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete also what the newest checkpoint needs.")] = False,
) -> None:
    """Delete the oldest records of a log. The service must not run; what its newest checkpoint needs is kept.

    Space that becomes free is used for new records. To make the file smaller, copy the log with `freshet log copy`.
    """
    if (before is None) == (older_than is None):
        raise ConfigError("--before, --older-than", "give one of the two")
    path, folder = _one(*_folder(log, config))
    if before is not None:
        offsets = dict.fromkeys(summarize(path, verify=False).partitions, before)
    else:
        assert older_than is not None
        offsets = changes.offsets_at(path, time.time() - 86_400 * older_than)
    limits = {} if force else changes.needed(path, folder)
    offsets = {partition: min(offset, limits.get(partition, offset)) for partition, offset in offsets.items()}
    deleted = changes.trim(path, folder, offsets)
    kept = f"; records from {limits} on are needed by the newest checkpoint" if limits else ""
    out.print(f"{path}: {deleted} records deleted{kept}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def copy(
    log: Annotated[str, typer.Argument(metavar="LOG", help="Folder of a log, or of a service, or lmdb:///folder.")],
    target: Annotated[Path, typer.Argument(help="New folder of the copy.")],
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Copy a damaged log: empty records take the places of damaged ones.")
    ] = False,
) -> None:
    """Copy a log without its free space, and verify the copy. A service may run meanwhile."""
    path, _ = _one(*_folder(log, None))
    copied = changes.copy(path, target, salvage=salvage)
    count = sum(partition.end - partition.begin for partition in copied.partitions.values())
    text = f"{target}: {count} records, {copied.file_bytes} bytes, all checksums are right"
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _folder(log: str | None, config: Path | None) -> tuple[Path, Config | None]:
    """The folder that an argument or a config names."""
    settings = None if config is None else configs.load(config)
    if log is None:
        if settings is None or settings.folder is None:
            raise ConfigError("LOG", 'missing; give a folder, or --config with [stream] url = "lmdb:///folder"')
        return settings.folder, settings
    return Path(log.removeprefix("lmdb://")), settings


def _one(folder: Path, config: Config | None) -> tuple[Path, Path]:
    """The log, and the data folder that it is in. In the folder of a service it is the events log."""
    if find_logs(folder) == [folder]:
        return folder, folder.parent
    if find_logs(folder / "events"):
        return folder / "events", folder
    raise FileNotFoundError(2, "no log here; give the folder of a log or of a service", str(folder))


def _table(found: list[Summary], folder: Path) -> Table:
    made = Table()
    for column in ("log", "partition", "offsets", "records", "first", "last", "bytes used", "bytes of the file", "checksums"):
        made.add_column(column, justify="left" if column in ("log", "first", "last", "checksums") else "right")
    for summary in found:
        name = summary.path.name if summary.path == folder else str(summary.path.relative_to(folder))
        for number, one in summary.partitions.items():
            checked = f"{len(one.damaged)} wrong" if one.damaged else "right" if summary.verified else "not verified"
            size = (str(summary.used_bytes), str(summary.file_bytes)) if number == 0 else ("", "")
            offsets = f"{one.begin} to {one.end}"
            made.add_row(
                name, str(number), offsets, str(one.end - one.begin), _time(one.first), _time(one.last), *size, checked
            )
    return made


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
