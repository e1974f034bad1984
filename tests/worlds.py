"""Event streams of small worlds with known answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, Tick, UserUpdate

START = 1_700_000_000.0

SMALL = """
[features]
user = { id = "category", tribe = "category" }
item = { id = "category", colour = "category" }
[ranker.fm]
factors = 4
bits = 10
[retrievers.popularity]
capacity = 100
[items]
capacity = 100
[users]
capacity = 100
[history]
capacity = 100
"""
"""Config for these worlds in TOML. The stores are small, so that a state is written fast."""


def two_tribes(seed: int, length: int, *, shift_at: int | None = None) -> Iterator[Event]:
    """Red and blue users see five of ten items and click those of their own colour, rarely others.

    After `shift_at` impressions every user likes the other colour. Attributes hold the colours of items and users.
    """
    rng = random.Random(seed)
    now = START
    for n in range(10):
        yield ItemUpdate(item=f"i{n}", attributes={"colour": "red" if n < 5 else "blue", "price": float(n)}, timestamp=now)
    for n in range(20):
        yield UserUpdate(user=f"u{n}", attributes={"tribe": "red" if n < 10 else "blue"}, timestamp=now)
    for n in range(length):
        now += rng.expovariate(2.0)
        user = rng.randrange(20)
        shown = rng.sample(range(10), 5)
        context = {"device": rng.choice(["phone", "desk"])}
        yield Impression(
            request_id=f"r{n}", user=f"u{user}", items=tuple(f"i{i}" for i in shown), context=context, timestamp=now
        )
        likes_red = (user < 10) != (shift_at is not None and n >= shift_at)
        for position, item in enumerate(shown):
            if rng.random() < (0.8 if (item < 5) == likes_red else 0.05):
                now += 0.01
                yield Interaction(id=f"c{n}.{position}", request_id=f"r{n}", user=f"u{user}", item=f"i{item}", timestamp=now)


def busy_world(seed: int, length: int) -> Iterator[Event]:
    """`two_tribes` with duplicates, direct clicks, updates, forgets and ticks."""
    rng = random.Random(seed)
    sent: list[Event] = []
    for event in two_tribes(seed, length):
        sent.append(event)
        yield event
        draw = rng.random()
        if draw < 0.05:
            yield rng.choice(sent[-20:])
        elif draw < 0.10:
            yield Interaction(user=f"u{rng.randrange(25)}", item=f"i{rng.randrange(12)}", timestamp=event.timestamp)
        elif draw < 0.11:
            yield ItemUpdate(item=f"i{rng.randrange(12)}", attributes={"colour": rng.choice(["red", "blue"])})
        elif draw < 0.115:
            yield ItemUpdate(item=f"i{rng.randrange(10, 12)}", deleted=True)
        elif draw < 0.12:
            yield Forget(user=f"u{rng.randrange(25)}")
        elif draw < 0.15:
            yield Tick(timestamp=event.timestamp)
