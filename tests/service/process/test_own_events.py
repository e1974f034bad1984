"""A request that comes right after an event of its own user knows of that event."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from service.config import Config
from service.process.own_events import BACK_OFF, HeldRequests
from service.ranking.requests import RecommendRequest
from tests.service.running import click, serving


class World:
    """Users with unlearned events, and a clock."""

    def __init__(self) -> None:
        self.behind: set[str] = set()
        self.now = 100.0
        self.held = HeldRequests(0.05, self.behind.__contains__, lambda: self.now)

    def ask(self, user: str) -> bool:
        return self.held.hold((RecommendRequest(user=user), Future()))

    def released(self) -> list[str]:
        return [request.user for request, _ in self.held.release()]


def test_a_request_waits_until_its_users_events_are_learned() -> None:
    world = World()
    world.behind.add("ann")
    assert world.ask("ann") and not world.ask("bob")
    assert world.released() == [] and len(world.held) == 1
    world.behind.clear()
    assert world.released() == ["ann"] and len(world.held) == 0
    assert world.held.counts == {"learned": 1}


def test_a_trainer_that_is_behind_is_not_waited_for_again_and_again() -> None:
    world = World()
    world.behind.add("ann")
    assert world.ask("ann")
    world.now += 0.06
    assert world.released() == ["ann"] and world.held.counts == {"timed_out": 1}
    assert not world.ask("ann"), "not held now"
    world.now += BACK_OFF
    assert world.ask("ann")


def test_nobody_waits_where_it_is_switched_off() -> None:
    assert not HeldRequests(0.0, lambda user: True).hold((RecommendRequest(user="ann"), Future()))


@pytest.mark.anyio
@pytest.mark.parametrize("own_events", [0.0, 1.0])
async def test_over_http_the_list_is_of_after_the_click(own_events: float, make_config: Callable[..., Config]) -> None:
    """The batch has room for more, and would be learned after 10 s."""
    async with serving(make_config(server={"flush": 10.0, "own_events": own_events})) as running:
        assert (await running.send("PUT", "/v1/items/a", {"attributes": {"colour": "red"}})).status_code == 200
        assert (await running.post("/v1/events", [click("ann", "a")])).status_code == 202
        assert (await running.recommend("ann"))["version"] == (1 if own_events else 0)
