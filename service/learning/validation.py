"""Validates events: the same rules for HTTP requests and for records that other programs appended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from service.tables.rows import RewardRule
from streams.admission.limits import DEFAULT_LIMITS, TextLimits
from streams.codec import BadEvent
from streams.events import Attribute, Event, Impression, Interaction, ItemUpdate, UserUpdate

__all__ = ["EventValidator", "check_numbers"]

_MAX = float(np.finfo(np.float32).max)


class EventValidator:
    """Rejects events that are well-formed but cannot be learned from.

    Parameters
    ----------
    rewards : mapping of kind to float or RewardRule
        The ``[reward]`` section.
    max_skew : float
        Seconds by which a timestamp may lie in the future.
    limits : TextLimits
        How long texts may be.

    Attributes
    ----------
    max_skew : float
        See the parameter.
    """

    def __init__(self, rewards: Mapping[str, float | RewardRule], max_skew: float, limits: TextLimits = DEFAULT_LIMITS) -> None:
        self._rewards, self.max_skew, self._limits = dict(rewards), max_skew, limits

    def check(self, event: Event, now: float, size: int | None = None) -> None:
        """Raise `BadEvent` if an event cannot be learned from.

        Parameters
        ----------
        event : Event
        now : float
            Time of the append, Unix seconds.
        size : int or None
            Bytes of the event as JSON, if known: short events hold no long texts.

        Raises
        ------
        BadEvent
            Of kind ``too_long``, ``future``, ``kind`` or ``not_an_event``, naming the field and the remedy.
        """
        self._limits.check(event, size)
        ahead = event.timestamp - now
        if ahead > self.max_skew:
            raise BadEvent(
                "timestamp",
                f"{event.timestamp} is {ahead:.0f} s in the future; at most {self.max_skew:.0f} s are allowed: "
                "check the clock, or send seconds, not milliseconds",
                kind="future",
            )
        if isinstance(event, Interaction):
            self._check_reward(event)
            check_numbers("context", event.context)
        elif isinstance(event, Impression):
            for name, numbers in (("scores", event.scores), ("propensities", event.propensities)):
                if numbers and len(numbers) != len(event.items):
                    problem = f"{len(numbers)} for {len(event.items)} items; send one for each item, or leave it out"
                    raise BadEvent(name, problem)
            _check_all("scores", event.scores, -_MAX, _MAX)
            _check_all("propensities", event.propensities, 0.0, 1.0)
            check_numbers("context", event.context)
            if len(event.unshown) % 8:
                raise BadEvent("unshown", f"{len(event.unshown)} bytes; send 8 for each candidate, or leave it out")
        elif isinstance(event, ItemUpdate | UserUpdate):
            check_numbers("attributes", event.attributes)

    def _check_reward(self, event: Interaction) -> None:
        if event.kind not in self._rewards:
            known = ", ".join(sorted(self._rewards))
            raise BadEvent("kind", f"{event.kind!r} is not in [reward]; known are {known}: send one, or add it", kind="kind")
        if not abs(event.value) <= _MAX:
            raise BadEvent("value", _too_large(event.value))
        reward = self._rewards[event.kind]
        if not isinstance(reward, RewardRule) and not abs(reward * event.value) <= _MAX:
            raise BadEvent(
                "value", f"{event.value} times {reward}, the [reward] of {event.kind!r}, is beyond {_MAX:.3g}; send less"
            )


def check_numbers(where: str, values: Mapping[str, Attribute]) -> None:
    """Raise `BadEvent` if a number in attributes or a context is beyond float32, which learners calculate with.

    Raises
    ------
    BadEvent
        Naming the field, as in ``context.price``.
    """
    for name, value in values.items():
        if isinstance(value, int | float) and not abs(value) <= _MAX:
            raise BadEvent(f"{where}.{name}", _too_large(value))


def _check_all(name: str, numbers: Iterable[float], low: float, high: float) -> None:
    for position, number in enumerate(numbers):
        if not low <= number <= high:
            raise BadEvent(
                f"{name}[{position}]", f"{number} is not from {low:.3g} to {high:.3g}; correct it, or leave {name} out"
            )


def _too_large(value: float) -> str:
    return f"{value} is beyond {_MAX:.3g}, the largest number that learners use; send a smaller one, or text"
