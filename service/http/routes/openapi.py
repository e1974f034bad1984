"""Make the OpenAPI document from the routes and the structs of their bodies."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from service.http.routes.route import Route, problems
from service.http.schemas import Problem

__all__ = ["document"]

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
    answers = [Problem, *(answer.body for route in routes for answer in route.answers.values())]
    types = [body for body in dict.fromkeys([*(route.body for route in routes), *answers]) if body is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for component in components.values():
        component["description"] = inspect.cleandoc(component.get("description", ""))
    schema = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, schema)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Freshet",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": (
                "A recommender that learns from every event. Bodies are JSON with `Content-Type: application/json`, at most "
                f"{max_body} bytes, plain or with `Content-Encoding: gzip` or `deflate`. Any request may be answered 421 (its "
                "`Host` is not in `[server] hosts`), and any change 403 (a page of another origin sent it). Where the service "
                "has keys, a request needs one that allows what its operation names under `security`."
            ),
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": SCHEMES},
    }


def _operation(route: Route, path: str, schema: Mapping[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary}
    if route.description:
        operation["description"] = route.description
    if route.parameters:
        operation["parameters"] = [_parameter(name, text, path) for name, text in route.parameters.items()]
    if route.body is not None:
        operation["requestBody"] = {"required": True, **_content(schema[route.body])}
    operation["security"] = [] if route.scope == "open" else [{name: [route.scope]} for name in SCHEMES]
    answers = dict(route.answers) | ({} if route.scope == "open" else problems(401, 403))
    operation["responses"] = {
        str(code): {"description": answer.text, **(_content(schema[answer.body]) if answer.body is not None else {})}
        for code, answer in sorted(answers.items())
    }
    return operation


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _parameter(name: str, text: str, path: str) -> dict[str, Any]:
    in_path = f"{{{name}}}" in path
    location = "path" if in_path else "query"
    return {"name": name, "in": location, "required": in_path, "description": text, "schema": {"type": "string"}}
