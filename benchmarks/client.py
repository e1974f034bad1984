"""An open-loop HTTP client: it sends requests at planned times, however slow the answers are.

Latency counts from the planned time, so a stall counts for every request that was due meanwhile (this avoids G. Tene's
coordinated omission). It uses one thread, blocking sockets, and `select` for its microsecond timeout.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

__all__ = ["FINE", "Answer", "Outcome", "Plan", "arrivals", "call", "drive", "http"]

PATIENCE = 10.0
"""Seconds to wait for answers after the last planned request."""

MAX_CONNECTIONS = 400

FINE = (200, 202)
"""Statuses of a successful request."""


@dataclass(slots=True)
class Plan:
    """Requests of one kind.

    Attributes
    ----------
    name : str
    at : (n,) float64
        Send times in seconds from the start, ascending.
    requests : sequence of bytes
        Complete HTTP requests, used in turn.
    address : str
        Target, if different from that of the other plans.
    keep : bool
        Keep all answers, not only the last body.
    """

    name: str
    at: npt.NDArray[np.float64]
    requests: Sequence[bytes]
    address: str = ""
    keep: bool = False


class Answer(NamedTuple):
    """An answer with the number of its request in the plan, and when it was planned, sent and done (`time.time`)."""

    number: int
    planned: float
    sent: float
    done: float
    body: bytes


@dataclass(slots=True)
class Outcome:
    """Result of a plan.

    Attributes
    ----------
    latency : list of float
        Seconds from the planned time to the complete answer, for status 200 and 202.
    late : list of float
        Seconds by which the client sent too late: its own part of the latency.
    failures : dict of str to int
        Other outcomes: status codes, lost connections, no answer.
    bodies : list of bytes
        Body of the last answer, for checks.
    answers : list of Answer
        All answers, if the plan has `keep`.
    """

    latency: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def failed(self, why: str) -> None:
        """Count a failure."""
        self.failures[why] = self.failures.get(why, 0) + 1


class _Connection:
    """A kept-alive connection with at most one request in flight."""

    def __init__(self, address: str) -> None:
        where = urlsplit(address)
        self.address = address
        self.socket = socket.create_connection((where.hostname or "", where.port or 80), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.outcome = Outcome()
        self.number, self.planned, self.sent, self.keep = 0, 0.0, 0.0, False

    def answer(self) -> tuple[int, bytes] | None:
        """Read available data; return status and body when the answer is complete, else None."""
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionError("closed")
        self.received += piece
        head, found, rest = bytes(self.received).partition(b"\r\n\r\n")
        if not found:
            return None
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        if len(rest) < length:
            return None
        self.received.clear()
        return int(head[9:12]), rest


def http(method: str, address: str, path: str, body: bytes = b"") -> bytes:
    """Build a complete HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {urlsplit(address).netloc}", f"content-length: {len(body)}"]
    if body:
        lines.append("content-type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + body


def arrivals(rate: float, seconds: float, pattern: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw send times, (n,) seconds: ``poisson`` (independent users) or ``uniform`` (constant intervals)."""
    count = round(rate * seconds)
    if pattern == "uniform":
        return np.arange(count) / rate
    return np.sort(rng.uniform(0.0, seconds, count))


def call(address: str, request: bytes) -> tuple[int, bytes]:
    """Send one request; return status and body."""
    connection = _Connection(address)
    with connection.socket:
        connection.socket.sendall(request)
        while (answer := connection.answer()) is None:
            pass
        return answer


def drive(address: str, plans: Sequence[Plan]) -> dict[str, Outcome]:
    """Send all requests of all plans at their times, and collect the answers."""
    outcomes = {plan.name: Outcome() for plan in plans}
    schedule = sorted((at, number, index) for number, plan in enumerate(plans) for index, at in enumerate(plan.at.tolist()))
    to = [plan.address or address for plan in plans]
    free = {one: [_Connection(one) for _ in range(8)] for one in set(to)}
    busy: dict[socket.socket, _Connection] = {}
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter() + 0.05
        _loop(schedule, start, plans, to, outcomes, free, busy)
    finally:
        gc.enable()
        for connection in [*(connection for some in free.values() for connection in some), *busy.values()]:
            connection.socket.close()
    for connection in busy.values():
        connection.outcome.failed("no answer")
    return outcomes


def _loop(
    schedule: list[tuple[float, int, int]],
    start: float,
    plans: Sequence[Plan],
    to: Sequence[str],
    outcomes: dict[str, Outcome],
    free: dict[str, list[_Connection]],
    busy: dict[socket.socket, _Connection],
) -> None:
    sent = 0
    end = start + (schedule[-1][0] if schedule else 0.0) + PATIENCE
    while sent < len(schedule) or busy:
        due = start + schedule[sent][0] if sent < len(schedule) else end
        wait = due - time.perf_counter()
        may_send = sent < len(schedule) and (bool(free[to[schedule[sent][1]]]) or len(busy) < MAX_CONNECTIONS)
        if wait <= 0 and may_send:
            _, number, index = schedule[sent]
            sent += 1
            plan = plans[number]
            connection = _open(free[to[number]]) or _Connection(to[number])
            connection.outcome, connection.planned, connection.number = outcomes[plan.name], due, index
            connection.sent, connection.keep = due - wait, plan.keep
            connection.outcome.late.append(-wait)
            busy[connection.socket] = connection
            connection.socket.sendall(plan.requests[index % len(plan.requests)])
            continue
        if sent == len(schedule) and wait <= 0:
            return
        readable, _, _ = select.select(list(busy), [], [], max(wait, 0.0) if may_send or sent == len(schedule) else PATIENCE)
        for ready in readable:
            _take(busy, free, ready)


def _open(free: list[_Connection]) -> _Connection | None:
    """Take a free connection that the server has not closed."""
    while free:
        connection = free.pop()
        if not select.select([connection.socket], [], [], 0)[0]:
            return connection
        connection.socket.close()
    return None


def _take(busy: dict[socket.socket, _Connection], free: dict[str, list[_Connection]], ready: socket.socket) -> None:
    connection = busy[ready]
    outcome = connection.outcome
    try:
        answer = connection.answer()
    except OSError as error:
        del busy[ready]
        ready.close()
        outcome.failed(type(error).__name__)
        return
    if answer is None:
        return
    done = time.perf_counter()
    del busy[ready]
    free[connection.address].append(connection)
    status, body = answer
    if status in FINE:
        outcome.latency.append(done - connection.planned)
        outcome.bodies[:] = [body]
        if connection.keep:
            # Wall-clock time is the same for all processes of a machine.
            shift = time.time() - time.perf_counter()
            planned, sent = connection.planned + shift, connection.sent + shift
            outcome.answers.append(Answer(connection.number, planned, sent, done + shift, body))
    else:
        outcome.failed(str(status))
