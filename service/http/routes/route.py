"""Define a route: its path, its handler, and its description for the OpenAPI page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from service.http.schemas import Problem
from service.http.web import Request, Response

__all__ = ["Answer", "Route", "Scope", "problems"]

Scope = Literal["probe", "read", "write"]
"""What a request may do: probe the process under any host name, read, or change something (`service.http.guard`)."""


@dataclass(frozen=True)
class Answer:
    """One response of a route.

    Attributes
    ----------
    text : str
        When it is sent.
    body : type of msgspec.Struct or None
        Type of its body; None: no schema.
    """

    text: str
    body: type[msgspec.Struct] | None = None


@dataclass(frozen=True)
class Route:
    """A route of the service, with its description.

    Attributes
    ----------
    method, path : str
        The path in Starlette's notation, as ``/v1/items/{id:path}``.
    handler : callable
        Answers a request.
    scope : {"probe", "read", "write"}
        What a request may do. ``GET`` never changes anything; every other method may.
    summary, description : str
        Texts of the OpenAPI page.
    parameters : mapping of str to str
        Description of each path and query parameter, by name.
    body : type or None
        Type of the request body; None: no body.
    answers : mapping of int to Answer
        All responses, by status.

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
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.method == "GET") == (self.scope == "write"):
            remedy = "use POST, PUT or DELETE" if self.method == "GET" else "'write' is the scope of this method"
            raise ValueError(f"{self.method} {self.path}: scope = {self.scope!r} does not fit the method; {remedy}")


def problems(*codes: int) -> dict[int, Answer]:
    """Error responses that mean the same on every route.

    Parameters
    ----------
    *codes : int
        Their statuses.
    """
    return {code: Answer(_PROBLEMS[code], Problem) for code in codes}


_PROBLEMS = {
    400: "The body is not JSON",
    404: "There is no such item or user",
    409: "The request id was used for another ranking",
    413: "The decompressed body is too large, or has too many events",
    415: "The body is not declared as `application/json`, or its compression is neither gzip nor deflate",
    422: "A field is wrong; the error names it and the remedy",
    503: "The engine does not answer, or the log cannot be written; try again later",
    507: "The log or its disk is full",
}
