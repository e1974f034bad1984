"""Helpers of the tests of recorded files."""

from __future__ import annotations

from pathlib import Path

from streams.block import Block
from streams.events import Event, Interaction
from streams.recorded import Recording


def flat(recording: Recording) -> list[Event]:
    """All events of a recording, with blocks expanded."""
    found: list[Event] = []
    for event in recording.events():
        found += event.interactions() if isinstance(event, Block) else [event]
    return found


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding)
    return path


def rated(user: str, item: str, value: float, timestamp: float, **more: object) -> Interaction:
    return Interaction(user=user, item=item, kind="rating", value=value, timestamp=timestamp, **more)  # type: ignore[arg-type]
