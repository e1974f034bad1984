"""Run the chaos test: ``python -m tests.chaos --kills 100``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.broker import which
from tests.chaos.run import Plan, Report, run

EVERY = 5.0
"""Seconds between lines of progress."""


def main() -> int:
    """Run it, print what came of it, and say in the exit status whether anything was violated."""
    ask = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    ask.add_argument("--kills", type=int, default=100)
    ask.add_argument("--seed", type=int, default=os.environ.get("FRESHET_CHAOS_SEED", time.time_ns() % 100_000))
    ask.add_argument("--log", choices=["kafka", "lmdb"], default="kafka")
    ask.add_argument("--partitions", type=int, default=4)
    ask.add_argument("--rate", type=float, default=40.0, help="events a second")
    plan = Plan(**vars(ask.parse_args()))
    folder = Path(tempfile.mkdtemp(prefix="freshet-chaos-"))
    began, shown = time.monotonic(), float("-inf")

    def say(line: str) -> None:
        nonlocal shown
        if (now := time.monotonic()) - shown > EVERY:
            shown = now
            print(f"{now - began:6.0f} s  {line}", flush=True)

    print(f"{plan}, {which() if plan.log == 'kafka' else 'on disk'}, in {folder}", flush=True)
    report = run(plan, folder, say)
    Console(width=120).print(_table(report))
    print(report.as_json())
    if report.problems:
        print("\n".join(f"VIOLATED: {problem}" for problem in report.problems), file=sys.stderr)
        print(f"everything is in {folder}; --seed {plan.seed} disturbs in the same order again", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def _table(report: Report) -> Table:
    table = Table(title=f"{report.plan.kills} kills, seed {report.plan.seed}, {report.seconds:.0f} s", show_header=False)
    rows: dict[str, object] = {"log": report.broker or report.plan.log, **report.done, **report.counted}
    for name, seen in report.replicas.items():
        rows |= {f"{name}: {what}": number for what, number in seen.items()}
    rows |= {f"digest: {name}": digest for name, digest in report.digests.items()}
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


if __name__ == "__main__":
    sys.exit(main())
