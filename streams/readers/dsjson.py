"""``dsjson``: the joined logs of Vowpal Wabbit's decision service, one JSON object per decision.

The rules below come from Vowpal Wabbit's own files:

- The action taken is ``_label_Action``, counted from 1. ``a`` counts from 0 in some logs and from 1 in others.
- ``p`` holds the probabilities of the actions in ``a``, in the same order.
- A cost is a negated reward.
- A namespace is an object or a list of objects. Names that begin with ``_`` are not features.
- Between the decisions there are notes of the service, and rewards without a decision.
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
from streams.readers.decision import LARGEST, Decision
from streams.readers.lines import lines, not_json_hint
from streams.readers.mapping import BadRows

__all__ = ["dsjson"]

USER = "-"
"""User id of all decisions: these logs have contexts, but no users."""

_TOLERANCE = 1e-3
_MAX_ID = 256


class _Unusable(ValueError):
    """A line that is not a decision. `known`: it is of a kind that such logs are known to contain."""

    def __init__(self, kind: str, reason: str, *, known: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.known = kind, known


def dsjson(path: Path, bad: BadRows) -> Iterator[ItemUpdate | Decision]:
    """Read contextual-bandit (``_label_Action``) and conditional (``_outcomes``, one position per slot) decisions.

    The item id of an action is its ``_tag``, or a feature ``id``, or else a hash of its features. The reward is the negated
    cost. The importance is 1 / (1 - ``pdrop``). Notes of the service, rewards without a decision, and lines with ``_skipLearn``
    are skipped and counted, also with `strict`. Any other line is bad.
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
        text = partial(line.decode, "utf-8", "replace")
        if bad.admits(path, decision.impression, number, text):
            yield from (update for update in actions.changed(features) if bad.admits(path, update, number, text))
            yield decision


class _Actions:
    """Remembers the latest features of up to `CAPACITY` items."""

    CAPACITY = 100_000

    def __init__(self) -> None:
        self._last: dict[str, Mapping[str, Attribute]] = {}

    def changed(self, features: Mapping[str, Mapping[str, Attribute]]) -> Iterator[ItemUpdate]:
        for item, attributes in features.items():
            if self._last.get(item) != attributes:
                if len(self._last) >= self.CAPACITY:
                    del self._last[next(iter(self._last))]
                self._last[item] = attributes
                yield ItemUpdate(item=item, attributes=dict(attributes))


def _document(line: bytes) -> dict[str, Any]:
    if line.startswith(b"[CHECKPOINT"):
        raise _Unusable("checkpoint", "a note of the service", known=True)
    try:
        document = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Unusable("not_json", f"{error}{not_json_hint(line)}") from error
    if not isinstance(document, dict):
        raise _Unusable("not_a_decision", "not a JSON object")
    if "c" not in document and ("RewardValue" in document or "ActionTaken" in document):
        raise _Unusable("dangling", "a reward or an activation without its decision", known=True)
    if document.get("_skipLearn") is True:
        raise _Unusable("skip_learn", "_skipLearn: marked as not to learn from", known=True)
    return document


def _decision(document: dict[str, Any], number: int, timestamp: float) -> tuple[Decision, dict[str, dict[str, Attribute]]]:
    context = document.get("c")
    actions = context.get("_multi") if isinstance(context, dict) else None
    if not isinstance(context, dict) or not isinstance(actions, list) or not actions:
        raise _Unusable("not_a_decision", "no context c with actions _multi")
    if not all(isinstance(action, dict) for action in actions):
        raise _Unusable("not_a_decision", "_multi: an action is not an object")
    dropped = document.get("pdrop", 0.0)
    if not _is_number(dropped) or not 0 <= dropped < 1:
        raise _Unusable("bad_pdrop", f"pdrop: {dropped!r} must be at least 0 and below 1")
    outcomes = document.get("_outcomes")
    positions = [_single(document, len(actions))] if outcomes is None else _slots(context, outcomes, actions)
    names, features = _items(actions)
    shown = [index for index, _, _ in positions]
    if len(set(shown)) != len(shown):
        raise _Unusable("bad_action", "an action is in two slots")
    request = document.get("EventId") or document.get("event_id") or number
    impression = Impression(
        request_id=str(request)[:_MAX_ID],
        user=USER,
        items=tuple(names[index] for index in shown),
        propensities=tuple(probability for _, probability, _ in positions),
        context=_scalars({name: value for name, value in context.items() if not name.startswith("_")}),
        timestamp=timestamp,
    )
    decision = Decision(
        impression=impression,
        others=tuple(name for index, name in enumerate(names) if index not in shown),
        kind="reward",
        rewards=tuple(-cost for _, _, cost in positions),
        importance=1 / (1 - dropped),
    )
    return decision, features


