"""The paths of the application: each answers all its methods, and says which they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Handler", "by_path", "dispatched"]

Handler = Callable[[Request], Awaitable[Response]]


class IdConvertor(Convertor[str]):
    """An id in a path, as ``{id:id}``: any text, slashes and line breaks included."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        """Take the text as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Take the id as it is."""
        return value


class UserConvertor(IdConvertor):
    """The id of a user in a path, as ``{id:user}``, unless the path ends in ``/forget``, which is a path of its own.

    Otherwise ``DELETE /v1/users/ann/forget`` would delete the user ``ann/forget``, and the client would believe that all of
    ann's data are gone.
    """

    regex = r"(?s:(?!.*/forget\Z).*)"


register_url_convertor("id", IdConvertor())
register_url_convertor("user", UserConvertor())


def by_path(handlers: Iterable[tuple[str, str, Handler]]) -> dict[str, dict[str, Handler]]:
    """Collect the methods of each path. One route per method would answer 405 with ``Allow`` naming the first method only.

    Parameters
    ----------
    handlers : iterable of (path, method, handler)
    """
    paths: dict[str, dict[str, Handler]] = {}
    for path, method, handler in handlers:
        paths.setdefault(path, {})[method] = handler
    return paths


def dispatched(methods: Mapping[str, Handler]) -> Handler:
    """Handler of a path that has a handler for each method; ``HEAD`` is answered as ``GET``, without the body."""
    if len(methods) == 1:
        (only,) = methods.values()
        return only

    async def dispatch(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return dispatch
