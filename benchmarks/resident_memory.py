"""Resident memory of a service against what it states: ``memory_bytes`` and a base, under what clients can do to make it grow.

Each part has a service of its own, with the defaults of the config, and one way to grow: distinct ids, distinct sources, large
items, unfinished bodies, and load. Its memory is read every half second. Only anonymous memory counts: pages of the log and of
program files are shared with the page cache, which takes them back when memory is short.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import measure
from benchmarks.service import running

__all__ = ["BASE", "PARTS", "main"]

BASE = 320 << 20
"""Bytes of a process without anything in its stores: the interpreter, its libraries, compiled functions, threads, and what is
used for a moment while events are decoded and learned."""

MARGIN = 1.10
PERIOD = 0.5
EVENTS_PER_POST = 500
CONFIG = """
[stream]
url = "lmdb://{folder}/log"
window = 60.0
lateness = 60.0
retain = 100_000
[stream.options]
max_bytes = 4_000_000_000
[checkpoint]
every = 10.0
[features.item]
id = "category"
text = "category"
[retrievers.popularity]
[retrievers.item_knn]
"""

Event = dict[str, Any]


class Client:
    """One connection to a service."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.host, self.port = parts.hostname or "", parts.port or 0
        self._connection = http.client.HTTPConnection(self.host, self.port, timeout=120)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded body of a response."""
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def post(self, events: Iterator[Event]) -> None:
        """Post events in lists, and wait until they are learned."""
        while some := list(islice(events, EVENTS_PER_POST)):
            status, answer = self.ask("POST", "/v1/events", some)
            if status == 503:
                time.sleep(0.1)
            elif status != 202:
                raise RuntimeError(f"{status}: {str(answer)[:300]}")
        self.learned()

    def learned(self) -> None:
        """Wait until nothing is left to learn."""
        while self.ask("GET", "/v1/status")[1]["lag"] > 2:
            time.sleep(0.2)


class Watch(threading.Thread):
    """Compares the anonymous memory of a process with what it states, until `stop`.

    Attributes
    ----------
    worst : dict
        The sample with the highest ratio of resident to stated memory.
    """

    def __init__(self, address: str, pid: int) -> None:
        super().__init__(daemon=True)
        self._client, self._pid, self._stopped = Client(address), pid, threading.Event()
        self.samples: list[dict[str, float]] = []

    def run(self) -> None:
        while not self._stopped.wait(PERIOD):
            self.sample()

    def sample(self) -> dict[str, float]:
        """Take a sample."""
        resident = _anonymous(self._pid)
        stated = self._client.ask("GET", "/v1/status")[1]["memory_bytes"]
        held = sum(stated.values())
        found = {"resident": resident, "stated": held, "ratio": resident / (held + BASE)}
        self.samples.append(found)
        return found

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.join()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @property
    def worst(self) -> dict[str, float]:
        """The sample with the highest ratio of resident to stated memory."""
        return max(self.samples, key=lambda sample: sample["ratio"])


def ids(client: Client, options: Namespace) -> None:
    """Distinct users, items and event ids."""
    client.post(
        {"type": "interaction", "id": f"event-{n}", "user": f"user-{n}", "item": f"item-{n}", "context": {"page": f"page-{n}"}}
        for n in range(options.ids)
    )


def sources(client: Client, options: Namespace) -> None:
    """Rankings of clients, each with a source of its own, and clicks on them."""

    def events() -> Iterator[Event]:
        for n in range(options.sources):
            shown = {"request_id": f"request-{n}", "user": f"user-{n % 1000}"}
            yield {"type": "impression", **shown, "items": [f"item-{n % 500}", "other"], "source": f"source-{n}" + "x" * 200}
            yield {"type": "interaction", **shown, "item": f"item-{n % 500}"}

    client.post(events())


def items(client: Client, options: Namespace) -> None:
    """Items as large as they may be, and a hundred times larger ones, which are refused."""
    for n in range(options.items):
        for texts, status in ((15, 200), (1500, 422)):
            attributes = {f"text{k}": "x" * 1000 for k in range(texts)}
            got, answer = client.ask("PUT", f"/v1/items/item-{n}", {"attributes": attributes})
            if got not in (status, 202):
                raise RuntimeError(f"{got} instead of {status}: {str(answer)[:300]}")


def bodies(client: Client, options: Namespace) -> None:
    """Bodies that are sent without their last byte."""
    size = 4_000_000
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {size + 1}\r\n\r\n"
    )
    with ExitStack() as opened:
        for _ in range(options.bodies):
            connection = opened.enter_context(socket.create_connection((client.host, client.port)))
            connection.settimeout(0.2)
            try:
                connection.sendall(head.encode() + b" " * size)
            except OSError:
                continue  # it does not take them all
        for _ in range(10):
            time.sleep(PERIOD)
            status, answer = client.ask("POST", "/v1/recommend", {"user": "user"})
            if status != 200:
                raise RuntimeError(f"a good request gets {status}: {answer}")


def load(client: Client, options: Namespace) -> None:
    """Rankings, clicks on them, and interactions of many users."""
    until, n = time.monotonic() + options.seconds, 0
    client.post({"type": "interaction", "user": f"user-{n}", "item": f"item-{n % 5000}"} for n in range(10_000))
    while time.monotonic() < until:
        n += 1
        _, ranking = client.ask("POST", "/v1/recommend", {"user": f"user-{n * 7919 % 50_000}", "n": 10})
        shown = {"request_id": ranking["request_id"], "user": f"user-{n * 7919 % 50_000}"}
        events: list[Event] = [{"type": "interaction", **shown, "item": ranking["items"][0]["item"]}]
        events += [
            {"type": "interaction", "id": f"{n}-{k}", "user": f"user-{n * k}", "item": f"item-{n % 5000}"} for k in range(30)
        ]
        client.ask("POST", "/v1/events", events)
    client.learned()


PARTS: dict[str, Callable[[Client, Namespace], None]] = {
    "ids": ids,
    "sources": sources,
    "items": items,
    "bodies": bodies,
    "load": load,
}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON; the exit code is 1 if a part needs more memory than stated."""
    parser = measure.parser(__doc__)
    parser.add_argument("--ids", type=int, default=2_000_000, help="distinct ids (default: %(default)s)")
    parser.add_argument("--sources", type=int, default=100_000, help="distinct sources (default: %(default)s)")
    parser.add_argument("--items", type=int, default=300, help="large items (default: %(default)s)")
    parser.add_argument("--bodies", type=int, default=400, help="unfinished bodies (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600.0, help="seconds of load (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    options = parser.parse_args(arguments)
    before = measure.machine()
    found: dict[str, dict[str, dict[str, float]]] = {}
    rows: list[list[str]] = []
    for part in options.parts:
        with measure.err.status(part):
            found[part] = _measured(PARTS[part], options)
        start, worst, end = (found[part][name] for name in ("start", "worst", "end"))
        sizes = [f"{size / 2**20:.0f}" for size in (start["resident"], worst["resident"], worst["stated"], BASE)]
        rows.append([part, *sizes, f"{worst['ratio']:.2f}", f"{end['resident'] / 2**20:.0f}"])
    columns = ["part", "at the start", "worst", "stated then", "base", "ratio", "at the end"]
    measure.table("resident memory, MiB", columns, rows)
    measure.finish("resident_memory", options, before, found)
    if over := [part for part, sample in found.items() if sample["worst"]["ratio"] > MARGIN]:
        sys.exit(f"more memory than stated: {', '.join(over)}")


def _measured(part: Callable[[Client, Namespace], None], options: Namespace) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "service.toml"
        config.write_text(CONFIG.format(folder=folder))
        with (
            running(Path(folder), config, "serve") as (address, pid),
            closing(Client(address)) as client,
            closing(Watch(address, pid)) as watch,
        ):
            while client.ask("GET", "/readyz")[0] != 200:
                time.sleep(0.1)
            start = watch.sample()
            watch.start()
            part(client, options)
            watch.stop()
            return {"start": start, "worst": watch.worst, "end": watch.sample()}


def _anonymous(pid: int) -> int:
    """Bytes of resident memory of a process that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
