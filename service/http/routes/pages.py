"""Pages for browsers: the live page, and the reference of the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from service.http.routes.route import Answer, Route, Scope
from service.http.web import Request, Response, file, json

__all__ = ["STATIC", "PageRoutes"]

STATIC = Path(__file__).parents[1] / "static"
"""Folder of the pages and their files."""


class PageRoutes:
    """The live page, and the reference of the API with the document that it shows.

    Parameters
    ----------
    document : mapping
        The OpenAPI document.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def routes(self) -> Iterable[Route]:
        """All routes of this class."""
        yield _page("/", self.live, "admin", "The live page")
        yield _page("/docs", self.reference, "read", "Reference of the API")
        yield _page("/openapi.json", self.description, "read", "The OpenAPI document")

    async def live(self, request: Request) -> Response:
        """Answer with the live page."""
        return file(STATIC / "index.html")

    async def reference(self, request: Request) -> Response:
        """Answer with the page that shows the OpenAPI document."""
        return file(STATIC / "reference.html")

    async def description(self, request: Request) -> Response:
        """Answer with the OpenAPI document."""
        return json(self._document)


def _page(path: str, handler: Callable[[Request], Awaitable[Response]], scope: Scope, summary: str) -> Route:
    return Route("GET", path, handler, scope=scope, summary=summary, answers={200: Answer(summary)})
