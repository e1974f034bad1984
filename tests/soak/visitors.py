"""Good visitors: rankings and clicks at a steady rate, sent when due whether or not the service keeps up (open loop)."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

__all__ = ["Sample", "Visitors"]

USERS, ITEMS = 100, 200
PATIENCE = 300.0
"""Seconds until an event must have been accepted."""

AGAIN = 0.5
"""Seconds until an event that was not accepted is sent again."""


@dataclass(frozen=True)
class Sample:
    """One answered request: when it was due, Unix seconds, and how many seconds after that it was answered."""

    due: float
    seconds: float


@dataclass
class Visitors:
    """Visitors who each ask for a ranking, and soon after click on what they like.

    Parameters
    ----------
    url : str
    rate : float
        Visitors a second.
    seed : int
    clock : callable
        Gives the seconds by which the clock of the visitors is ahead.

    Attributes
    ----------
    samples : list of Sample
        Of all rankings and events that were accepted at once.
    counts : Counter of str
    accepted : set of str
        Ids of the clicks that were accepted.
    shown : set of str
        Request ids of the rankings.
    unreachable : list of (float, float)
        From when to when a request failed without an answer: right only while the service is down.
    problems : list of str
    """

    url: str
    rate: float
    seed: int
    clock: Callable[[], float]
    samples: list[Sample] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)
    unreachable: list[tuple[float, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def run(self, done: asyncio.Event) -> None:
        """Visit until `done`, then until all clicks have been accepted."""
        rng = random.Random(self.seed)
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        async with httpx.AsyncClient(base_url=self.url, timeout=30, limits=limits) as client, asyncio.TaskGroup() as group:
            await self._catalogue(client)
            number, due = 0, time.monotonic()
            while not done.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), max(due - time.monotonic(), 0.0005))
                late = max(time.monotonic() - due, 0.0)
                group.create_task(self._visit(client, number, time.time() - late, random.Random(rng.random())))
                number, due = number + 1, due + 1 / self.rate

    async def _catalogue(self, client: httpx.AsyncClient) -> None:
        items = [
            {"type": "item", "item": f"i{n}", "attributes": {"brand": f"b{n % 7}", "tags": [f"t{n % 5}"], "price": float(n)}}
            for n in range(ITEMS)
        ]
        users = [{"type": "user", "user": f"u{n}", "attributes": {"country": f"c{n % 3}"}} for n in range(USERS)]
        await self._until_accepted(client, time.time(), items + users)

    async def _visit(self, client: httpx.AsyncClient, number: int, due: float, rng: random.Random) -> None:
        user = f"u{rng.randrange(USERS)}"
        asked: dict[str, Any] = {"user": user, "context": {"device": rng.choice(["phone", "desk"])}}
        path = "/v1/recommend"
        if number % 4 == 0:
            path, asked["items"] = "/v1/rank", [f"i{n}" for n in rng.sample(range(ITEMS), 20)]
        ranking = await self._send(client, due, path, asked, 200)
        if ranking is None:
            return
        self.shown.add(ranking["request_id"])
        shown = [ranked["item"] for ranked in ranking["items"]]
        liked = [item for item in shown if likes(user, item)] or shown[: rng.random() < 0.1]
        if not liked:
            return
        await asyncio.sleep(rng.uniform(0.1, 0.8))
        click = {"type": "interaction", "id": f"v{number}", "request_id": ranking["request_id"], "user": user}
        click |= {"item": rng.choice(liked), "kind": rng.choice(["click", "click", "click", "buy"])}
        if number % 2 or self.clock():
            click["timestamp"] = time.time() + self.clock()
        await self._until_accepted(client, time.time(), [click])
        self.accepted.add(f"v{number}")

    async def _until_accepted(self, client: httpx.AsyncClient, due: float, events: list[dict[str, Any]]) -> None:
        limit = time.monotonic() + PATIENCE
        while await self._send(client, due, "/v1/events", events, 202) is None:
            assert time.monotonic() < limit, "events were never accepted"
            await asyncio.sleep(AGAIN)
            due = time.time()

    async def _send(self, client: httpx.AsyncClient, due: float, path: str, body: Any, good: int) -> Any:
        """Send a request; its answer if it is the good one, None if the service says that it has no time, or is down."""
        try:
            answer = await client.post(path, json=body)
        except httpx.TransportError as error:
            self.unreachable.append((due, time.time()))
            self.counts[f"no answer ({type(error).__name__})"] += 1
            return None
        self.counts[f"{path} {answer.status_code}"] += 1
        if answer.status_code == good:
            self.samples.append(Sample(due, time.time() - due))
            return answer.json()
        if answer.status_code != 503 or "Retry-After" not in answer.headers:
            self.problems.append(
                f"a good request to {path} was answered with {answer.status_code}: {answer.text[:500]}: {body}"
            )
        return None


def likes(user: str, item: str) -> bool:
    """Whether a user likes the brand of an item; items that hostile clients made have none."""
    return item[1:].isdecimal() and int(user[1:]) % 7 == int(item[1:]) % 7
