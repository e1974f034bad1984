"""The table ``[stream]``: where events come from, and how they are joined and split into batches."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator

from service.tables.section import Count, Keywords, Positive, Section

__all__ = ["Columns", "Stream"]


class Columns(Section):
    """Column names of a recorded file; see `streams.recorded.ColumnMap`.

    Attributes
    ----------
    user, item : str
    timestamp : str or None
        None, written ``false`` or ``""``: the file has no times, and its rows are in time order.
    timestamp_unit : {"s", "ms", "us", "ns"}
        Unit of times that are numbers.
    timestamp_format : str or None
        Format of times that are neither numbers, dates nor ISO 8601, as for ``strptime``: ``"%y%m%d%H"`` for 14102100.
    value : str or None
        Column of the interactions' values, such as ratings; None: each value is 1.
    kind : str or None
        Column of the interactions' kinds; None: all are of `stream.kind`.
    context, user_attributes, item_attributes : tuple of str
        Columns that become attributes.
    """

    user: str = "user"
    item: str = "item"
    timestamp: str | Literal[False] | None = "timestamp"
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "s"
    timestamp_format: str | None = None
    value: str | None = None
    kind: str | None = None
    context: tuple[str, ...] = Field(default=(), strict=False)
    user_attributes: tuple[str, ...] = Field(default=(), strict=False)
    item_attributes: tuple[str, ...] = Field(default=(), strict=False)

    @field_validator("timestamp", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        """TOML has no null: `false` and empty text mean that the table has no times."""
        if value is None or value is False or value == "":
            return None
        if not isinstance(value, str):
            raise ValueError("give the name of a column, or false if there is none")
        return value


class Stream(Section):
    """Where events come from, how they are joined, and how they are split into batches.

    Attributes
    ----------
    url : str
        ``lmdb:///folder`` (embedded log), ``kafka://host:port/topic``, ``memory://`` (lost when the process ends) or
        ``file:recording``.
    window : float
        Seconds that an impression waits for its interactions. Then it closes: its positions without one get reward 0.
    close_after_click : float or None
        Seconds after a click at which an impression closes, if its window has not ended before; None: the window alone closes
        it. A click is any interaction with the impression. One that comes later still corrects what was learned.
    closing_click : {"first", "last"}
        The click from which `close_after_click` counts: the first of the impression, or the last so far.
    below_clicks : {"learn", "skip"}
        What happens to the positions below all clicks when an impression closes: reward 0, too, or they are not learned,
        because the user may not have seen them. An impression without a click keeps all its rows.
    lateness : float
        Seconds after the window in which an interaction still corrects what was learned.
    batch_rows : int
        Rows in a micro-batch.
    max_impressions : int
        Most impressions kept for joining; beyond it the window of the oldest one ends early. An impression takes about
        1 KB, 12 bytes per feature and item, and 8 bytes per candidate that was not shown.
    impression_bytes : int
        Most bytes of the impressions kept for joining, with the same effect.
    max_interaction_ids : int
        Most interaction ids kept for dropping duplicates.
    group : str or None
        Consumer group: several `freshet train` processes share the partitions of a Kafka topic, and each learns its own
        state from its partitions. None: this process learns from all partitions.
    max_skew : float
        Seconds by which an event's timestamp may lie after the time at which it was appended.
    retain : int or None
        Records to keep in the embedded log before the oldest checkpoint, or before the newest one when the log is nearly full;
        None: all, until the log is full and refuses events.
    ack : {"broker", "queued"}
        When ``POST /v1/events`` is answered: once the events are in the log, or once they are in the buffer in memory.
    buffer : int
        Bytes of events that may wait to be appended; beyond it requests are refused.
    broker_wait : float
        Seconds that a process waits at its start for a broker that does not answer. It answers ``/readyz`` with 503 meanwhile.
        Then it ends with exit code 5. 0: it ends at once.
    options : dict
        Passed to the log unchanged; see `streams.lmdb_log.LmdbLog` and `streams.kafka.log.KafkaLog`.
    format, columns, kind, sorted, strict, users, items, header, encoding
        How to read a recorded file; see `streams.recorded.open_recording`.
    """

    url: str = "memory://"
    window: Positive = 600.0
    close_after_click: Positive | None = None
    closing_click: Literal["first", "last"] = "last"
    below_clicks: Literal["learn", "skip"] = "learn"
    lateness: Annotated[float, Field(ge=0)] = 600.0
    batch_rows: Count = 64
    max_impressions: Count = 100_000
    impression_bytes: Count = 1 << 30
    max_interaction_ids: Count = 200_000
    group: str | None = None
    max_skew: Positive = 300.0
    retain: Annotated[int, Field(ge=0)] | None = None
    ack: Literal["broker", "queued"] = "broker"
    buffer: Count = 64 << 20
    broker_wait: Annotated[float, Field(ge=0)] = 300.0
    options: Keywords = Field(default={})
    format: str | None = None
    columns: Columns | None = None
    kind: str = "rating"
    sorted: bool = False
    strict: bool = False
    users: str | None = None
    items: str | None = None
    header: bool | tuple[str, ...] = True
    encoding: str | None = None

    @field_validator("header", mode="plain")
    @classmethod
    def _header(cls, value: object) -> object:
        if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
            return tuple(value)
        if not isinstance(value, bool):
            raise ValueError("give true, false, or a list of the names of all columns")
        return value

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            return value if value is None else codecs.lookup(value).name
        except LookupError:
            raise ValueError("no such encoding; give one such as latin-1, cp1252, utf-16 or shift_jis") from None
