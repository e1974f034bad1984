"""Clients that send too much, or never finish: their connections are answered and closed, and others are served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from service.http.connections import MAX_FIELDS, MAX_PIPELINED, Connections
from service.http.server import Server, bind

pytestmark = pytest.mark.anyio

HEAD = 2048
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class App:
    """Answers 200 after the whole body has come, with the bytes that `answer` has."""

    def __init__(self, connections: Connections, answer: bytes) -> None:
        self.state = SimpleNamespace(connections=connections, idle=0.3, live=SimpleNamespace(close=lambda: None), unsaved=None)
        self.answer, self.gone = answer, 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            more = message["more_body"]
        await self.goes_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(self.answer))]})
        await send({"type": "http.response.body", "body": self.answer})


@asynccontextmanager
async def served(
    most: int = 100, seconds: float = 30.0, answer: bytes = b"ok"
) -> AsyncIterator[tuple[App, Connections, Counter[int], int]]:
    refused: Counter[int] = Counter()
    connections = Connections(most, HEAD, seconds, lambda status: refused.update([status]))
    app = App(connections, answer)
    with bind("127.0.0.1", 0) as listening:
        server = Server(app, listening)
        running = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield app, connections, refused, listening.getsockname()[1]
        finally:
            server.should_exit = True
            await running
    assert connections.open == 0


async def ask(port: int, data: bytes) -> bytes:
    """Send bytes, and return all that comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def with_head(size: int) -> bytes:
    """A request whose target and fields count `size` bytes: one for "/", 9 for the host, 19 for the end of the connection."""
    filler = size - 1 - len(b"Host" + b"a") - 4 - len(b"Connection" + b"close") - 4 - len(b"A") - 4
    return b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nA: %s\r\n\r\n" % (b"x" * filler)


async def test_a_head_has_a_limit() -> None:
    async with served() as (_, _, refused, port):
        assert status(await ask(port, with_head(HEAD))) == 200
        answer = await ask(port, with_head(HEAD + 1))
        assert status(answer) == 431 and b"max_head = 2048" in answer and b"connection: close" in answer
        assert (
            status(await ask(port, b"GET /%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % (b"x" * (HEAD - 29)))) == 200
        )
        assert status(await ask(port, b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * HEAD))) == 414
        assert refused == {431: 1, 414: 1}


async def test_the_number_of_header_fields_has_a_limit() -> None:
    async with served() as (_, _, _, port):
        close = b"Connection: close\r\n"
        assert status(await ask(port, b"GET / HTTP/1.1\r\n%s%s\r\n" % (close, b"a: \r\n" * (MAX_FIELDS - 1)))) == 200
        assert status(await ask(port, b"GET / HTTP/1.1\r\n%s%s\r\n" % (close, b"a: \r\n" * MAX_FIELDS))) == 431


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nHost: ",
        b"GET /",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: ",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;extension=",
    ],
)
async def test_what_never_ends_is_refused_before_it_fills_the_memory(start: bytes) -> None:
    async with served() as (_, _, refused, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        for _ in range(HEAD // 256 + 2):
            writer.write(b"x" * 256)
            await asyncio.sleep(0.01)
        assert status(await asyncio.wait_for(reader.read(), 10)) in (414, 431)
        writer.close()
        assert refused.total() == 1


async def test_trailers_without_end_are_refused() -> None:
    async with served() as (_, _, _, port):
        start = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        assert status(await ask(port, start + b"a: b\r\n" * 300)) == 431


async def test_connections_have_a_limit_and_a_closed_one_makes_room() -> None:
    async with served(most=2) as (_, connections, refused, port):
        first, second = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        first[1].write(GET)
        assert status(await first[0].readuntil(b"ok")) == 200
        answer = await ask(port, GET)
        assert status(answer) == 503 and b"retry-after: 1" in answer and b"max_connections" in answer
        assert refused == {503: 1} and connections.open == 2
        second[1].close()
        while connections.open == 2:
            await asyncio.sleep(0.01)
        assert status(await ask(port, GET.replace(b"Host", b"Connection: close\r\nHost"))) == 200
        first[1].close()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost:", b"408"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345", b"408"),
    ],
)
async def test_a_request_that_does_not_arrive_is_given_up(sent: bytes, expected: bytes) -> None:
    async with served(seconds=0.2) as (app, connections, _, port):
        answer = await ask(port, sent)
        assert expected in answer.partition(b"\r\n")[0]
        assert bool(answer) == bool(expected)
        while connections.open:
            await asyncio.sleep(0.01)
        assert app.gone == (b"Content" in sent)


async def test_single_bytes_do_not_keep_a_request_open() -> None:
    async with served(seconds=0.3) as (_, _, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def trickle() -> None:
            for byte in b"GET /" + b"x" * 1000:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)

        sending = asyncio.create_task(trickle())
        assert status(await asyncio.wait_for(reader.read(), 10)) == 408
        sending.cancel()
        writer.close()


async def test_blank_lines_do_not_keep_an_answered_connection_open() -> None:
    async with served(seconds=0.2) as (_, _, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await reader.readuntil(b"ok")
        writer.write(b"\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_slow_answer_is_not_the_fault_of_the_client() -> None:
    async with served(seconds=0.1) as (app, _, _, port):
        app.goes_on.clear()
        asked = asyncio.create_task(ask(port, GET.replace(b"Host", b"Connection: close\r\nHost")))
        await asyncio.sleep(0.3)
        app.goes_on.set()
        assert status(await asked) == 200


async def test_an_idle_connection_is_closed() -> None:
    async with served() as (_, _, _, port):
        assert status(await ask(port, GET)) == 200


async def test_a_client_that_does_not_take_its_answer_is_disconnected() -> None:
    async with served(seconds=0.2, answer=b"x" * (32 << 20)) as (_, connections, _, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(GET)
        await asyncio.sleep(0.05)
        while connections.open:
            await asyncio.sleep(0.02)
        writer.close()


async def test_requests_that_wait_on_one_connection_have_a_limit() -> None:
    async with served() as (app, connections, refused, port):
        last = GET.replace(b"Host", b"Connection: close\r\nHost")
        answers = await ask(port, GET * MAX_PIPELINED + last)
        assert answers.count(b"HTTP/1.1 200") == MAX_PIPELINED + 1
        app.goes_on.clear()
        assert await ask(port, GET * (MAX_PIPELINED + 2)) == b""
        assert refused == {503: 1}
        app.goes_on.set()
        while connections.open:
            await asyncio.sleep(0.01)
