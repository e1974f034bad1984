"""What a log of events has to make of a state, counted by nothing of the service but its documented rules."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from streams.log import Log, Record
from tests.chaos.producer import BAD, MARK

__all__ = ["Tally", "records_of"]


def records_of(log: Log) -> Iterable[Record]:
    """All records, partition by partition."""
    ends = log.end()
    for partition, at in log.begin().items():
        while at < ends[partition]:
            records = log.read({partition: at}, 1000)
            yield from records
            at = records[-1].offset + 1 if records else at


class Tally:
    """Counts records.

    Parameters
    ----------
    span : float
        Seconds of event time for which an id is remembered.

    Attributes
    ----------
    records : int
    kinds : Counter
        ``impressions``, ``interactions``, ``duplicates``, as `streams.join.Joiner.counts`; also ``ticks`` and ``updates``.
    dead : Counter
        By reason.
    bad : set of (partition, offset)
        Where those are.
    ids : Counter of str
        How often each event with an id is there, of the ids that this test made.
    clicks : Counter of (user, item, timestamp)
        What was done, each event once.
    early : Counter of (user, item, timestamp)
        Those that came before their impression: requests overtake each other where one is sent again. Such a click is learned
        once more, joined, if its impression comes within the window.
    problems : list of str
        Repetitions that nobody can be asked to recognise.
    """

    def __init__(self, span: float) -> None:
        self._span = span
        self._reached: dict[int, float] = {}
        self._seen: dict[tuple[int, str], float] = {}
        self.records = 0
        self.kinds: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()
        self.bad: set[tuple[int, int]] = set()
        self.ids: Counter[str] = Counter()
        self.clicks: Counter[tuple[str, str, float]] = Counter()
        self.early: Counter[tuple[str, str, float]] = Counter()
        self._waiting: dict[tuple[int, str], list[tuple[str, str, float]]] = {}
        self.problems: list[str] = []

    def add(self, record: Record) -> None:
        """Take the next record of a partition."""
        self.records += 1
        if MARK in record.value:
            self.dead[BAD[record.value]] += 1
            self.bad.add((record.partition, record.offset))
            return
        event: dict[str, Any] = json.loads(record.value)
        kind, now = event["type"], event.get("timestamp") or record.timestamp
        if kind in ("impression", "interaction", "tick"):
            self._reached[record.partition] = max(self._reached.get(record.partition, 0.0), now)
        if kind == "tick":
            self.kinds["ticks"] += 1
        elif kind not in ("impression", "interaction"):
            self.kinds["updates"] += 1
        else:
            name = event["id"] if kind == "interaction" else event["request_id"]
            if "source" not in event:  # a replica logs whose ranking it was
                self.ids[f"{kind} {name}"] += 1
            if self._is_new(record.partition, f"{kind} {name}"):
                self.kinds[f"{kind}s"] += 1
                if kind == "interaction":
                    self._add_click(record.partition, event, (event["user"], event["item"], now))
                else:
                    self.early.update(self._waiting.pop((record.partition, name), ()))
            else:
                self.kinds["duplicates"] += 1

    def _add_click(self, partition: int, event: dict[str, Any], click: tuple[str, str, float]) -> None:
        self.clicks[click] += 1
        request = event.get("request_id")
        if request is not None and (partition, f"impression {request}") not in self._seen:
            self._waiting.setdefault((partition, request), []).append(click)

    def _is_new(self, partition: int, name: str) -> bool:
        now = self._reached[partition]
        last = self._seen.get((partition, name))
        self._seen[partition, name] = now
        if last is not None and now - last >= self._span:
            self.problems.append(f"{name} came again after {now - last:.0f} s: the run is no test of duplicates")
        return last is None
