"""The visitors' client: it retries while the service is slow or busy."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from service.demo.visitors import _Client

PATIENCE = 30.0


class Moody(HTTPServer):
    """Answers requests in turn as its list says: a status, with or without Retry-After, or None: it hangs up."""

    def __init__(self, moods: list[tuple[int, bool] | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.moods, self.asked = moods, 0


class _Answer(BaseHTTPRequestHandler):
    server: Moody

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        mood = self.server.moods.pop(0)
        if mood is None:
            return
        status, again = mood
        self.send_response(status)
        if again:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def moody() -> Iterator[Callable[..., Moody]]:
    servers: list[Moody] = []

    def start(*moods: tuple[int, bool] | None) -> Moody:
        server = Moody(list(moods))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def client(server: Moody) -> _Client:
    return _Client(server.server_address, multiprocessing.get_context("spawn").Event())


def test_temporary_refusals_and_lost_connections_are_retried(moody: Callable[..., Moody]) -> None:
    server = moody((503, True), None, (503, True), (202, False))
    assert client(server).post("/v1/events", []) == []
    assert server.asked == 4


@pytest.mark.parametrize("status", [422, 503])
def test_a_permanent_refusal_is_a_failure(status: int, moody: Callable[..., Moody]) -> None:
    with pytest.raises(RuntimeError, match=rf"/v1/events was answered {status}"):
        client(moody((status, False))).post("/v1/events", [])


def test_at_the_end_no_request_is_retried(moody: Callable[..., Moody]) -> None:
    server = moody((503, True))
    visitor = client(server)
    visitor._ending.set()
    assert visitor.post("/v1/events", []) is None
    assert server.asked == 0
