"""The command line: ``freshet serve | train | warmup | replay | evaluate | validate | topics | demo``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service import config as configs
from service.config import Config, ConfigError, Role
from service.evaluation.estimators import NotEvaluable
from service.process.data_folder import FolderBusy
from streams.recorded import BadRecording

__all__ = ["ExitCode", "main"]

app = typer.Typer(
    name="freshet",
    help="A recommender that learns from every event and serves while it learns.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
topics = typer.Typer(help="The Kafka topics that a config names.", no_args_is_help=True)
app.add_typer(topics, name="topics")
# A pipe has no width of its own, and 80 columns would cut the table.
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, soft_wrap=True)

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file; without it, the built-in defaults.")]

Host = Annotated[str | None, typer.Option(help="Address to bind, instead of [server] host.")]
Port = Annotated[int | None, typer.Option(help="Port, instead of [server] port; 0 picks a free one.")]


class Above(StrEnum):
    """Who fills the places above the one that is evaluated."""

    POLICY = "policy"
    LOG = "log"


class LogFormat(StrEnum):
    """Formats of files with decisions."""

    OPEN_BANDIT = "open_bandit"
    DSJSON = "dsjson"
    EVENTS = "events"


class ExitCode(IntEnum):
    """What the process says on leaving, besides 0."""

    CONFIG = 2
    DATA = 3
    BUSY = 4
    SYSTEM = 5
    ENGINE = 6


def main() -> None:
    """Run the command line."""
    with _explained():
        app()


@app.command()
def serve(
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    replica: Annotated[bool, typer.Option("--replica", help="Do not learn: follow the `freshet train` of the config.")] = False,
) -> None:
    """Serve rankings over HTTP; learn from the events that come in, in the same process, or follow the process that does."""
    _run(config, host, port, "replica" if replica else "embedded")


@app.command()
def train(
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    folder: Annotated[
        str | None, typer.Option(help="Instead of [checkpoint] folder: each member of a [stream] group needs its own.")
    ] = None,
) -> None:
    """Learn from the events that come in, and publish what changes for replicas. Over HTTP: status, health and metrics."""
    _run(config, host, port, "trainer", folder)


@app.command()
def warmup(config: ConfigFile = None) -> None:
    """Compile what the config's learners compute with, as every start does before it is ready, and keep it: for an image.

    The learners are taken through events, rankings and clicks, in memory; whatever fails is told, with an exit code.
    """
    import logging

    from service.process.warmup import warm_up

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if warm_up(_load(config)):
        raise typer.Exit(ExitCode.ENGINE)


@app.command()
def replay(
    recording: Annotated[
        str | None,
        typer.Argument(help="File, lmdb:///folder or kafka://host:port/topic, instead of each config's [stream] url."),
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option("--config", "-c", help="TOML file; several are put side by side.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Length of the lists for hit rate and NDCG; 0 leaves them out.")] = 10,
    window: Annotated[int, typer.Option(min=1, help="Rows of the sliding windows.")] = 10_000,
    batch_rows: Annotated[int | None, typer.Option(min=1, help="Rows of a micro-batch; 1 is strict test-then-train.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row instead of leaving it out.")] = False,
    ledger: Annotated[
        Path | None, typer.Option(help="Folder of a trainer's ledger, to take several partitions in the order that it did.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for replay.json and replay.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Replay recorded events through the very objects that serve, and measure: predict, then learn."""
    from service.evaluation import replay as replays
    from service.evaluation import replay_report as reports

    done = []
    for settings in [_load(path) for path in config] if config else [_load(None)]:
        settings = _with_stream(settings, recording, batch_rows, strict)
        done.append(replays.replay(settings, k=top, window=window, ledger=ledger, console=None if as_json else err))
    if as_json:
        out.print_json(reports.as_json(done))
    else:
        out.print(reports.table(done, top))
    for one in done:
        for line in reports.remarks(one):
            err.print(line, markup=False, highlight=False)
        for reason, count in one.dead.items():
            err.print(f"{one.name}: {count} bad rows left out ({reason}); `freshet validate` names them")
    if report is not None:
        for path in reports.write(done, report, top):
            err.print(f"wrote {path}")


