"""Make the OpenAPI document from the routes and the structs of their bodies."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from service.http.routes.route import Answer, Link, Route, everywhere

__all__ = ["document"]

_BY = re.compile(r"\{(\w+):\w+\}")
"""A path parameter with its convertor, in Starlette's notation."""

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The key, as `Authorization: Bearer KEY`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The key in a header of its own"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key as the password; the user's name does not matter"},
}
"""Ways to send a key; see `service.http.security.access`."""


def document(routes: Iterable[Route], version: str, max_body: int) -> dict[str, Any]:
    """OpenAPI 3.1 description of the service.

    Parameters
    ----------
    routes : iterable of Route
        Routes to describe.
    version : str
        Version of the service.
    max_body : int
        Most bytes of a request body.
    """
    routes = list(routes)
    answers = {id(route): everywhere(route) | dict(route.answers) for route in routes}
    types: list[Any] = [route.body for route in routes]
    types += [answer.body for given in answers.values() for answer in given.values()]
    types += [type for route in routes for _, type in route.parameters.values()]
    types = [one for one in dict.fromkeys(types) if one is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for component in components.values():
        component["description"] = inspect.cleandoc(component.get("description", ""))
    for route in routes:
        for name, narrowed in route.narrowed.items():
            struct, _, key = name.partition(".")
            properties = components[struct]["properties"]
            properties[key] = dict(narrowed) | {key: value for key, value in properties[key].items() if key == "default"}
    schema = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _BY.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, answers[id(route)], schema)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Freshet",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": (
                "A recommender that learns from every event. Bodies are JSON with `Content-Type: application/json`, at most "
                f"{max_body} bytes, plain or with `Content-Encoding: gzip` or `deflate`. What is no HTTP is answered 400 with "
                "a line of text, a path that is not listed here 404, and a method that is not listed 405, with `Allow`. Any "
                "request may be answered 408 (it does not arrive in time), 414 or 431 (its path or its headers are too long), "
                "503 (too many connections or bodies are open; see `Retry-After`) or 421 (its `Host` is not in `[server] "
                "hosts`), and any change 403 (a page of another origin sent it). Where the service has keys, a request "
                "needs one that allows what its operation names under `security`."
            ),
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": SCHEMES},
    }


def _operation(route: Route, path: str, answers: Mapping[int, Answer], schema: Mapping[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": _name(route.method, path), "summary": route.summary}
    if route.description:
        operation["description"] = route.description
    if route.parameters:
        operation["parameters"] = [_parameter(name, path, *of, schema) for name, of in route.parameters.items()]
    if route.body is not None:
        operation["requestBody"] = {"required": True, **_content(schema[route.body])}
    operation["security"] = [] if route.scope == "open" else [{name: [route.scope]} for name in SCHEMES]
    operation["responses"] = {str(code): _response(answers[code], schema) for code in sorted(answers)}
    return operation


def _name(method: str, path: str) -> str:
    return "_".join([method.lower(), *re.findall(r"\w+", path)])


def _response(answer: Answer, schema: Mapping[Any, Any]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.text}
    if answer.headers:
        response["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    response |= _content({"type": "string"} if answer.body is None else schema[answer.body], answer.media)
    if answer.links:
        response["links"] = {name: _link(link) for name, link in answer.links.items()}
    return response


def _link(link: Link) -> dict[str, Any]:
    method, _, path = link.route.partition(" ")
    made: dict[str, Any] = {"operationId": _name(method, path), "description": link.text}
    if link.parameters:
        made["parameters"] = dict(link.parameters)
    if link.body is not None:
        made["requestBody"] = dict(link.body)
    return made


def _content(schema: Mapping[str, Any], media: str = "application/json") -> dict[str, Any]:
    return {"content": {media: {"schema": schema}}}


def _parameter(name: str, path: str, text: str, type: Any, schema: Mapping[Any, Any]) -> dict[str, Any]:
    in_path = f"{{{name}}}" in path
    location = "path" if in_path else "query"
    return {"name": name, "in": location, "required": in_path, "description": text, "schema": schema[type]}
