"""Who may use a route: the key of a request needs the route's scope."""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Literal

from service.http.schemas import Problem
from service.http.security.keys import SCOPES, Key, Keys, KeyScope
from service.http.web import Request, Response, json

__all__ = ["Access", "may"]

RELOAD_SECONDS: Final = 1.0
"""Seconds between two looks at the file of keys."""

BEARER: Final = 'Bearer realm="freshet"'
BASIC: Final = 'Basic realm="freshet", charset="UTF-8"'
"""Challenge of the routes that browsers open: a browser asks for the key as a password, and sends it with later requests."""

_ENTRY: Final = "freshet.key"
_ANYONE: Final = Key("anyone", frozenset(SCOPES), b"")

Handler = Callable[[Request], Awaitable[Response]]


class Access:
    """Checks the keys of requests.

    Parameters
    ----------
    keys : Keys or None
        None: every request may do everything.
    refused : callable
        Called with the status of every refusal.
    """

    def __init__(self, keys: Keys | None, refused: Callable[[int], None]) -> None:
        self._keys, self._refused = keys, refused
        self._denied = Counter[str]()

    def guarded(self, method: str, scope: KeyScope | Literal["open"], handler: Handler) -> Handler:
        """Handler that first checks whether the key of a request has a scope; ``open``: the same handler."""
        keys = self._keys
        challenges = [BEARER, BASIC] if method == "GET" else [BEARER]
        if scope == "open":
            return handler

        async def checked(request: Request) -> Response:
            if keys is None:
                request.scope[_ENTRY] = _ANYONE
                return await handler(request)
            sent = _sent(request.scope["headers"])
            key = keys.find(sent) if sent else None
            if key is None:
                problem = "the key is not known here" if sent else "a key is needed"
                remedy = "send `Authorization: Bearer KEY` or `X-API-Key: KEY` (`freshet key new` makes keys)"
                return self._refuse(401, "wrong" if sent else "missing", f"{problem}; {remedy}", challenges)
            if scope not in key.scopes:
                return self._refuse(403, "scope", f"the key {key.name!r} lacks the scope {scope!r}; send a key that has it")
            request.scope[_ENTRY] = key
            return await handler(request)

        return checked

    async def watch(self, changed: Callable[[], None]) -> None:
        """Read the file of keys again whenever it changes, and call `changed` if the keys are others then."""
        while self._keys is not None:
            await asyncio.sleep(RELOAD_SECONDS)
            if await asyncio.to_thread(self._keys.refresh):
                changed()

    def gauges(self) -> dict[str, Any]:
        """Numbers for `service.monitoring.monitor.Monitor`."""
        failures = {} if self._keys is None else {"failures": {"keys": self._keys.failures}}
        return {"denied": dict(self._denied)} | failures

    def _refuse(self, status: int, reason: str, error: str, challenges: Sequence[str] = ()) -> Response:
        self._denied[reason] += 1
        self._refused(status)
        response = json(Problem(error=error), status)
        for challenge in challenges:
            response.headers.append("WWW-Authenticate", challenge)
        return response


def may(request: Request, scope: KeyScope) -> bool:
    """Whether the key of a request, which has passed a guarded route, has a further scope."""
    key: Key | None = request.scope.get(_ENTRY)
    return key is not None and scope in key.scopes


def _sent(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Key that a request sends; empty: none. ``X-API-Key`` comes first: a proxy may need ``Authorization`` for itself."""
    found = b""
    for name, value in headers:
        if name == b"x-api-key" and value:
            return value
        if name == b"authorization":
            kind, _, credentials = value.partition(b" ")
            if kind.lower() == b"bearer":
                found = credentials.strip()
            elif kind.lower() == b"basic":
                found = _password(credentials)
    return found


def _password(credentials: bytes) -> bytes:
    """Password of basic authentication. The name of the user does not matter."""
    try:
        return b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
