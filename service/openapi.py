"""The OpenAPI page, made from the structs that the requests are decoded with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from service.schemas import (
    EventResults,
    ItemDocument,
    Problem,
    RankingResponse,
    RankRequest,
    RecommendRequest,
    UserDocument,
    Written,
)
from streams import codec

__all__ = ["document"]

_REF = "#/components/schemas/{name}"
_STRUCTS = (RankRequest, RecommendRequest, RankingResponse, EventResults, ItemDocument, UserDocument, Written, Problem)


def document(version: str, max_body: int, max_events: int, *, serves: bool = True) -> dict[str, Any]:
    """OpenAPI 3.1 description of the service.

    Parameters
    ----------
    version : str
        Of the service.
    max_body : int
        Bytes of a request body.
    max_events : int
        Events of one post.
    serves : bool
        False: of a process that neither ranks nor takes events.
    """
    event, components = codec.json_schema()
    _, structs = msgspec.json.schema_components(_STRUCTS if serves else (Problem,), ref_template=_REF)
    for struct in structs.values():
        struct["description"] = inspect.cleandoc(struct.get("description", ""))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Freshet",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": (
                "A recommender that learns from every event. Bodies are JSON and say so (`Content-Type: application/json`), at "
                f"most {max_body} bytes, plain or with `Content-Encoding: gzip` or `deflate`. Any request may be answered 421 "
                "(its `Host` is not in `[server] hosts`), one that changes something 403 (the page of another origin sent it)."
            ),
        },
        "paths": (_serving(event, max_events) if serves else {}) | _OPERATIONS,
        "components": {"schemas": components | structs if serves else structs},
    }


def _serving(event: Mapping[str, Any], max_events: int) -> dict[str, Any]:
    events = {"oneOf": [event, {"type": "array", "items": event, "maxItems": max_events}]}
    explained = (
        "Each event is checked by itself: a bad one is kept as a dead letter and harms no other. An accepted event is in the "
        'log when the answer comes, or (`ack = "queued"`) waits for it in memory. `tick` events are the service\'s own.'
    )
    return {
        "/v1/events": {
            "post": _operation(
                "Append events: one, or a list",
                explained,
                body=events,
                answers={
                    "202": ("All accepted: they will be learned", "EventResults"),
                    "207": ("Some accepted", "EventResults"),
                    "422": ("None accepted", "EventResults"),
                    **_problems("400", "413", "415", "503", "507"),
                },
            )
        },
        "/v1/rank": {"post": _ranking("Put given items in order for a user", "RankRequest")},
        "/v1/recommend": {"post": _ranking("Find and order items for a user", "RecommendRequest")},
        "/v1/items/{id}": _entry("item", "ItemDocument"),
        "/v1/users/{id}": _entry("user", "UserDocument"),
        "/v1/users/{id}/forget": {
            "post": _operation(
                "Remove all that is kept for a user",
                "Without a body, but with `Content-Type: application/json`.",
                parameters=_ID,
                answers=_WRITTEN | _problems("415"),
            )
        },
    }


_PROBLEMS = {
    "400": "The body is not JSON",
    "404": "There is no such item or user",
    "413": "The body, decompressed, is larger or has more events than is taken at once",
    "415": "The body is not declared as `application/json`, or compressed in another way than gzip and deflate",
    "422": "A field is wrong: which, and what to send instead",
    "503": "The engine does not answer, or the log cannot be written, now",
    "507": "The log or its disk is full",
}


def _problems(*codes: str) -> dict[str, tuple[str, str | None]]:
    return {code: (_PROBLEMS[code], "Problem") for code in codes}


def _parameter(name: str, place: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "description": text, "schema": {"type": "string"}}


_ID = [_parameter("id", "path", "Id, percent-encoded")]
_WRITTEN = {
    "200": ("Done, and rankings show it", "Written"),
    "202": ("In the log; rankings will show it", "Written"),
    **_problems("422", "503", "507"),
}


def _operation(
    summary: str,
    description: str = "",
    *,
    body: Mapping[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    answers: Mapping[str, tuple[str, str | None]],
) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    operation["responses"] = {
        code: {"description": text, **({"content": {"application/json": {"schema": _ref(struct)}}} if struct else {})}
        for code, (text, struct) in answers.items()
    }
    return operation


def _ranking(summary: str, request: str) -> dict[str, Any]:
    return _operation(
        summary,
        body=_ref(request),
        answers={"200": ("The ranking", "RankingResponse"), **_problems("400", "413", "415", "422", "503")},
    )


def _entry(noun: str, struct: str) -> dict[str, Any]:
    return {
        "put": _operation(
            f"Add or replace the {noun}", parameters=_ID, body=_ref(struct), answers=_WRITTEN | _problems("400", "413", "415")
        ),
        "get": _operation(f"Attributes of the {noun}", parameters=_ID, answers=_FOUND[struct]),
        "delete": _operation(f"Delete the {noun}", parameters=_ID, answers=_WRITTEN),
    }


_FOUND = {name: {"200": ("What is known", name), **_problems("404", "503")} for name in ("ItemDocument", "UserDocument")}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


_OPERATIONS = {
    "/v1/status": {
        "get": _operation(
            "Where this process stands",
            parameters=[_parameter("digest", "query", "1: add the fingerprint of the whole state")],
            answers={"200": ("Status", None), **_problems("503")},
        )
    },
    "/v1/live": {"get": _operation("Server-sent events: what the live page draws", answers={"200": ("Stream", None)})},
    "/healthz": {"get": _operation("Whether the process lives", answers={"200": ("It does", None)})},
    "/readyz": {
        "get": _operation(
            "Whether it answers without compiling first, and has caught up with the log",
            answers={"200": ("It has", None), **_problems("503")},
        )
    },
    "/metrics": {"get": _operation("Metrics in Prometheus' text format", answers={"200": ("Metrics", None)})},
}
