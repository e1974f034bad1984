"""What may enter the log: the same rule at the HTTP edge and for records that other programs appended."""

from __future__ import annotations

from collections.abc import Collection

from streams.codec import BadEvent
from streams.events import Event, Impression, Interaction

__all__ = ["Admission"]


class Admission:
    """Refuses events that are well-formed but cannot be learned from.

    Parameters
    ----------
    kinds : collection of str
        Kinds of interactions that ``[reward]`` prices.
    max_skew : float
        Seconds that an event may be dated ahead.
    """

    def __init__(self, kinds: Collection[str], max_skew: float) -> None:
        self._kinds, self._max_skew = frozenset(kinds), max_skew

    def check(self, event: Event, now: float) -> None:
        """Let an event pass, or say why not.

        Parameters
        ----------
        event : Event
        now : float
            When it is or was appended, Unix seconds.

        Raises
        ------
        BadEvent
            Of kind ``future``, ``kind`` or ``not_an_event``, naming the field and the remedy.
        """
        ahead = event.timestamp - now
        if ahead > self._max_skew:
            raise BadEvent(
                "timestamp",
                f"{event.timestamp} is {ahead:.0f} s in the future; at most {self._max_skew:.0f} s are allowed: "
                "check the clock, or send seconds, not milliseconds",
                kind="future",
            )
        if isinstance(event, Interaction):
            if event.kind not in self._kinds:
                known = ", ".join(sorted(self._kinds))
                raise BadEvent(
                    "kind", f"{event.kind!r} is not in [reward]; there are {known}: send one, or add it", kind="kind"
                )
        elif isinstance(event, Impression):
            for name, numbers in (("scores", event.scores), ("propensities", event.propensities)):
                if numbers and len(numbers) != len(event.items):
                    problem = f"{len(numbers)} for {len(event.items)} items; send one for each item, or leave it out"
                    raise BadEvent(name, problem)
            if len(event.unshown) % 8:
                raise BadEvent("unshown", f"{len(event.unshown)} bytes; send 8 for each candidate, or leave it out")
