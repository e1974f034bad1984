"""Run the soak test: ``python -m tests.soak --minutes 30``."""

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

from tests.soak.run import Plan, Report, run

SLOWER = 2.0
"""The p99 of good requests may be this many times that without hostile ones."""


def main() -> int:
    """Run it, print what came of it, and say in the exit status whether anything was violated."""
    ask = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    ask.add_argument("--minutes", type=float, default=30.0)
    ask.add_argument("--seed", type=int, default=os.environ.get("FRESHET_SOAK_SEED", time.time_ns() % 100_000))
    ask.add_argument("--visitors", type=float, default=Plan.visitors, help="good visitors a second")
    ask.add_argument("--hostile", type=float, default=Plan.hostile, help="hostile requests a second")
    plan = Plan(**vars(ask.parse_args()))
    folder = Path(tempfile.mkdtemp(prefix="freshet-soak-"))
    began = time.monotonic()
    print(f"{plan}, in {folder}", flush=True)
    report = run(plan, folder, lambda line: print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True))
    if (ratio := report.latency["hostile_p99"] / report.latency["calm_p99"]) > SLOWER:
        report.problems.append(f"latency: the p99 of good requests is {ratio:.2f} times that without hostile ones")
    Console(width=120).print(_table(report))
    print(report.as_json())
    if report.problems:
        print("\n".join(f"VIOLATED: {problem}" for problem in report.problems), file=sys.stderr)
        print(f"everything is in {folder}; --seed {plan.seed} sends the same inputs again", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def _table(report: Report) -> Table:
    table = Table(title=f"{report.plan.minutes:g} minutes, seed {report.plan.seed}, {report.seconds:.0f} s", show_header=False)
    rows: dict[str, object] = {**report.done, **report.counted}
    rows |= {f"memory: {name}": f"{value:,.2f}" for name, value in report.memory.items()}
    rows |= {f"latency: {name}": f"{value:,.2f}" for name, value in report.latency.items()}
    rows |= {f"digest: {name}": digest for name, digest in report.digests.items()}
    rows |= {f"hostile: {name}": str(statuses) for name, statuses in sorted(report.hostile.items())}
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


if __name__ == "__main__":
    sys.exit(main())
