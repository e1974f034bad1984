"""The exception for error responses."""

from __future__ import annotations

from collections.abc import Mapping

from service.http.schemas import Problem

__all__ = ["Failure"]


class Failure(Exception):
    """An error response with a `Problem` as its body.

    Parameters
    ----------
    status : int
    error : str
        What is wrong and what to do.
    field : str or None
        Field of the request that is wrong.
    retry : bool
        Whether the same request may succeed a little later: adds ``Retry-After``.
    headers : mapping of str to str or None
        Additional headers of the response.
    """

    def __init__(
        self, status: int, error: str, field: str | None = None, retry: bool = False, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status, self.problem = status, Problem(error=error, field=field)
        self.headers = dict(headers or {}) | ({"Retry-After": "1"} if retry else {})
