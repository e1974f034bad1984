"""Refuse requests that a web page sends through a visitor's browser (CSRF, DNS rebinding).

A browser lets any page send simple requests to any address, localhost included. A page whose host name is rebound to 127.0.0.1
can also read the responses. So the service accepts only requests whose ``Host`` is one of its names. A request that changes
something must come from the service's own page, from a listed origin, or from a client without an ``Origin``, which is no
browser. Bodies must be ``application/json`` (`service.http.bodies`): a browser sends a preflight request before that, and the
preflight fails for origins that `[server] origins` does not list.

References
----------
OWASP, "Cross-Site Request Forgery Prevention Cheat Sheet". C. Jackson et al., "Protecting Browsers from DNS Rebinding Attacks",
CCS 2007.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from service.http.schemas import Problem
from service.http.web import json

__all__ = ["Guard", "Hosts"]

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application: called with scope, receive and send."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Hosts:
    """Host names that requests may name.

    Always allowed: ``localhost``, ``127.0.0.1``, ``::1``, and the address that the server listens on. If it listens on all
    addresses of the machine, every IP address is allowed: no foreign page has an IP address of this machine as its name.

    Parameters
    ----------
    bound : str
        Address that the server listens on.
    names : iterable of str
        Additional names; ``*.example.com`` allows every name below it, ``*`` every name.
    """

    def __init__(self, bound: str, names: Iterable[str] = ()) -> None:
        names = [name.lower() for name in names]
        self._all = "*" in names
        self._names = {*LOOPBACK, bound.lower(), *names}
        self._below = tuple(name[1:] for name in names if name.startswith("*."))
        self._addresses = _is_wildcard(bound)
        self._known: set[bytes] = set()

    def admit(self, header: bytes) -> bool:
        """Whether a Host header (name or address, with or without a port) names this service."""
        # Every request has this header, and few values occur: allowed values are cached.
        if self._all or header in self._known:
            return True
        name = _without_port(header.decode("latin-1").lower())
        admitted = name in self._names or name.endswith(self._below) or (self._addresses and _is_address(name))
        if admitted and len(self._known) < 1000:
            self._known.add(header)
        return admitted


class Guard:
    """ASGI middleware that refuses requests to other host names, and changes requested by pages of other sites.

    Parameters
    ----------
    app : ASGI application
    hosts : Hosts
    origins : iterable of str
        Origins whose pages may send changes, as browsers write them; ``*``: all.
    probes : iterable of str
        Paths that are answered under any host name: they change nothing, and operators request them by address.
    refused : callable
        Called with the status of every refusal.
    """

    def __init__(
        self, app: App, hosts: Hosts, origins: Iterable[str], probes: Iterable[str], refused: Callable[[int], None]
    ) -> None:
        self._app, self._hosts, self._refused = app, hosts, refused
        self._probes = frozenset(probes)
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in self._probes:
            await self._app(scope, receive, send)
            return
        host = origin = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        if not self._hosts.admit(host):
            text = f"Host: {host.decode('latin-1')!r} is no name of this service; list it in [server] hosts, or use localhost"
            await self._refuse(421, text, scope, receive, send)
        elif origin and scope["method"] not in SAFE and not self._is_ours(origin, host):
            text = f"Origin: pages of {origin.decode('latin-1')!r} may not change anything here; list it in [server] origins"
            await self._refuse(403, text, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_ours(self, origin: bytes, host: bytes) -> bool:
        return origin.partition(b"://")[2] == host or origin in self._origins or b"*" in self._origins

    async def _refuse(self, status: int, error: str, scope: Any, receive: Any, send: Any) -> None:
        self._refused(status)
        await json(Problem(error=error), status)(scope, receive, send)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_wildcard(bound: str) -> bool:
    return not bound or (_is_address(bound) and ipaddress.ip_address(bound).is_unspecified)
