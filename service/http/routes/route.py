"""What a route is: how it is reached, what answers it, and what the OpenAPI page says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from service.http.schemas import Problem
from service.http.web import Request, Response

__all__ = ["Answer", "Route", "Scope", "problems"]

Scope = Literal["probe", "read", "write"]
"""What a request may do: ask how the process is, under whatever host name; read; or change something (`service.http.guard`)."""


@dataclass(frozen=True)
class Answer:
    """One answer of a route.

    Attributes
    ----------
    text : str
        When it is given.
    body : type of msgspec.Struct or None
        What its body holds; None: something that has no schema.
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
        What a request may do. ``GET`` never changes anything, every other method may.
    summary, description : str
        Of the OpenAPI page.
    parameters : mapping of str to str
        What each parameter of the path or the query is, by name.
    body : type or None
        What the body is decoded with; None: there is none.
    answers : mapping of int to Answer
        Every answer, by its status.

    Raises
    ------
    ValueError
        When method and scope contradict each other: the guard tells by the method what another site's page may send.
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
    """Failures that mean the same wherever they occur.

    Parameters
    ----------
    *codes : int
        Their statuses.
    """
    return {code: Answer(_PROBLEMS[code], Problem) for code in codes}


_PROBLEMS = {
    400: "The body is not JSON",
    404: "There is no such item or user",
    413: "The body, decompressed, is larger or has more events than is taken at once",
    415: "The body is not declared as `application/json`, or compressed in another way than gzip and deflate",
    422: "A field is wrong: which, and what to send instead",
    503: "The engine does not answer, or the log cannot be written, now",
    507: "The log or its disk is full",
}
