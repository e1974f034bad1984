"""The configuration that trainer and replicas share: small, quick to checkpoint, and one of everything that has state."""

from __future__ import annotations

from pathlib import Path

from tests.broker import Broker
from tests.worlds import SMALL

__all__ = ["SPAN", "WINDOW", "on_broker", "on_disk"]

WINDOW, LATENESS = 1.0, 599.0
SPAN = WINDOW + LATENESS
"""Seconds that an id is remembered: longer than anything is on its way."""

TEXT = f"""
[stream]
url = "{{events}}"
window = {WINDOW}
lateness = {LATENESS}
batch_rows = 16
[stream.options]
{{options}}
[weights]
url = "{{weights}}"
every = 0.1
[weights.options]
{{weights_options}}
[retrievers.item_knn]
capacity = 100
users = 100
[checkpoint]
folder = "{{folder}}"
every = 0.5
"""


def on_broker(folder: Path, broker: Broker, partitions: int) -> Path:
    """Write a config with both logs at a broker, in topics made for it."""
    urls = {
        "events": f"kafka://{broker.servers}/{broker.topic(partitions)}",
        "weights": f"kafka://{broker.servers}/{broker.topic(1)}",
    }
    return _written(folder, **urls, options="fetch_max_wait_ms = 50", weights_options="fetch_max_wait_ms = 50")


def on_disk(folder: Path, partitions: int) -> Path:
    """Write a config with both logs in a folder."""
    url = f"lmdb://{folder / 'data'}"
    return _written(folder, events=url, weights=url, options=f"partitions = {partitions}", weights_options="")


def _written(folder: Path, **parts: str) -> Path:
    file = folder / "service.toml"
    file.write_text(TEXT.format(folder=folder / "state", **parts) + SMALL)
    return file
