"""Headers of every response that tell browsers what they must not do with it.

References
----------
OWASP, "HTTP Security Response Headers Cheat Sheet" and "REST Security Cheat Sheet".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

__all__ = ["ANSWER", "PAGE", "REFERENCE", "Headers"]

_POLICY: Final = "; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_COMMON: Final = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}

ANSWER: Final = {**_COMMON, "Cache-Control": "no-store", "Content-Security-Policy": f"default-src 'none'{_POLICY}"}
"""Headers of everything but pages and their files: answers may hold data of users, and nothing in them is ever executed."""

PAGE: Final = {**ANSWER, "Content-Security-Policy": f"default-src 'self'{_POLICY}"}
"""Headers of a page whose scripts, styles and data all come from this service."""

REFERENCE: Final = {
    **ANSWER,
    "Content-Security-Policy": f"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:{_POLICY}",
}
"""Headers of the reference page: Swagger UI has styles and images inside its script."""

FILE: Final = {**PAGE, "Cache-Control": "no-cache"}
"""Headers of the pages' files, which are the same for everybody and have an ETag."""

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application: called with scope, receive and send."""


class Headers:
    """ASGI middleware that adds the headers. The application must not set them itself.

    Parameters
    ----------
    app : ASGI application
    pages : mapping of str to mapping
        Headers by path, for all paths but those of answers and files.
    files : str
        Beginning of the paths of files.
    """

    def __init__(self, app: App, pages: Mapping[str, Mapping[str, str]], files: str) -> None:
        self._app, self._files = app, files
        self._pages = {path: _encoded(headers) for path, headers in pages.items()}
        self._answer, self._file = _encoded(ANSWER), _encoded(FILE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        added = self._pages.get(path) or (self._file if path.startswith(self._files) else self._answer)

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, sent)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
