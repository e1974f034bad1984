"""``dsjson``: the joined logs of Vowpal Wabbit's decision service, one JSON object a decision.

What is told apart here was found in Vowpal Wabbit's own files: the action taken is ``_label_Action`` (from 1), while ``a``
counts from 0 in some logs and from 1 in others; ``p`` goes with ``a``, place by place; a cost is a reward with the sign
turned; a namespace is an object or a list of objects; names that begin with ``_`` are no features; and between the decisions
there are notes of the service and rewards that found no decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from streams.events import Attribute, Impression, ItemUpdate, Scalar
from streams.readers.lines import lines
from streams.readers.mapping import BadRows
from streams.readers.shown import Decision

__all__ = ["dsjson"]

USER = "-"
"""These logs have contexts and no users."""

_CLOSE = 1e-3
_MAX_ID = 256


class _Unusable(ValueError):
    """A line that is no decision; `known` when it is of a kind that such logs have."""

    def __init__(self, kind: str, reason: str, *, known: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.known = kind, known


def dsjson(path: Path, bad: BadRows) -> Iterator[ItemUpdate | Decision]:
    """Read contextual-bandit (``_label_Action``) and conditional (``_outcomes``, one place a slot) decisions.

    An action is the item called by its ``_tag``, or by a feature ``id``, or else by a hash of its features. Reward: the negated
    cost. Importance: 1 / (1 - ``pdrop``). Notes of the service, rewards without a decision, and lines that say ``_skipLearn``
    are counted and left out, in a strict reading too; a line of no known kind is bad.
    """
    actions = _Actions()
    before = 0.0
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            document = _document(line)
            before = _timestamp(document, before)
            decision, features = _decision(document, number, before)
        except _Unusable as error:
            if error.known:
                bad.dead.put(error.kind, f"row {number}: {error}", line, source=str(path), offset=number)
            else:
                bad.put(path, number, error.kind, str(error), partial(line.decode, "utf-8", "replace"))
            continue
        yield from actions.changed(features)
        yield decision


class _Actions:
    """Remembers what the items looked like last, as many as a catalogue would."""

    MOST = 100_000

    def __init__(self) -> None:
        self._last: dict[str, Mapping[str, Attribute]] = {}

    def changed(self, features: Mapping[str, Mapping[str, Attribute]]) -> Iterator[ItemUpdate]:
        for item, attributes in features.items():
            if self._last.get(item) != attributes:
                if len(self._last) >= self.MOST:
                    del self._last[next(iter(self._last))]
                self._last[item] = attributes
                yield ItemUpdate(item=item, attributes=dict(attributes))


def _document(line: bytes) -> dict[str, Any]:
    if line.startswith(b"[CHECKPOINT"):
        raise _Unusable("checkpoint", "a note of the service", known=True)
    try:
        document = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _Unusable("not_json", str(error)) from error
    if not isinstance(document, dict):
        raise _Unusable("not_a_decision", "not a JSON object")
    if "c" not in document and ("RewardValue" in document or "ActionTaken" in document):
        raise _Unusable("dangling", "a reward or an activation without its decision", known=True)
    if document.get("_skipLearn") is True:
        raise _Unusable("skip_learn", "_skipLearn: not to be learned from", known=True)
    return document


def _decision(document: dict[str, Any], number: int, timestamp: float) -> tuple[Decision, dict[str, dict[str, Attribute]]]:
    context = document.get("c")
    actions = context.get("_multi") if isinstance(context, dict) else None
    if not isinstance(context, dict) or not isinstance(actions, list) or not actions:
        raise _Unusable("not_a_decision", "no context c with actions _multi")
    if not all(isinstance(action, dict) for action in actions):
        raise _Unusable("not_a_decision", "_multi: an action that is not an object")
    dropped = document.get("pdrop", 0.0)
    if not _is_number(dropped) or not 0 <= dropped < 1:
        raise _Unusable("bad_pdrop", f"pdrop: {dropped!r}, and it has to be from 0 to below 1")
    outcomes = document.get("_outcomes")
    places = [_single(document, len(actions))] if outcomes is None else _slots(context, outcomes, actions)
    names, features = _items(actions)
    shown = [place for place, _, _ in places]
    if len(set(shown)) != len(shown):
        raise _Unusable("bad_action", "an action in two slots")
    request = document.get("EventId") or document.get("event_id") or number
    impression = Impression(
        request_id=str(request)[:_MAX_ID],
        user=USER,
        items=tuple(names[index] for index in shown),
        propensities=tuple(chance for _, chance, _ in places),
        context=_scalars({name: value for name, value in context.items() if not name.startswith("_")}),
        timestamp=timestamp,
    )
    decision = Decision(
        impression=impression,
        others=tuple(name for index, name in enumerate(names) if index not in shown),
        kind="reward",
        rewards=tuple(-cost for _, _, cost in places),
        importance=1 / (1 - dropped),
    )
    return decision, features


def _single(document: dict[str, Any], count: int) -> tuple[int, float, float]:
    """Index of the action taken, its probability, and its cost."""
    action = document.get("_label_Action")
    if not isinstance(action, int) or isinstance(action, bool) or not 1 <= action <= count:
        raise _Unusable("bad_action", f"_label_Action: {action!r}, and it has to be from 1 to {count}")
    chance, cost = _chance(document, "_label_probability"), _cost(document)
    order, chances = document.get("a"), document.get("p")
    if isinstance(order, list) and isinstance(chances, list):
        taken = action - 1 if 0 in order else action
        if len(order) != len(chances) or taken not in order:
            raise _Unusable("inconsistent", f"a and p: {len(order)} and {len(chances)} long, and action {taken} is to be in a")
        told = chances[order.index(taken)]
        if not _is_number(told) or abs(told - chance) > _CLOSE * chance:
            raise _Unusable("inconsistent", f"_label_probability: {chance!r}, and p says {told!r}")
    return action - 1, chance, cost


def _slots(context: dict[str, Any], outcomes: Any, actions: list[dict[str, Any]]) -> list[tuple[int, float, float]]:
    """For each slot what `_single` gives for the one."""
    slots = context.get("_slots")
    if any("_slot_id" in action for action in actions):
        raise _Unusable("slates", "slots with actions of their own cannot be read")
    if isinstance(slots, list) and any(isinstance(slot, dict) and "_inc" in slot for slot in slots):
        raise _Unusable("slates", "slots that name their actions (_inc) cannot be read")
    if not isinstance(outcomes, list) or not outcomes or not all(isinstance(outcome, dict) for outcome in outcomes):
        raise _Unusable("not_a_decision", "_outcomes: no list of objects")
    places = []
    for outcome in outcomes:
        action = _first(outcome.get("_a"))
        if not isinstance(action, int) or isinstance(action, bool) or not 0 <= action < len(actions):
            raise _Unusable("bad_action", f"_a: {action!r}, and it has to be from 0 to {len(actions) - 1}")
        places.append((action, _chance(outcome, "_p"), _cost(outcome)))
    return places


def _first(value: Any) -> Any:
    """What was taken, of a list that begins with it."""
    return value[0] if isinstance(value, list) and value else value


def _chance(document: dict[str, Any], name: str) -> float:
    chance = _first(document.get(name))
    if not _is_number(chance) or not 0 < chance <= 1:
        raise _Unusable("bad_propensity", f"{name}: {chance!r} is no probability above 0")
    return float(chance)


def _cost(document: dict[str, Any]) -> float:
    cost: Any = document.get("_label_cost")
    if not _is_number(cost):
        raise _Unusable("bad_cost", f"_label_cost: {cost!r} is no number")
    return float(cost)


def _items(actions: list[dict[str, Any]]) -> tuple[list[str], dict[str, dict[str, Attribute]]]:
    """Ids of the actions, all different, and what each looks like."""
    names: list[str] = []
    features: dict[str, dict[str, Attribute]] = {}
    for index, action in enumerate(actions):
        attributes: dict[str, Attribute] = {}
        _flatten("", {name: value for name, value in action.items() if not name.startswith("_")}, attributes)
        name = _name(action, attributes)
        # The same action offered twice is two candidates.
        name = name if name not in features else f"{name[: _MAX_ID - 8]}#{index}"
        names.append(name)
        features[name] = attributes
    return names, features


def _name(action: dict[str, Any], attributes: Mapping[str, Attribute]) -> str:
    ids = (value for name, value in attributes.items() if name == "id" or name.endswith(".id"))
    for told in (action.get("_tag"), *ids):
        if isinstance(told, str | float) and not isinstance(told, bool) and told != "":
            text = told if isinstance(told, str) else f"{told:g}"
            if len(text) <= _MAX_ID - 8:
                return text
    return xxhash.xxh3_64_hexdigest(msgspec.json.encode(action, order="deterministic"))


def _flatten(name: str, value: Any, into: dict[str, Attribute]) -> None:
    """Features as ``namespace.feature``; lists of text stay lists, numbers of a list are named by their place."""
    match value:
        case dict():
            for key, inner in value.items():
                if not key.startswith("_"):
                    _flatten(f"{name}.{key}" if name else key, inner, into)
        case list():
            words = [one for one in value if isinstance(one, str)]
            if words:
                into[name] = words
            for place, inner in enumerate(value):
                if isinstance(inner, dict):
                    _flatten(name, inner, into)
                elif not isinstance(inner, str):
                    _flatten(f"{name}.{place}", inner, into)
        case bool() | str():
            into[name] = value
        case int() | float():
            into[name] = float(value)


def _scalars(namespaces: dict[str, Any]) -> dict[str, Scalar]:
    """The shared features; a list of words becomes one text."""
    found: dict[str, Attribute] = {}
    _flatten("", namespaces, found)
    return {name: " ".join(value) if isinstance(value, list) else value for name, value in found.items()}


def _timestamp(document: dict[str, Any], before: float) -> float:
    """Unix seconds; the line before's where it says none."""
    told = document.get("Timestamp")
    if told is None:
        return before
    try:
        moment = datetime.fromisoformat(told)
    except (TypeError, ValueError) as error:
        raise _Unusable("bad_timestamp", f"Timestamp: {told!r} is no time such as 2026-01-31T12:00:00Z") from error
    return max((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), 0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