def _single(document: dict[str, Any], count: int) -> tuple[int, float, float]:
    """Return the index of the action taken, its probability, and its cost."""
    action = document.get("_label_Action")
    if not isinstance(action, int) or isinstance(action, bool) or not 1 <= action <= count:
        raise _Unusable("bad_action", f"_label_Action: {action!r} must be from 1 to {count}")
    probability, cost = _probability(document, "_label_probability"), _cost(document)
    order, probabilities = document.get("a"), document.get("p")
    if isinstance(order, list) and isinstance(probabilities, list):
        taken = action - 1 if 0 in order else action
        if len(order) != len(probabilities) or taken not in order:
            raise _Unusable(
                "inconsistent",
                f"a and p: {len(order)} and {len(probabilities)} entries; they must match, with {taken} in a",
            )
        logged = probabilities[order.index(taken)]
        if not _is_number(logged) or abs(logged - probability) > _TOLERANCE * probability:
            raise _Unusable("inconsistent", f"_label_probability: {probability!r}, but p holds {logged!r}")
    return action - 1, probability, cost


def _slots(context: dict[str, Any], outcomes: Any, actions: list[dict[str, Any]]) -> list[tuple[int, float, float]]:
    """Return for each slot what `_single` returns for one."""
    slots = context.get("_slots")
    if any("_slot_id" in action for action in actions):
        raise _Unusable("slates", "slots with their own actions (_slot_id) are not supported")
    if isinstance(slots, list) and any(isinstance(slot, dict) and "_inc" in slot for slot in slots):
        raise _Unusable("slates", "slots that name their actions (_inc) are not supported")
    if not isinstance(outcomes, list) or not outcomes or not all(isinstance(outcome, dict) for outcome in outcomes):
        raise _Unusable("not_a_decision", "_outcomes: not a list of objects")
    positions = []
    for outcome in outcomes:
        action = _first(outcome.get("_a"))
        if not isinstance(action, int) or isinstance(action, bool) or not 0 <= action < len(actions):
            raise _Unusable("bad_action", f"_a: {action!r} must be from 0 to {len(actions) - 1}")
        positions.append((action, _probability(outcome, "_p"), _cost(outcome)))
    return positions


def _first(value: Any) -> Any:
    """Return the first entry of a list: the action taken, or its probability."""
    return value[0] if isinstance(value, list) and value else value


def _probability(document: dict[str, Any], name: str) -> float:
    probability = _first(document.get(name))
    if not _is_number(probability) or not 0 < probability <= 1:
        raise _Unusable("bad_propensity", f"{name}: {probability!r} is not a probability above 0")
    return float(probability)


def _cost(document: dict[str, Any]) -> float:
    cost: Any = document.get("_label_cost")
    if not _is_number(cost) or not abs(cost) <= LARGEST:
        raise _Unusable("bad_cost", f"_label_cost: {cost!r} is not a number, or beyond {LARGEST:.3g}")
    return float(cost)


def _items(actions: list[dict[str, Any]]) -> tuple[list[str], dict[str, dict[str, Attribute]]]:
    """Return the distinct ids of the actions, and the features of each."""
    names: list[str] = []
    features: dict[str, dict[str, Attribute]] = {}
    for index, action in enumerate(actions):
        attributes: dict[str, Attribute] = {}
        _flatten("", {name: value for name, value in action.items() if not name.startswith("_")}, attributes)
        name = _name(action, attributes)
        # An action that is offered twice becomes two candidates.
        name = name if name not in features else f"{name[: _MAX_ID - 8]}#{index}"
        names.append(name)
        features[name] = attributes
    return names, features


def _name(action: dict[str, Any], attributes: Mapping[str, Attribute]) -> str:
    ids = (value for name, value in attributes.items() if name == "id" or name.endswith(".id"))
    for value in (action.get("_tag"), *ids):
        if isinstance(value, str | float) and not isinstance(value, bool) and value != "":
            text = value if isinstance(value, str) else f"{value:g}"
            if len(text) <= _MAX_ID - 8:
                return text
    return xxhash.xxh3_64_hexdigest(msgspec.json.encode(action, order="deterministic"))


def _flatten(name: str, value: Any, into: dict[str, Attribute]) -> None:
    """Name features ``namespace.feature``. Lists of text stay lists; each number of a list gets its index as name."""
    match value:
        case dict():
            for key, inner in value.items():
                if not key.startswith("_"):
                    _flatten(f"{name}.{key}" if name else key, inner, into)
        case list():
            words = [entry for entry in value if isinstance(entry, str)]
            if words:
                into[name] = words
            for index, inner in enumerate(value):
                if isinstance(inner, dict):
                    _flatten(name, inner, into)
                elif not isinstance(inner, str):
                    _flatten(f"{name}.{index}", inner, into)
        case bool() | str():
            into[name] = value
        case int() | float():
            into[name] = float(value)


def _scalars(namespaces: dict[str, Any]) -> dict[str, Scalar]:
    """Return the shared features, with each list of words as one text."""
    found: dict[str, Attribute] = {}
    _flatten("", namespaces, found)
    return {name: " ".join(value) if isinstance(value, list) else value for name, value in found.items()}


def _timestamp(document: dict[str, Any], before: float) -> float:
    """Return the time in Unix seconds; that of the line before where it is missing."""
    text = document.get("Timestamp")
    if text is None:
        return before
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise _Unusable("bad_timestamp", f"Timestamp: {text!r} is not a time such as 2026-01-31T12:00:00Z") from error
    return max((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), 0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
