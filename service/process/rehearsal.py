"""Run everything that a service does once, in a few steps, so that no client waits for first-time work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import structs

from memory.stateful import digest
from service.config import Config
from service.monitoring.monitor import Monitor
from service.process.updater import Updater
from service.ranking.pipeline import Pipeline
from service.ranking.requests import RankRequest, RecommendRequest
from service.tables.rows import FieldType, RewardRule
from streams.codec import encode, partition_key
from streams.events import Attribute, Event, Forget, Interaction, ItemUpdate, Tick, UserUpdate
from streams.log import Log

__all__ = ["Rehearsal"]

USERS, ITEMS = 90, 80
"""Users and items of the rehearsal: more than its catalogues hold."""

SHOWN = 6
"""Items in a ranking."""

DAY = 86_400.0

_Request = RankRequest | RecommendRequest


class Rehearsal:
    """Feeds events, rankings and clicks to a runtime of any config.

    Single rows are rehearsed separately: numba compiles per memory layout, and the columns of a one-row table have a layout
    of their own.

    Parameters
    ----------
    config : Config
    pipeline : Pipeline
    trainer : Updater
        Trainer of the pipeline that reads `log`; not restored yet.
    log : Log
        An empty log.
    monitor : Monitor
        Monitor of the trainer.
    """

    def __init__(self, config: Config, pipeline: Pipeline, trainer: Updater, log: Log, monitor: Monitor) -> None:
        self._config, self._pipeline, self._trainer, self._log, self._monitor = config, pipeline, trainer, log, monitor
        self._interactions_made = 0
        # Event time of a past day, which can advance at will: it does not go beyond the append times of the log.
        self._now = time.time() - DAY

    def steps(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Names and functions, to be called in this order. Call the next one even if one fails."""
        yield "restore", self._trainer.restore
        yield "rank before anything is known", self._rank
        yield "catalogues", lambda: self._fold([*self._users(range(USERS)), *self._items(range(ITEMS))])
        yield "rank before anything is learned", self._rank
        yield "learn one row", lambda: self._fold(self._interactions(1))
        yield "rank after one row", self._rank
        yield "learn", lambda: self._fold(self._interactions(400))
        for turn in range(3):
            yield "rank", self._rank
            yield "learn clicks and impressions without clicks", partial(self._react, turn)
        yield "ask whether an event is learned", self._ask_for_own_event
        yield "save and load", self._load
        yield "learn after loading", lambda: self._fold(self._interactions(100))
        yield "ship changes", self._ship
        yield "forget and delete", self._forget
        yield "rank after forgetting", self._rank
        yield "learn after forgetting", lambda: self._fold(self._interactions(100))
        yield "digest", lambda: digest(self._pipeline.state_dict())
        yield "monitor", self._monitor.metrics

    def _fold(self, events: Sequence[Event], *, later: float = 0.0) -> None:
        """Append events and a tick that closes their batch; let the trainer learn them."""
        self._now += 1e-3 + later
        dated = [structs.replace(event, timestamp=self._now) for event in (*events, Tick())]
        self._log.append([(partition_key(event), encode(event)) for event in dated])
        while self._trainer.turn():
            pass

    def _users(self, numbers: range) -> list[Event]:
        described = _Attributes(self._config.features.user)
        return [UserUpdate(user=f"u{n}", attributes=described.of(n)) for n in numbers]

    def _items(self, numbers: range) -> list[Event]:
        described = _Attributes(self._config.features.item)
        return [ItemUpdate(item=f"i{n}", attributes=described.of(n)) for n in numbers]

    def _interactions(self, count: int) -> list[Event]:
        """Interactions of known and unknown users and items; the kinds take turns."""
        kinds = list(self._config.reward.items())
        made: list[Event] = []
        for n in range(self._interactions_made, self._interactions_made + count):
            kind, rule = kinds[n % len(kinds)]
            value = 1.0 if not isinstance(rule, RewardRule) else rule.at_least - (n % 3 == 0)
            user, item = f"u{n % 7 * n % (USERS + 5)}", f"i{n * n % (ITEMS + 5)}"
            made.append(Interaction(user=user, item=item, id=f"r{n}", kind=kind, value=value, context=self._context(n)))
        self._interactions_made += count
        return made

    def _context(self, n: int) -> dict[str, Any]:
        return {} if n % 5 == 4 else _Attributes(self._config.features.context).of(n)

    def _requests(self) -> list[list[_Request]]:
        """Batches of requests as the engine may form them."""
        one, some, all_items = ["i1"], [f"i{n}" for n in range(9)], [f"i{n}" for n in range(ITEMS + 5)]
        asked: list[list[_Request]] = [
            [RankRequest(user="u1", items=one, explain=True, context=self._context(1))],
            [RankRequest(user="stranger", items=some, explain=True)],
            [RankRequest(user=f"u{n}", items=all_items if n % 2 else some, context=self._context(n)) for n in range(6)],
            [RecommendRequest(user="u1", n=1, candidates=1, explain=True, context=self._context(1))],
            [RecommendRequest(user="u2", n=SHOWN, explain=True, exclude=some, context=self._context(2))],
            [RecommendRequest(user=f"u{n}", n=SHOWN, repeat=bool(n % 2), context=self._context(n)) for n in range(6)],
            [RecommendRequest(user="u3", n=SHOWN), RankRequest(user="u4", items=some, n=2)],
        ]
        for name in self._pipeline.retrievers.named:
            asked.append([RecommendRequest(user="u1", n=SHOWN, by=name, explain=True)])
            asked.append([RankRequest(user="u1", items=some, by=name)])
        return asked

    def _rank(self) -> None:
        for requests in self._requests():
            self._pipeline.rank(requests)

    def _react(self, clicks: int) -> None:
        """Show rankings: some get clicks in time, one gets a late click, the others get none."""
        made = [impression for requests in self._requests() for _, impression in self._pipeline.rank(requests)]
        impressions = [impression for impression in made if impression is not None]
        self._fold(impressions[:1])
        self._fold(impressions[1:])
        kind, rule = next(iter(self._config.reward.items()))
        value = rule.at_least if isinstance(rule, RewardRule) else 1.0
        interactions = [
            Interaction(user=shown.user, item=shown.items[position], request_id=shown.request_id, kind=kind, value=value)
            for shown in impressions[::2]
            for position in range(min(clicks, len(shown.items)))
        ]
        self._fold(interactions[:-1])
        self._fold([], later=self._config.stream.window + 1.0)
        self._fold(interactions[-1:], later=self._config.stream.window + 1.0)
        self._monitor.snapshot()

    def _ask_for_own_event(self) -> None:
        """What a request does that comes right after an event of its own user."""
        kinds = self._config.reward
        self._pipeline.pending.add([Interaction(user="u1", item="i1", kind=kind, timestamp=0.0) for kind in kinds])
        self._pipeline.is_behind("u1")
        self._pipeline.pending.forget("u1")

    def _load(self) -> None:
        self._pipeline.load_state_dict(self._pipeline.state_dict())

    def _ship(self) -> None:
        self._pipeline.apply_changes(self._pipeline.take_changes())

    def _forget(self) -> None:
        self._fold([Forget(user="u1"), UserUpdate(user="u2", deleted=True), ItemUpdate(item="i1", deleted=True)])
        self._fold([*self._users(range(3)), *self._items(range(3))])


class _Attributes:
    """Example values for the fields of one side: user, item or context.

    Parameters
    ----------
    fields : mapping of name to kind or FieldType
        As in the config.
    """

    def __init__(self, fields: Mapping[str, str | FieldType]) -> None:
        self._kinds = {name: kind if isinstance(kind, str) else kind.type for name, kind in fields.items() if name != "id"}

    def of(self, n: int) -> dict[str, Attribute]:
        """Attributes of the n-th user, item or request; every sixth lacks the last field."""
        made = {name: _value(kind, n) for name, kind in self._kinds.items()}
        if n % 6 == 5 and made:
            made.popitem()
        return made


def _value(kind: str, n: int) -> Attribute:
    if kind == "tags":
        return [f"t{n % 3}", f"t{n % 5}"]
    return f"c{n % 4}" if kind == "category" else float(n % 9)
