"""Define a route: its path, its handler, and its description for the OpenAPI page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from service.http.schemas import Problem
from service.http.security.keys import KeyScope
from service.http.web import Request, Response

__all__ = ["Answer", "Link", "Route", "Scope", "everywhere", "problems"]

Scope = KeyScope | Literal["open"]
"""What the key of a request has to allow; ``open``: a request needs no key (`service.http.security.access`)."""


@dataclass(frozen=True)
class Link:
    """A request that may follow a response, with the values that it takes from the response.

    Attributes
    ----------
    route : str
        Method and path of the following request, as ``POST /v1/events``.
    text : str
        What it does.
    parameters : mapping of str to str
        Runtime expressions of OpenAPI, by parameter, as ``$request.path.id``.
    body : mapping or None
        Body of the request, with runtime expressions as values.
    """

    route: str
    text: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """One response of a route.

    Attributes
    ----------
    text : str
        When it is sent.
    body : type of msgspec.Struct or None
        Type of its body; None: text.
    media : str
        Content type of the body.
    headers : mapping of str to str
        Meaning of its headers, by name. They need not be there.
    links : mapping of str to Link
        Requests that may follow, by name.
    """

    text: str
    body: type[msgspec.Struct] | None = None
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Link] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """A route of the service, with its description.

    Attributes
    ----------
    method, path : str
        The path in Starlette's notation, as ``/v1/items/{id:path}``.
    handler : callable
        Answers a request.
    scope : {"open", "read", "write", "metrics", "admin"}
        What the key of a request has to allow. ``GET`` never changes anything; every other method may.
    summary, description : str
        Texts of the OpenAPI page.
    parameters : mapping of str to (str, type)
        Description and type of each path and query parameter, by name.
    body : type or None
        Type of the request body; None: no body.
    answers : mapping of int to Answer
        Responses by status, without those of `everywhere`.
    narrowed : mapping of str to mapping
        JSON Schema of fields whose values depend on the config, by struct and field, as ``Interaction.kind``.

    Raises
    ------
    ValueError
        When method and scope contradict each other: the guard decides by the method what a page of another site may send.
    """

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    scope: Scope
    summary: str
    answers: Mapping[int, Answer]
    body: Any = None
    description: str = ""
    parameters: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    narrowed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reads = self.method == "GET"
        if self.scope == "write" if reads else self.scope in ("open", "metrics"):
            remedy = "use POST, PUT or DELETE" if reads else "its requests need a key of 'read', 'write' or 'admin'"
            raise ValueError(f"{self.method} {self.path}: scope = {self.scope!r} does not fit the method; {remedy}")


def problems(*codes: int) -> dict[int, Answer]:
    """Error responses that mean the same on every route.

    Parameters
    ----------
    *codes : int
        Their statuses.
    """
    return {code: Answer(_PROBLEMS[code], Problem, headers=_HEADERS.get(code, {})) for code in codes}


def everywhere(route: Route) -> dict[int, Answer]:
    """Error responses that a request to any route of this kind may get, before it reaches the route.

    Parameters
    ----------
    route : Route
    """
    codes = [] if route.scope in ("open", "metrics") else [421]
    if route.scope != "open":
        codes += [401, 403]
    if any(f"{{{name}" in route.path for name in route.parameters):
        codes.append(400)
    return problems(*codes)


_PROBLEMS = {
    400: "The body is not JSON, or cannot be decompressed; or the path is not percent-encoded UTF-8",
    401: "There is no key, or a wrong one (where the service has keys)",
    403: "The key lacks the scope, or a page of another origin sent a change; list it in `[server] origins`",
    404: "There is no such item or user",
    409: "The request id was used for another ranking",
    413: "The decompressed body is too large, or has too many events",
    415: "The body is not declared as `application/json`, or its compression is neither gzip nor deflate",
    421: "The `Host` is no name of this service; list it in `[server] hosts`",
    422: "A field is wrong; the error names it and the remedy",
    503: "The engine does not answer, or the log cannot be written; try again later",
    507: "The log or its disk is full",
}

_HEADERS = {
    415: {"Accept-Encoding": "Compressions that are accepted, if the compression is the reason"},
    503: {"Retry-After": "Seconds after which the same request may succeed"},
}
