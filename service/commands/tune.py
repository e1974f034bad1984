"""The command ``freshet tune``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service import config as configs
from service.console import err, out
from service.evaluation.tuning_goals import Objective, Pruner

if TYPE_CHECKING:
    from service.evaluation.tuning.study import Tried

__all__ = ["tune"]

INTERRUPTED = 130
"""Exit code after an interrupt from the keyboard, as in a shell."""


def tune(
    recording: Annotated[
        str | None, typer.Argument(help="File, lmdb:///folder or kafka://host:port/topic; overrides stream.url of the config.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="TOML file of the base; its table tune has ranges.")
    ] = None,
    objective: Annotated[
        list[Objective] | None,
        typer.Option("--objective", help="What is tuned for; the default is log_loss. With cpu as a second one: a front."),
    ] = None,
    trials: Annotated[int, typer.Option(min=2, help="Trials of the study in all, the base among them.")] = 40,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, each with one thread.")] = 1,
    first: Annotated[float, typer.Option(min=0.05, max=0.95, help="Share of the stream for trials; the rest confirms.")] = 0.6,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Confidence level of the gain on the rest.")] = 0.99,
    pruner: Annotated[Pruner, typer.Option(help="When a bad trial is stopped early.")] = Pruner.MEDIAN,
    top: Annotated[int, typer.Option(min=1, help="List length k of hit_rate, ndcg and reward.")] = 10,
    batch_rows: Annotated[int | None, typer.Option(min=1, help="Rows in a micro-batch; 1 is strict test-then-train.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad row instead of skipping it.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    study: Annotated[
        Path | None, typer.Option(help="SQLite file of the trials, which are continued; the default is NAME.tune.sqlite.")
    ] = None,
    best: Annotated[
        Path | None, typer.Option("--out", help="File for the config to use: the base with the best values, if they hold.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for tune.json and tune.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the tables.")] = False,
) -> None:
    """Search better values for a config on the first part of a stream, and confirm them on the rest.

    Run the same command again to continue after a stop, or with more --trials.
    """
    # Imported late: Optuna is slow to import.
    from service.evaluation.tuning import report as reports
    from service.evaluation.tuning.documents import rewritten
    from service.evaluation.tuning.tune import Plan
    from service.evaluation.tuning.tune import tune as search

    text = "" if config is None else configs.read(config)
    name = "default" if config is None else config.stem
    objectives = objective or [Objective.LOG_LOSS]
    plan = Plan(
        document=_with_stream(
            tomllib.loads(text), recording, batch_rows, strict, of_decisions=Objective.OFF_POLICY in objectives
        ),
        name=name,
        study=study or Path(f"{name}.tune.sqlite"),
        objectives=tuple(objectives),
        trials=trials,
        jobs=jobs,
        share=first,
        k=top,
        confidence=confidence,
        seed=seed,
        pruner=pruner,
    )
    bar = _Bar(None if as_json else err, trials, lower_is_better=plan.lower_is_better)
    try:
        with bar.progress:
            tuned = search(plan, bar.update)
    except KeyboardInterrupt:
        err.print(f"stopped; the same command continues the study in {plan.study}", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        out.print_json(reports.as_json(tuned))
    else:
        out.print(reports.table(tuned))
        confirmation = reports.confirmation_table(tuned)
        if confirmation is not None:
            out.print(confirmation)
    for line in reports.remarks(tuned):
        (err if as_json else out).print(line, markup=False, highlight=False)
    err.print(f"the study is in {plan.study}", highlight=False)
    if best is not None:
        best.write_text(rewritten(text, tuned.values), encoding="utf-8")
        err.print(f"wrote {best}" + ("" if tuned.values else ", which is the base"), highlight=False)
    if report is not None:
        for path in reports.write(tuned, report):
            err.print(f"wrote {path}", highlight=False)


def _with_stream(
    document: Mapping[str, Any], recording: str | None, batch_rows: int | None, strict: bool, *, of_decisions: bool
) -> dict[str, Any]:
    """The document, whose ``[stream]`` has what the command line says."""
    changes: dict[str, Any] = {}
    if recording is not None:
        changes["url"] = recording if "://" in recording or recording.startswith("file:") else f"file:{recording}"
    if strict:
        changes["strict"] = True
    if batch_rows is not None:
        changes["batch_rows"] = batch_rows
    if of_decisions and recording is not None:
        # As in `freshet evaluate`: JSON lines are events unless the reader recognises another format by name.
        changes["format"] = "events" if ".jsonl" in recording or ".ndjson" in recording else None
    stream = document.get("stream", {})
    # A stream that is no table is refused by the config.
    return {**document, "stream": {**stream, **changes} if isinstance(stream, Mapping) else stream}


class _Bar:
    """A progress bar of the trials with the best one so far; hidden without a console."""

    def __init__(self, console: Console | None, trials: int, *, lower_is_better: bool) -> None:
        self._sign = 1.0 if lower_is_better else -1.0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=console or err,
            transient=True,
            disable=console is None,
        )
        self._task = self.progress.add_task("trials", total=trials, text="")

    def update(self, tried: Sequence[Tried]) -> None:
        """Show how many trials are finished, and the best of them."""
        complete = [one for one in tried if one.state == "complete"]
        text = ""
        if complete:
            best = min(complete, key=lambda one: self._sign * one.value)
            text = f"base {complete[0].value:.4f}, best {best.value:.4f} (trial {best.number})"
        self.progress.update(self._task, completed=len(tried), text=text)
