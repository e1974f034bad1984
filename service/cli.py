"""The command line: ``freshet serve``, ``train``, ``replay``, ``tune``, ``evaluate``, ``config``, ``log``, ``key`` and more."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from memory import jit
from service import config as configs
from service.commands.keys import app as key
from service.commands.topics import app as topics
from service.commands.tune import tune
from service.config import Config, ConfigError, Role
from service.console import err, finish, out, print_anything, print_json, require_finite
from service.evaluation.estimators import NotEvaluable
from service.log_tools.commands import app as log_commands
from service.process.data_folder import FolderBusy
from service.reference.commands import app as config_commands
from service.urls import url_of_recording
from streams.recorded import BadRecording

__all__ = ["ExitCode", "main"]

app = typer.Typer(
    name="freshet",
    help="A recommender that learns from every event and serves while it learns.",
    epilog=(
        "Exit codes: 0 done; 2 a wrong option or config; 3 bad data; 4 the data folder is in use; 5 a file, a port or a broker "
        "does not answer; 6 the engine stopped. Each option can be given in the environment: FRESHET_SERVE_PORT is "
        "--port of serve."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Help texts name sections such as [server], which are not markup.
    rich_markup_mode=None,
    context_settings={"auto_envvar_prefix": "FRESHET"},
)
app.add_typer(topics, name="topics")
app.add_typer(config_commands, name="config")
app.command()(tune)
app.add_typer(log_commands, name="log")
app.add_typer(key, name="key")

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file; the default is the built-in config.")]

Host = Annotated[str | None, typer.Option(help="Address to listen on; overrides server.host.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Serve without keys on an address that other machines reach, too.")]
Port = Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; overrides server.port. 0 picks a free one.")]


class Prefix(StrEnum):
    """Whose items fill the positions above the evaluated one."""

    POLICY = "policy"
    LOG = "log"


class LogFormat(StrEnum):
    """File formats of logged decisions."""

    OPEN_BANDIT = "open_bandit"
    DSJSON = "dsjson"
    EVENTS = "events"


class ExitCode(IntEnum):
    """Exit codes of a failure."""

    CONFIG = 2
    DATA = 3
    BUSY = 4
    SYSTEM = 5
    ENGINE = 6


def main() -> None:
    """Run the command line."""
    with _reported_errors():
        app()


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"freshet {metadata.version('freshet')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def serve(
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    replica: Annotated[
        bool, typer.Option("--replica", help="Do not learn: follow the `freshet train` process of this config.")
    ] = False,
    insecure: Insecure = False,
) -> None:
    """Serve rankings over HTTP. Learn from incoming events in the same process, or follow a trainer with --replica."""
    _run(config, host, port, "replica" if replica else "embedded", insecure=insecure)


@app.command()
def train(
    config: ConfigFile = None,
    host: Host = None,
    port: Port = None,
    folder: Annotated[
        str | None, typer.Option(help="Overrides checkpoint.folder. Each member of a consumer group needs its own folder.")
    ] = None,
    insecure: Insecure = False,
) -> None:
    """Learn from incoming events and publish the changes to replicas. Serves status, health and metrics over HTTP."""
    _run(config, host, port, "trainer", folder, insecure=insecure)


@app.command()
def warmup(config: ConfigFile = None) -> None:
    """Compile the functions of the config's learners and cache them, for example in an image.

    The learners process events, rankings and clicks in memory. Failures are logged, and the exit code is not 0 then. Every
    service does the same at its start, before it is ready.
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
        typer.Argument(help="File, lmdb:///folder or kafka://host:port/topic; overrides stream.url of each config."),
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option("--config", "-c", help="TOML file; repeat the option to compare several.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, max=10_000, help="List length k of hit rate@k and NDCG@k; 0 skips both.")] = 10,
    window: Annotated[int, typer.Option(min=1, max=100_000_000, help="Rows in a sliding window.")] = 10_000,
    batch_rows: Annotated[int | None, typer.Option(min=1, help="Rows in a micro-batch; 1 is strict test-then-train.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row instead of skipping it.")] = False,
    ledger: Annotated[
        Path | None, typer.Option(help="Folder of a trainer's ledger: read several partitions in the trainer's order.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for replay.json, replay.png and replay.html.")] = None,
    by_rows: Annotated[bool, typer.Option("--by-rows", help="Draw the pictures over rows, not over dates.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Replay recorded events through the objects that serve, and report metrics: predict each row, then learn it."""
    from service.evaluation import replay as replays
    from service.evaluation.reports import replay_report as reports
    from service.reference.resolved import as_toml

    _say_if_nothing_is_cached()
    paths: list[Path | None] = [*config] if config else [None]
    configs = [_with_stream(_load(path), recording, batch_rows, strict) for path in paths]
    results = [
        replays.replay(settings, k=top, window=window, ledger=ledger, console=None if as_json else err) for settings in configs
    ]
    if as_json:
        print_json(reports.as_json(results))
    else:
        out.print(reports.table(results, top))
    for result in results:
        for line in reports.remarks(result):
            err.print(line, markup=False, highlight=False)
        for reason, count in result.dead.items():
            text = f"{result.name}: {count} bad rows skipped ({reason}); `freshet validate` lists them"
            err.print(text, markup=False, highlight=False)
    if report is not None:
        shown = [as_toml(settings, settings.model_dump(exclude_defaults=True)) for settings in configs]
        for path in reports.write(results, report, top, shown, _command(), by_rows=by_rows):
            err.print(f"wrote {path}")


@app.command()
def evaluate(
    log: Annotated[
        str, typer.Argument(help="lmdb:///folder, kafka://host:port/topic, or a file: Open Bandit, dsjson, native events.")
    ],
    policy: Annotated[
        Path,
        typer.Option(
            "--policy", "-p", help="TOML file of the policy to evaluate, or an Open Bandit file that this policy logged."
        ),
    ],
    format: Annotated[LogFormat | None, typer.Option(help="Format of the file; the default depends on its name.")] = None,
    positions: Annotated[int | None, typer.Option(min=1, help="Evaluate only the first N positions of an impression.")] = None,
    above: Annotated[
        Prefix, typer.Option(help="Whose items fill the positions above each: the policy's (its own lists) or the logged ones.")
    ] = Prefix.POLICY,
    clip: Annotated[
        float | None, typer.Option(min=0.0, help="Largest weight of clipped IPS; the default is chosen from the log.")
    ] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Confidence level of the intervals.")] = 0.95,
    floor: Annotated[float, typer.Option(min=1.0, help="Smallest effective sample size for a verdict.")] = 100.0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad line instead of skipping it.")] = False,
    ledger: Annotated[
        Path | None, typer.Option(help="Folder of a trainer's ledger: read several partitions in the trainer's order.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for impressions.csv and evaluate.json, .png and .html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Estimate the value of a policy from a log of another policy (off-policy evaluation). The log must hold propensities."""
    from service.evaluation import off_policy as evaluations
    from service.evaluation.reports import off_policy_report as reports
    from service.reference.resolved import as_toml

    require_finite(clip=clip, confidence=confidence, floor=floor)
    _say_if_nothing_is_cached()
    is_config = policy.suffix == ".toml"
    settings = _with_stream(_load(policy if is_config else None), log, None, strict)
    if not is_config:
        settings = settings.model_copy(update={"name": str(policy)})
    # The file settings of [stream] describe the recordings that this config is replayed on, not this log.
    own = {"format": format.value if format else _format(log), "columns": None, "users": None, "items": None}
    stream = settings.stream.model_copy(update=own)
    result = evaluations.evaluate(
        settings.model_copy(update={"stream": stream}),
        chooser=None if is_config else evaluations.policy_of_log(policy, strict=strict),
        positions=positions,
        chain=above is Prefix.POLICY,
        clip=clip,
        confidence=confidence,
        floor=floor,
        ledger=ledger,
    )
    if as_json:
        print_json(reports.as_json(result))
    else:
        out.print(reports.table(result))
        for line in reports.summary(result):
            out.print(line, markup=False, highlight=False)
    for reason, count in result.dead.items():
        err.print(f"{count} lines left out ({reason})", markup=False, highlight=False)
    for letter in result.letters:
        err.print(f"  {letter}", markup=False, highlight=False)
    if report is not None:
        shown = as_toml(settings, settings.model_dump(exclude_defaults=True)) if is_config else ""
        for path in reports.write(result, report, shown, _command()):
            err.print(f"wrote {path}")


@app.command()
def validate(
    recording: Annotated[str | None, typer.Argument(help="File; overrides stream.url.")] = None,
    config: ConfigFile = None,
) -> None:
    """Check a recorded file as a replay would read it: print statistics of its contents, and list its bad rows."""
    from service.evaluation.recordings import examine

    found = examine(_with_stream(_load(config), recording))
    print_json(json.dumps(found.as_dict()))
    if found.bad:
        raise typer.Exit(ExitCode.DATA)


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option(min=1.0, help="Stop after this many seconds.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on localhost; 0 picks a free one.")] = 8000,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file instead of examples/demo.toml.")] = None,
) -> None:
    """Watch a service learn: simulated visitors whose tastes shift, and a live page."""
    import logging

    from service.demo.demonstration import run_demo

    require_finite(seconds=seconds)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_demo(seconds=seconds, port=port, config=None if config is None else _load(config))


def _run(
    config: Path | None, host: str | None, port: int | None, role: Role, folder: str | None = None, *, insecure: bool
) -> None:
    from service.serving import run  # Imported late: uvicorn and fastapi are slow to import.

    def started(address: str) -> None:
        work = "training" if role == "trainer" else "serving"
        err.print(f"{work} on {address}, the live page is {address}/", highlight=False)

    settings = _load(config)
    if folder is not None:
        settings = settings.model_copy(update={"checkpoint": settings.checkpoint.model_copy(update={"folder": folder})})
    failure = run(settings, host, port, started, role, insecure)
    if isinstance(failure, OSError):
        raise failure  # a log or a disk, whose error has the remedy
    if failure is not None:
        err.print(f"[bold red]engine stopped:[/] {failure!r}; a restart continues from the last checkpoint", markup=True)
        raise typer.Exit(ExitCode.ENGINE)


def _command() -> str:
    """Return the command line, for reports."""
    return shlex.join(["freshet", *sys.argv[1:]])


def _format(log: str) -> str | None:
    """Format of JSON lines: ``events``, as for a replay. The reader recognises other formats by name."""
    return "events" if ".jsonl" in log or ".ndjson" in log else None


def _say_if_nothing_is_cached() -> None:
    """Tell the operator that functions are compiled in memory, which takes up to a minute at every start."""
    if jit.cache_folder() is None:
        text = "compiling in memory, at every start: no cache folder can be written; set NUMBA_CACHE_DIR to one that can"
        err.print(text, markup=False, highlight=False)


def _load(path: Path | None) -> Config:
    return configs.parse({}) if path is None else configs.load(path)


def _with_stream(config: Config, recording: str | None, batch_rows: int | None = None, strict: bool = False) -> Config:
    changes: dict[str, object] = {}
    if recording is not None:
        changes["url"] = url_of_recording(recording)
    if strict:
        changes["strict"] = True
    if batch_rows is not None:
        changes["batch_rows"] = batch_rows
    return config.model_copy(update={"stream": config.stream.model_copy(update=changes)})


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Print an error in one paragraph and exit with its code, instead of printing a traceback."""
    print_anything()
    try:
        try:
            yield
        finally:
            finish()
    except ConfigError as error:
        _exit(ExitCode.CONFIG, "config", error)
    except (BadRecording, NotEvaluable) as error:
        _exit(ExitCode.DATA, "data", error)
    except FolderBusy as error:
        _exit(ExitCode.BUSY, "busy", error)
    except OSError as error:
        _exit(ExitCode.SYSTEM, "system", error)
    except MemoryError as error:
        _exit(ExitCode.SYSTEM, "system", MemoryError(f"not enough memory: {error}; choose smaller sizes"))


def _exit(code: ExitCode, category: str, error: Exception) -> None:
    err.print(f"{category}: {error}", markup=False, highlight=False)
    raise SystemExit(int(code)) from error
