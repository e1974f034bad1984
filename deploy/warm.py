"""Serve once from a config, in a temporary folder: then what numba compiles is in its cache, and the image has served.

Without it the first requests of every new container wait for the compiler, and are answered with 503 after ten seconds.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

URL, DEADLINE = "http://127.0.0.1:8000", 300.0

EVENTS = [
    {"type": "user", "user": "ann", "attributes": {"country": "NL"}},
    *({"type": "item", "item": f"i{n}", "attributes": {"brand": "b", "tags": ["t"], "price": 1.0}} for n in range(5)),
    *({"type": "interaction", "id": f"c{n}", "user": "bob", "item": f"i{n}", "kind": "click"} for n in range(5)),
]


def embedded(config: str, folder: str) -> str:
    """The same learners with a log of their own, and no time to wait for clicks."""
    config = re.sub(r"(?ms)^\[(weights|dead_letters|checkpoint)\].*?(?=^\[)", "", config)
    config = re.sub(r"(?m)^(window|lateness) = .*\n", "", config)
    return re.sub(r'(?m)^url = "kafka://.*', f'url = "lmdb://{folder}"\nwindow = 0.5\nlateness = 0.5', config)


def ask(path: str, body: object = None) -> dict[str, object]:
    """Ask until there is an answer; the first ones may be that it is busy compiling."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json"})
    until = time.monotonic() + DEADLINE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return dict(json.load(answer))
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def main(config: Path) -> None:
    """Start, send some of everything, wait until it is learned, end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warm.toml"
        path.write_text(embedded(config.read_text(), f"{folder}/data"))
        process = subprocess.Popen(["freshet", "serve", "--config", str(path)])
        try:
            ask("/readyz")
            ask("/v1/events", EVENTS)
            shown = ask("/v1/recommend", {"user": "ann", "n": 3, "context": {"device": "phone"}})
            click = {
                "type": "interaction",
                "id": "c9",
                "request_id": shown["request_id"],
                "user": "ann",
                "item": "i1",
                "kind": "click",
            }
            ask("/v1/events", [click])
            ask("/v1/rank", {"user": "ann", "items": ["i1", "i2"]})
            before, until = int(str(ask("/v1/status")["version"])), time.monotonic() + DEADLINE
            while int(str(ask("/v1/status")["version"])) <= before and time.monotonic() < until:
                time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
    if status not in (0, -signal.SIGTERM):
        raise SystemExit(f"freshet serve ended with status {status}")
    print("served, learned and ended")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