@app.command()
def evaluate(
    log: Annotated[
        str, typer.Argument(help="lmdb:///folder, kafka://host:port/topic, or a file: Open Bandit, dsjson, native events.")
    ],
    policy: Annotated[
        Path,
        typer.Option(
            "--policy", "-p", help="TOML file of the policy to evaluate; or an Open Bandit file, whose policy it then is."
        ),
    ],
    format: Annotated[LogFormat | None, typer.Option(help="Of a file; without it, by its name.")] = None,
    places: Annotated[int | None, typer.Option(min=1, help="Places of an impression that count, from the first.")] = None,
    above: Annotated[
        Above, typer.Option(help="Who fills the places above each: the policy (its own lists), or the log, as it was.")
    ] = Above.POLICY,
    clip: Annotated[float | None, typer.Option(min=0.0, help="Largest weight of clipped IPS; chosen when left out.")] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Level of the intervals.")] = 0.95,
    floor: Annotated[float, typer.Option(min=1.0, help="Effective sample size below which there is no verdict.")] = 100.0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad line instead of leaving it out.")] = False,
    ledger: Annotated[
        Path | None, typer.Option(help="Folder of a trainer's ledger, to take several partitions in the order that it did.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for evaluate.json, evaluate.png and impressions.csv.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Estimate what a policy would have earned, from the log of another one that kept its propensities."""
    from service.evaluation import off_policy as evaluations
    from service.evaluation import off_policy_report as reports

    is_config = policy.suffix == ".toml"
    settings = _with_stream(_load(policy if is_config else None), log, None, strict)
    if not is_config:
        settings = settings.model_copy(update={"name": str(policy)})
    # What the config says about recorded files is about those that it is replayed on.
    own = {"format": format.value if format else _format(log), "columns": None, "users": None, "items": None}
    stream = settings.stream.model_copy(update=own)
    done = evaluations.evaluate(
        settings.model_copy(update={"stream": stream}),
        chooser=None if is_config else evaluations.policy_of_log(policy, strict=strict),
        places=places,
        chain=above is Above.POLICY,
        clip=clip,
        confidence=confidence,
        floor=floor,
        ledger=ledger,
    )
    if as_json:
        out.print_json(reports.as_json(done))
    else:
        out.print(reports.table(done))
        for line in reports.summary(done):
            out.print(line, markup=False, highlight=False)
    for reason, count in done.dead.items():
        err.print(f"{count} lines left out ({reason})", markup=False, highlight=False)
    for letter in done.letters:
        err.print(f"  {letter}", markup=False, highlight=False)
    if report is not None:
        for path in reports.write(done, report):
            err.print(f"wrote {path}")


@app.command()
def validate(
    recording: Annotated[str | None, typer.Argument(help="File, instead of the config's [stream] url.")] = None,
    config: ConfigFile = None,
) -> None:
    """Read a recorded file as a replay would, and say what is in it and what is wrong with it."""
    from service.evaluation.replay import open_stream
    from streams.recorded import validate as examine

    found = examine(open_stream(_with_stream(_load(config), recording)))
    out.print_json(json.dumps(found.as_dict()))
    if found.bad:
        raise typer.Exit(ExitCode.DATA)


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option(min=1.0, help="End by itself after this long.")] = None,
    port: Annotated[int, typer.Option(help="Port on localhost; 0 picks a free one.")] = 8000,
) -> None:
    """Watch a service learn: simulated visitors with tastes that shift, and a live page."""
    import logging

    from service.demo.demonstration import run_demo

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_demo(seconds=seconds, port=port)


def _run(config: Path | None, host: str | None, port: int | None, role: Role, folder: str | None = None) -> None:
    from service.serving import run  # uvicorn and fastapi take a moment to import: only serving pays it.

    def started(where: str) -> None:
        err.print(f"{'training' if role == 'trainer' else 'serving'} on {where}, the live page is {where}/", highlight=False)

    settings = _load(config)
    if folder is not None:
        settings = settings.model_copy(update={"checkpoint": settings.checkpoint.model_copy(update={"folder": folder})})
    failure = run(settings, host, port, started, role)
    if failure is not None:
        err.print(f"[bold red]engine stopped:[/] {failure!r}; a restart continues from the last checkpoint", markup=True)
        raise typer.Exit(ExitCode.ENGINE)


@topics.command("create")
def create_topics(
    config: Annotated[Path, typer.Option("--config", "-c", help="TOML file.")],
    partitions: Annotated[int | None, typer.Option(min=1, help="Of the events topic; 4 for a new one.")] = None,
    replication: Annotated[
        int | None, typer.Option(min=1, help="Copies of each partition; 3, or as many as there are brokers, for new topics.")
    ] = None,
    retention: Annotated[float | None, typer.Option(min=0.0, help="Days that events are kept; 7 for a new topic.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at what there is, and create nothing.")] = False,
) -> None:
    """Create the topics that a config names, and check those that are there; none is altered or deleted.

    Events have as many partitions as asked for, weights and dead letters one. None is compacted: compaction keeps the last
    record of a key, and each counts here.
    """
    from service.process import topics as making  # The client takes a moment to import: only who uses Kafka pays it.

    needed = making.wanted(_load(config), partitions, None if retention is None else retention * making.DAY)
    reports = making.create(needed, replication, dry_run=dry_run)
    out.print(making.table(reports))
    for report in reports:
        for difference in report.differences:
            word = "not usable" if difference.essential else "differs"
            err.print(f"{report.wanted.name}: {word}: {difference.text}", markup=False, highlight=False)
    if not all(report.usable for report in reports):
        raise typer.Exit(ExitCode.CONFIG)


def _format(log: str) -> str | None:
    """``events`` for JSON lines, as a replay takes them; the other formats have names of their own."""
    return "events" if ".jsonl" in log or ".ndjson" in log else None


def _load(path: Path | None) -> Config:
    return configs.parse({}) if path is None else configs.load(path)


def _with_stream(config: Config, recording: str | None, batch_rows: int | None = None, strict: bool = False) -> Config:
    changes: dict[str, object] = {}
    if recording is not None:
        changes["url"] = recording if "://" in recording or recording.startswith("file:") else f"file:{recording}"
    if strict:
        changes["strict"] = True
    if batch_rows is not None:
        changes["batch_rows"] = batch_rows
    return config.model_copy(update={"stream": config.stream.model_copy(update=changes)})


@contextmanager
def _explained() -> Iterator[None]:
    """Say what went wrong in one paragraph, with an exit code for scripts, instead of a traceback."""
    try:
        yield
    except ConfigError as error:
        _leave(ExitCode.CONFIG, "config", error)
    except (BadRecording, NotEvaluable) as error:
        _leave(ExitCode.DATA, "data", error)
    except FolderBusy as error:
        _leave(ExitCode.BUSY, "busy", error)
    except OSError as error:
        _leave(ExitCode.SYSTEM, "system", error)


def _leave(code: ExitCode, what: str, error: Exception) -> None:
    err.print(f"{what}: {error}", markup=False, highlight=False)
    raise SystemExit(int(code)) from error
