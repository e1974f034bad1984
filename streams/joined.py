"""The parts of joining: when an impression closes, its outcomes, batches of them, and the position of a reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from streams.events import Impression, Scalar

__all__ = ["Closing", "JoinedBatch", "Mark", "Outcome", "Position", "Seen", "Snapshot", "TrackedImpression"]

Mark = tuple[int, float, float, float]
"""A record: its offset, and the watermark, the clock and its shift after it."""

Seen = tuple[int, float, float, float, int, float, float, float]
"""The mark of a remembered record, and the mark to rewind to for it. A flat tuple, because Python's cyclic garbage collector
skips those; 100,000 nested ones would stop the process for a tenth of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Rule for closing impressions before their window ends.

    A click is any interaction that joins the impression while it is open, whatever its kind or reward: it shows that the
    visitor has seen the list down to there.

    Attributes
    ----------
    after_click : float or None
        Seconds of event time between a click and the closing. None: only the end of the window closes an impression.
    click : {"first", "last"}
        The click from which the seconds count: the impression's first, or its last so far, so that each click puts the
        closing off.
    below_clicks : {"learn", "skip"}
        What happens to the positions below the lowest clicked one: reward 0 like the others, or no row at all, because the
        visitor may not have seen them. An impression without a click keeps all rows.
    """

    after_click: float | None = None
    click: Literal["first", "last"] = "last"
    below_clicks: Literal["learn", "skip"] = "learn"

    def positions(self, touched: int, count: int) -> int:
        """Return how many positions, from the first, get an outcome when an impression closes.

        Parameters
        ----------
        touched : int
            Bit mask of the clicked positions.
        count : int
            Positions of the impression.
        """
        return touched.bit_length() if touched and self.below_clicks == "skip" else count


class Snapshot(Struct, gc=False, frozen=True, kw_only=True):
    """The inputs that an impression was scored on. They are never computed again from a later state.

    Attributes
    ----------
    features, history : bytes
        As in `Impression`.
    carried : dict of str to bytes
        As in `Impression`.
    trusted : bool
        Whether the impression's signature proves that the service made the ranking.
    logged : bool
        Whether all fields come from the log. Otherwise some were filled in when the impression was read; no log has those.
    """

    features: bytes
    history: bytes
    carried: dict[str, bytes]
    trusted: bool = False
    logged: bool = False


class TrackedImpression(Struct, gc=False, eq=False, kw_only=True):
    """An impression that the joiner remembers, with what the reader stores about it.

    Attributes
    ----------
    impression : Impression
    timestamp : float
        Time of the ranking, Unix seconds: the impression's own time, or that of the append.
    snapshot : Snapshot or None
        The inputs it was scored on; None until the reader has set it.
    measured : Any
        State of the quality metrics for this impression.
    touched : int
        Bit mask of the positions that had an interaction.
    closed : int
        Number of positions, from the first, that have an outcome since the impression closed; 0 while it is open.
    seen : tuple
        Used by the joiner: the mark of its record, and the mark to rewind to.
    """

    impression: Impression
    timestamp: float
    seen: Seen = (0, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0)
    snapshot: Snapshot | None = None
    measured: Any = None
    touched: int = 0
    closed: int = 0

    @property
    def nbytes(self) -> int:
        """Approximate bytes, with its snapshot."""
        return bytes_of(self.impression)


class Outcome(Struct, gc=False, kw_only=True):
    """One outcome: a user interacted with an item, or was shown it and did not.

    Attributes
    ----------
    user, item : str
        Ids.
    kind : str
        Kind of the interaction; empty for an item without one.
    value : float
        Strength of the interaction.
    timestamp : float
        Event time of the outcome, Unix seconds: the interaction's time, or the time at which the impression closed.
    shown : TrackedImpression or None
        The impression that showed the item, if any.
    position : int
        Position of the item in the impression; -1 without an impression.
    correction : bool
        Whether another outcome of this position was emitted before. An interaction that came before its impression is emitted
        twice: without it, and then as the first outcome of the position.
    context : dict
        Request context: the impression's, or the interaction's without an impression.
    """

    user: str
    item: str
    kind: str
    value: float
    timestamp: float
    shown: TrackedImpression | None = None
    position: int = -1
    correction: bool = False
    context: dict[str, Scalar] = {}


class JoinedBatch(NamedTuple):
    """One batch of the joiner.

    Attributes
    ----------
    shown : list of TrackedImpression
        Impressions that arrived, in the order of the log. Learners use them without labels.
    rows : list of Outcome
        Outcomes in the order of the log, except that those of one impression follow its first one directly.
    closed : list of TrackedImpression
        Impressions that have closed: each position has an outcome, in this batch or an earlier one, or is skipped.
    """

    shown: list[TrackedImpression]
    rows: list[Outcome]
    closed: list[TrackedImpression]


@dataclass(frozen=True, slots=True)
class Position:
    """The state of a reader of one partition, small enough for a checkpoint.

    To restore the joiner: push the records from `rewind` up to `next` through a new one, and keep only the last `rows`
    outcomes and the last `shown` impressions that come out.

    Attributes
    ----------
    next : int
        Offset of the next record to read.
    rewind : int
        Offset of the first record to push again.
    watermark : float
        Watermark at `rewind`.
    rows, shown : int
        Outcomes and impressions in the open batch.
    clock, shift : float
        State of the partition's clock at `rewind`; see `streams.joining.log_clock.ClockState`.
    """

    next: int = 0
    rewind: int = 0
    watermark: float = 0.0
    rows: int = 0
    shown: int = 0
    clock: float = 0.0
    shift: float = 0.0


def bytes_of(impression: Impression) -> int:
    """Approximate memory of an impression that the joiner remembers, with its snapshot. It depends on the impression alone."""
    items, context = len(impression.items), impression.context
    texts = sum(map(len, impression.items)) + 150 * len(context)
    if context:
        texts += sum(map(len, context)) + sum(len(value) for value in context.values() if isinstance(value, str))
    packed = len(impression.unshown) + len(impression.history) + len(impression.base)
    if impression.carried:
        packed += 150 * len(impression.carried) + sum(map(len, impression.carried.values()))
    # Where the log has no feature rows, they are computed; then there are about as many columns as here.
    return 1000 + max(len(impression.features), 400 * items) + packed + 150 * items + texts
