"""The hostile client, a process of its own: ``python -m tests.soak.hostile PORT RATE SEED`` until its input ends.

It sends while the last line of its input is ``go``, and not while it is ``pause``. At the end it writes one line of JSON: how
often each status answered each kind of input, and what was wrong.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress

from tests.soak.inputs import NO_ANSWER, Input, Manner, all_inputs

__all__ = ["Hostile"]

PATIENCE = 30.0
"""Seconds until a request without an answer is a failure."""

HELD = 8.0
"""Seconds for which an unfinished request holds its connection."""

DRIP, PAUSE = 4, 0.05
"""Bytes of a request that drips, and seconds between them."""

MOST = 200
"""Connections at once."""


class Hostile:
    """Sends hostile inputs at a rate, whether they are answered or not.

    Attributes
    ----------
    going : asyncio.Event
        Set while it may send.
    counts : dict of str to Counter
        Statuses of each kind of input.
    problems : list of str
    unreachable : list of (float, float)
        From when to when a request failed without an answer, Unix seconds: right only while the service is down.
    """

    def __init__(self, port: int, rate: float, seed: int) -> None:
        self._port, self._rate, self._rng = port, rate, random.Random(seed)
        self._open = asyncio.Semaphore(MOST)
        self.going = asyncio.Event()
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.problems: list[str] = []
        self.unreachable: list[tuple[float, float]] = []

    async def run(self, done: asyncio.Event) -> None:
        """Send until `done`, then until all have been answered."""
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for one in all_inputs(self._rng):
                with suppress(TimeoutError):
                    await asyncio.wait_for(done.wait(), max(due - time.monotonic(), 0.001))
                if not self.going.is_set():
                    await self.going.wait()
                    due = time.monotonic()
                if done.is_set():
                    break
                due += 1 / self._rate
                await self._open.acquire()
                group.create_task(self._send(one, one.make(self._rng)))

    async def _send(self, one: Input, data: bytes) -> None:
        began = time.time()
        try:
            async with asyncio.timeout(PATIENCE):
                head = await self._answer(one, data)
        except TimeoutError:
            self.problems.append(f"{one.name}: no answer within {PATIENCE:g} s: {data[:500]!r}")
        except OSError:
            self.unreachable.append((began, time.time()))
        else:
            if head or NO_ANSWER in one.statuses:
                self._judge(one, data, head)
            else:
                self.unreachable.append((began, time.time()))
        finally:
            self._open.release()

    async def _answer(self, one: Input, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            if one.manner is Manner.DRIPPING:
                for at in range(0, len(data), DRIP):
                    writer.write(data[at : at + DRIP])
                    await writer.drain()
                    await asyncio.sleep(PAUSE)
            else:
                writer.write(data)
                with suppress(ConnectionError):  # the service may answer and close before it has read everything
                    await writer.drain()
            if one.manner is Manner.UNFINISHED:
                with suppress(TimeoutError):
                    return await asyncio.wait_for(reader.read(1 << 16), HELD)
                return b""
            try:
                return await reader.read(1 << 16)
            except ConnectionError:
                if NO_ANSWER in one.statuses:
                    return b""
                raise
        finally:
            writer.close()

    def _judge(self, one: Input, data: bytes, answer: bytes) -> None:
        first, _, rest = answer.partition(b"\r\n")
        words = first.split()
        status = int(words[1]) if len(words) > 1 and words[1].isdigit() else NO_ANSWER
        self.counts[one.name][str(status)] += 1
        announced = status == 503 and b"retry-after:" in rest.partition(b"\r\n\r\n")[0].lower()
        if status not in one.statuses and not announced and len(self.problems) < 100:
            self.problems.append(f"{one.name}: answered with {status} {rest[-300:]!r}: {data[:500]!r}")


async def main(port: int, rate: float, seed: int) -> None:
    """Run until the input ends."""
    hostile, done, loop = Hostile(port, rate, seed), asyncio.Event(), asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(hostile.going.set if line == "go\n" else hostile.going.clear)

    running = asyncio.create_task(hostile.run(done))
    await asyncio.to_thread(listen)
    done.set()
    hostile.going.set()
    await running
    print(json.dumps({"counts": hostile.counts, "problems": hostile.problems, "unreachable": hostile.unreachable}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
