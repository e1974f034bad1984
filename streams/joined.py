"""What comes out of joining: impressions, outcomes and batches of them, and where a reader stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from msgspec import Struct

from streams.events import Impression, Scalar

__all__ = ["Joined", "Position", "Row", "Shown", "Snapshot"]


class Snapshot(Struct, gc=False, frozen=True, kw_only=True):
    """What the rows of an impression were scored on; nothing of it is ever computed again from a later state.

    Attributes
    ----------
    features, history : bytes
        As in `Impression`.
    carried : dict of str to bytes
        As in `Impression`.
    believed : bool
        Whether the service made the ranking, as its signature proves.
    logged : bool
        Whether all of this is what the log says; otherwise some was noted when the impression was read, and no log has it.
    """

    features: bytes
    history: bytes
    carried: dict[str, bytes]
    believed: bool = False
    logged: bool = False


class Shown(Struct, gc=False, eq=False, kw_only=True):
    """An impression while it is known to the joiner, and what its reader notes about it when it is first seen.

    Attributes
    ----------
    impression : Impression
    timestamp : float
        When it was ranked, Unix seconds: the impression's own time, or that of its append.
    snapshot : Snapshot or None
        What it was scored on; None until the reader has noted it.
    measured : Any
        What whoever measures quality keeps of it.
    touched : int
        Positions with an outcome, a bit each.
    seen : tuple
        The joiner's own: when it was read, and from where it can be read again.
    """

    impression: Impression
    timestamp: float
    seen: tuple[int, float, int, float] = (0, 0.0, 0, 0.0)
    snapshot: Snapshot | None = None
    measured: Any = None
    touched: int = 0


class Row(Struct, gc=False, kw_only=True):
    """One outcome: a user did something with an item, or was shown it and left it alone.

    Attributes
    ----------
    user, item : str
        Ids.
    kind : str
        Kind of the interaction; empty for an item left alone.
    value : float
        Strength of the interaction.
    timestamp : float
        When the outcome came, Unix seconds of event time: of the interaction, or the end of the window.
    shown : Shown or None
        Where the item was shown, if it was.
    position : int
        Position of the item in the impression; -1 without one.
    correction : bool
        Whether this position has already left with another outcome.
    context : dict
        Context of an interaction without an impression.
    """

    user: str
    item: str
    kind: str
    value: float
    timestamp: float
    shown: Shown | None = None
    position: int = -1
    correction: bool = False
    context: dict[str, Scalar] = {}


class Joined(NamedTuple):
    """A batch.

    Attributes
    ----------
    shown : list of Shown
        Impressions that have come, in the order of the log: for who learns without labels.
    rows : list of Row
        Outcomes in the order of the log, but those of one impression stand together, where the first of them stood.
    closed : list of Shown
        Impressions whose window has ended: every position has left with an outcome, in this batch or before.
    """

    shown: list[Shown]
    rows: list[Row]
    closed: list[Shown]


@dataclass(frozen=True, slots=True)
class Position:
    """Whole state of a reader of one partition, small enough for a checkpoint.

    Pushing the records from `rewind` up to `next` through a new joiner, and keeping only the last `rows` outcomes and `shown`
    impressions that come out, gives back the joiner as it was.

    Attributes
    ----------
    next : int
        Offset of the next record to read.
    rewind : int
        Offset from which to push again.
    watermark : float
        Event time that had been reached at `rewind`.
    rows, shown : int
        Length of the batch that was still open.
    """

    next: int = 0
    rewind: int = 0
    watermark: float = 0.0
    rows: int = 0
    shown: int = 0
