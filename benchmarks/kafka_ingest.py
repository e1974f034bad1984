"""Events per second that one process reads from a Kafka topic, decodes and joins, and its memory over millions of events.

The reader runs in a separate process; this process fills topics for it. The broker is the one of the tests, which keeps
everything in memory and is restarted for each part of the stream, or the one that FRESHET_TEST_KAFKA names. The same reader
also runs without the C module for checksums, which is optional for kafka-python.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from benchmarks import measure
from benchmarks.measure import Cost
from streams.batch import pack_rows
from streams.codec import decode, encode, partition_key
from streams.events import Attribute, Event, Impression, Interaction, ItemUpdate, Scalar
from streams.join import Joiner
from streams.log import Log
from tests.broker import GIVEN, Broker, running

__all__ = ["broker", "main"]

STAGES = ("read", "read, decode", "read, decode, join")
READER = "--reader"
WITHOUT = f"{STAGES[-1]}, no C checksum"
RECORDS_PER_READ = 500
"""Records of a read, as in the service, and of an append."""

EVENTS_PER_SECOND, WINDOW = 1000.0, 60.0
"""Rate and seconds of event time. About 50,000 impressions and 60,000 ids are remembered for two windows."""

START = 1_700_000_000.0
IMPRESSIONS, CLICKS, RATING = (0, 2, 4, 6), (1, 3, 5, 7), 8
EARLIER, SHOWN = 21, 5
TEXT = "Mozilla/5.0 (Linux; Android 14) https://shop.example/search?q=kettle&sort=price&page=2 " * 12


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="events per round (default: %(default)s)")
    parser.add_argument(
        "--slow-rows", type=int, default=20_000, help="events per round without the C module (default: %(default)s)"
    )
    parser.add_argument("--events", type=int, default=5_000_000, help="events of the memory measurement; 0 skips it")
    parser.add_argument("--part", type=int, default=500_000, help="events in the broker at a time (default: %(default)s)")
    options = parser.parse_args(arguments)
    before = measure.machine()
    costs, size, problems = _rates(options)
    memory = _memory(options, problems)
    rates = {name: measure.best(spent) for name, spent in costs.items()}
    metrics = {
        "event_bytes": size,
        "rates": rates,
        "ratios": {f"{STAGES[-1]} / {WITHOUT}": measure.ratio(costs, STAGES[-1], WITHOUT)},
        "memory": memory,
        "problems": problems,
    }
    _show(metrics, options)
    measure.finish("kafka_ingest", options, before, metrics)
    if problems:
        sys.exit("; ".join(problems))


def _rates(options: Namespace) -> tuple[dict[str, list[Cost]], float, list[str]]:
    """Costs of all stages in interleaved rounds over one topic, bytes per event, and problems."""
    problems: list[str] = []

    def contender(name: str, rows: int) -> Cost:
        with _reader(name, options) as ask:
            found = ask(servers, topic, 0, rows)
        if (counted := found["seen"]) != _expected(name, rows):
            problems.append(f"{name}: counted {counted}, expected {_expected(name, rows)}")
        return Cost(rows, found["wall"], found["cpu"])

    rows = {**dict.fromkeys(STAGES, options.rows), WITHOUT: min(options.slow_rows, options.rows)}
    with _topic() as (servers, topic):
        size = _fill(servers, topic, 0, options.rows)
        contenders = {name: partial(contender, name, count) for name, count in rows.items()}
        return measure.interleave(contenders, options.rounds), size, problems


def _memory(options: Namespace, problems: list[str]) -> list[dict[str, float]]:
    """Resident memory and rates of one reader after each part of the stream."""
    found: list[dict[str, float]] = []
    seen: dict[str, int] = {}
    with _reader(STAGES[-1], options) as ask:
        for start in range(0, options.events, options.part):
            count = min(options.part, options.events - start)
            with measure.err.status(f"{start:,} of {options.events:,} events"), _topic() as (servers, topic):
                _fill(servers, topic, start, count)
                answer = ask(servers, topic, start, count)
            seen = answer["seen"]
            found.append(
                {
                    "events": start + count,
                    "resident_mb": answer["resident_mb"],
                    "joiner_mb": answer["joiner_mb"],
                    "events_per_second": count / answer["wall"],
                    "events_per_cpu_second": count / answer["cpu"],
                }
            )
    if options.events and seen != _expected(STAGES[-1], options.events):
        problems.append(f"memory: counted {seen}, expected {_expected(STAGES[-1], options.events)}")
    return found


# ---- the stream


def _events(start: int, count: int) -> Iterator[Event]:
    """Yield events: of ten, four are impressions, four are clicks on recent impressions, one is a rating and one an item."""
    rng = np.random.default_rng(0)
    features = pack_rows(1, rng.integers(1, 1 << 60, (SHOWN, 5)), np.ones((SHOWN, 5), np.float32))
    for n in range(start, start + count):
        kind, timestamp = n % 10, START + n / EVENTS_PER_SECOND
        shown = n - EARLIER if kind in CLICKS and n >= EARLIER else None
        about = n if shown is None else shown
        user, item = f"u{about * 7919 % 50_000}", about * 31 % 20_000
        if kind in IMPRESSIONS:
            yield Impression(
                request_id=f"r{n}",
                user=user,
                items=tuple(f"i{item + k}" for k in range(SHOWN)),
                features=features,
                scores=(0.5, 0.4, 0.3, 0.2, 0.1),
                propensities=(0.9, 0.8, 0.7, 0.6, 0.5),
                source="fm",
                version=n,
                context=_context(n, 260),
                timestamp=timestamp,
            )
        elif kind in CLICKS:
            request = None if shown is None else f"r{shown}"
            context = _context(n, 805)
            yield Interaction(id=f"c{n}", request_id=request, user=user, item=f"i{item}", context=context, timestamp=timestamp)
        elif kind == RATING:
            stars: dict[str, Any] = {"kind": "rating", "value": 4.0, "context": _context(n, 800)}
            yield Interaction(id=f"c{n}", user=user, item=f"i{item}", timestamp=timestamp, **stars)
        else:
            attributes: dict[str, Attribute] = {"brand": f"b{n % 100}", "price": 9.5, "text": TEXT[:890]}
            yield ItemUpdate(item=f"i{item}", attributes=attributes, timestamp=timestamp)


def _context(n: int, length: int) -> dict[str, Scalar]:
    """Request context of a web shop, with texts of `length` characters in total."""
    agent, referrer = length * 2 // 5, length * 3 // 5
    return {"device": "phone", "hour": n % 24, "app": False, "agent": TEXT[:agent], "referrer": TEXT[-referrer:]}


def _expected(name: str, rows: int) -> dict[str, int]:
    """The counts that a reader has to report."""
    kinds = np.bincount(np.arange(rows) % 10, minlength=10)
    if "join" not in name:
        return {"records": rows}
    interactions = int(kinds[[*CLICKS, RATING]].sum())
    return {"records": rows, "impressions": int(kinds[[*IMPRESSIONS]].sum()), "interactions": interactions}


def _fill(servers: str, topic: str, start: int, count: int) -> float:
    """Append a part of the stream; return bytes per event."""
    from streams.kafka.log import KafkaLog

    log, size, records = KafkaLog(servers, topic), 0, []
    for event in _events(start, count):
        records.append((partition_key(event), encode(event)))
        size += len(records[-1][1])
        if len(records) == RECORDS_PER_READ:
            log.append(records)
            records = []
    log.append(records)
    log.close()
    return size / count


@contextmanager
def broker() -> Iterator[Broker]:
    """The broker of FRESHET_TEST_KAFKA, or a new one that runs inside the block."""
    if GIVEN in os.environ:
        yield Broker(os.environ[GIVEN])
        return
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as folder, running(Path(folder)) as started:
        yield started


@contextmanager
def _topic() -> Iterator[tuple[str, str]]:
    """An empty topic, and the address of its broker."""
    with broker() as kafka:
        topic = kafka.topic()
        yield kafka.servers, topic
        if kafka.process is None:
            kafka.delete(topic)


# ---- the reader


@contextmanager
def _reader(name: str, options: Namespace) -> Iterator[Callable[[str, str, int, int], dict[str, Any]]]:
    """Start a process that reads topics; yield a function that has it read one and returns its report."""
    command = [sys.executable, "-m", "benchmarks.kafka_ingest", READER, name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], text=True)
    to_reader, from_reader = process.stdin, process.stdout
    assert to_reader is not None and from_reader is not None
    if options.pin is not None:
        os.sched_setaffinity(process.pid, {options.pin})

    def ask(servers: str, topic: str, start: int, count: int) -> dict[str, Any]:
        print(json.dumps([servers, topic, start, count]), file=to_reader, flush=True)
        answer = from_reader.readline()
        if not answer:
            raise RuntimeError(f"the reader ended with status {process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        return found

    try:
        yield ask
    finally:
        to_reader.close()
        process.wait()
        from_reader.close()


def _read_topics(name: str, commands: IO[str]) -> None:
    """Run the reader process: read the topic that each command names, and print a report."""
    if name == WITHOUT:
        # kafka-python does not find the module; Freshet imports it as well and gets an empty one.
        sys.modules["crc32c"] = None  # type: ignore[assignment]
        importlib.import_module("kafka.record.util")
        sys.modules["crc32c"] = ModuleType("crc32c")
    from streams.kafka.log import KafkaLog

    joiner = Joiner(window=WINDOW, lateness=WINDOW, capacity=200_000)
    records = 0
    for line in commands:
        servers, topic, start, count = json.loads(line)
        log = KafkaLog(servers, topic, readonly=True)
        with measure.stopwatch(count) as watch:
            records += _read(log, joiner, start, count, decoding="decode" in name, joining="join" in name)
        log.close()
        counts = {kind: joiner.counts[kind] for kind in ("impressions", "interactions") if "join" in name}
        answer = {
            "seen": {"records": records, **counts},
            "wall": watch.cost.wall,
            "cpu": watch.cost.cpu,
            "joiner_mb": joiner.nbytes / 1e6,
            "resident_mb": _resident_mb(),
        }
        print(json.dumps(answer), flush=True)


def _read(log: Log, joiner: Joiner, start: int, count: int, *, decoding: bool, joining: bool) -> int:
    at = 0
    while at < count:
        records = log.read({0: at}, RECORDS_PER_READ)
        for record in records:
            if decoding:
                event = decode(record.value)
                if joining:
                    joiner.push(start + record.offset, record.timestamp, event)
        at += len(records)
    return at


def _resident_mb() -> float:
    """Resident memory of this process in MB; its maximum so far on systems without /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


# ---- tables


def _show(metrics: dict[str, Any], options: Namespace) -> None:
    measure.table(
        f"One partition, events of {metrics['event_bytes']:.0f} bytes, best of {options.rounds} rounds",
        ["one reading process", "events per CPU second", "events per second"],
        [[name, rate["rows_per_cpu_second"], rate["rows_per_second"]] for name, rate in metrics["rates"].items()],
    )
    measure.table(
        "Events per CPU second, with and without",
        ["", "best", "low", "median", "high"],
        [[pair, *found.values()] for pair, found in metrics["ratios"].items()],
    )
    if metrics["memory"]:
        measure.table(
            "One reader over the whole stream",
            ["events so far", "resident MB", "joiner MB, about", "events per CPU second", "events per second"],
            [[f"{part['events']:,}", *(part[name] for name in PART_COLUMNS)] for part in metrics["memory"]],
        )


PART_COLUMNS = ("resident_mb", "joiner_mb", "events_per_cpu_second", "events_per_second")

if __name__ == "__main__":
    if sys.argv[1:2] == [READER]:
        _read_topics(sys.argv[2], sys.stdin)
    else:
        main()
