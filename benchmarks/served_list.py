"""Hit rate of the list that a visitor gets over HTTP, and whether it holds items that were touched before.

The first ratings of a file in MovieLens' form are posted. Each further one is then preceded by a request for ten items for its
user. It is a test if it is at least `--at-least` and the user has not rated the film before: is the film in the list?
Lists of single retrievers (``by``) can be requested in the same moment.
"""

from __future__ import annotations

import http.client
import json
import math
import tempfile
import time
import tomllib
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import measure, service

__all__ = ["main"]

EXAMPLE = Path(__file__).parents[1] / "examples" / "ml100k.toml"
SERVED = "served"
TOGETHER = 500

Rating = tuple[str, str, float, float]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and a line of JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("file", type=Path, help="ratings: user, item, rating and Unix seconds, separated by tabs")
    parser.add_argument("--loaded", type=int, default=80_000, help="ratings posted before (default: %(default)s)")
    parser.add_argument("--asked", type=int, default=20_000, help="ratings asked for (default: %(default)s)")
    parser.add_argument("--at-least", type=float, default=4.0, help="rating that counts as liked (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=EXAMPLE, help="default: examples/ml100k.toml")
    parser.add_argument("--by", action="append", default=[], help="retriever whose own order is asked for, too; repeat it")
    options = parser.parse_args(arguments)
    before = measure.machine()
    ratings = read(options.file)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "service.toml"
        config.write_text(_config(options.config, folder))
        with service.running(folder, config, "serve") as (address, _):
            service.until(address, "/readyz", lambda body: True)
            metrics = _measured(address, ratings, options)
    rows = [[order, *(found[key] for key in ("tests", "hit_rate", "ndcg", "touched"))] for order, found in metrics.items()]
    measure.table(
        f"Lists of ten for the last {options.asked:,} ratings",
        ["order", "tests", "hit rate@10", "NDCG@10", "touched items"],
        rows,
    )
    measure.finish("served_list", options, before, metrics)


def read(file: Path) -> list[Rating]:
    """User, item, rating and time of each row, by time."""
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(((user, item, float(value), float(when)) for user, item, value, when in rows), key=lambda row: row[3])


def _config(example: Path, folder: Path) -> str:
    """The example, learning each event as it comes, with a log of its own."""
    text = example.read_text(encoding="utf-8")
    assert "stream" not in tomllib.loads(text), "the benchmark gives the stream"
    return f'{text}\n[stream]\nurl = "lmdb://{folder}/log"\nbatch_rows = 1\nmax_skew = 1e9\n'


def _measured(address: str, ratings: list[Rating], options: Namespace) -> dict[str, dict[str, Any]]:
    orders = [SERVED, *options.by]
    gains: dict[str, list[float]] = {order: [] for order in orders}
    touched: dict[str, set[str]] = {}
    repeated = dict.fromkeys(orders, 0)
    where = urlsplit(address)
    with closing(http.client.HTTPConnection(where.hostname or "", where.port)) as client:
        for start in range(0, options.loaded, TOGETHER):
            rows = ratings[start : min(start + TOGETHER, options.loaded)]
            _post(client, "/v1/events", [_event(row, start + n) for n, row in enumerate(rows)])
            for user, item, *_ in rows:
                touched.setdefault(user, set()).add(item)
            if start % (20 * TOGETHER) == 0:
                service.settle(address)
        service.settle(address)
        for n, row in enumerate(ratings[options.loaded : options.loaded + options.asked]):
            user, item, value, _ = row
            mine = touched.setdefault(user, set())
            if value >= options.at_least and item not in mine:
                for order in orders:
                    by = {} if order == SERVED else {"by": order}
                    answer = _post(client, "/v1/recommend", {"user": user, "n": 10, "log": False, **by})
                    shown = [one["item"] for one in answer["items"]]
                    repeated[order] += len(mine.intersection(shown))
                    gains[order].append(1 / math.log2(2 + shown.index(item)) if item in shown else 0.0)
            _post(client, "/v1/events", [_event(row, options.loaded + n)])
            mine.add(item)
    return {
        order: {
            "tests": len(found),
            "hit_rate": sum(gain > 0 for gain in found) / len(found),
            "ndcg": sum(found) / len(found),
            "touched": repeated[order],
        }
        for order, found in gains.items()
    }


def _event(row: Rating, number: int) -> dict[str, Any]:
    user, item, value, when = row
    return {
        "type": "interaction",
        "id": f"r{number}",
        "user": user,
        "item": item,
        "kind": "rating",
        "value": value,
        "timestamp": when,
    }


def _post(client: http.client.HTTPConnection, path: str, document: Any) -> Any:
    while True:
        try:
            client.request("POST", path, json.dumps(document), {"Content-Type": "application/json"})
            response = client.getresponse()
            body = response.read()
        except (BrokenPipeError, ConnectionResetError):  # the service has closed an idle connection
            client.close()
            continue
        if response.status != 503:
            return json.loads(service.fine((response.status, body)))
        time.sleep(0.01)


if __name__ == "__main__":
    main()
