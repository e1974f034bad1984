"""The application with a runtime behind it, asked without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from service.config import Config
from service.http.app import create_app
from service.http.security.keys import Keys
from service.process.runtime import Runtime, open_runtime
from streams.codec import decode
from streams.events import Event, Impression, Tick


class Service:
    """A running app, and the runtime behind it."""

    def __init__(self, app: FastAPI, runtime: Runtime, client: httpx.AsyncClient) -> None:
        self.app, self.runtime, self._client = app, runtime, client

    async def send(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Send a request; bytes are sent as they are, declared as JSON, as everything is that has a body or is posted."""
        more["headers"] = {"Content-Type": "application/json"} | more.get("headers", {})
        if isinstance(body, bytes):
            more["content"] = body
        elif body is not None:
            more["json"] = body
        return await self._client.request(method, path, **more)

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.send("POST", path, body)

    async def recommend(self, user: str, **more: Any) -> dict[str, Any]:
        answer = await self.post("/v1/recommend", {"user": user, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def learned(self) -> None:
        """Wait until all that was posted has been learned."""
        seen = -1
        while seen != (seen := self.runtime.log.end()[0]) or self.runtime.updater.lag() or self.runtime.updater.reader.pending:
            await asyncio.sleep(0.03)

    def logged(self) -> list[Event]:
        """Everything but ticks."""
        events = [decode(record.value) for record in self.runtime.log.read({0: 0}, 10_000)]
        return [event for event in events if not isinstance(event, Tick)]

    async def impressions(self, count: int) -> list[Impression]:
        """What was shown; waits until there are so many, for an answer does not wait for its own impression."""
        while len(shown := [event for event in self.logged() if isinstance(event, Impression)]) < count:
            await asyncio.sleep(0.01)
        return shown

    def letters(self) -> list[Any]:
        return self.runtime.dead.read()


@asynccontextmanager
async def serving(
    config: Config, raise_errors: bool = True, serves: bool = True, host: str | None = None, keys: Keys | None = None
) -> AsyncIterator[Service]:
    runtime = open_runtime(config)
    app = create_app(runtime, serves=serves, host=host, keys=keys)
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_errors)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Service(app, runtime, client)


def click(user: str, item: str, **more: Any) -> dict[str, Any]:
    return {"type": "interaction", "user": user, "item": item, **more}
