"""The service as a process behind a socket."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service.processes import DEADLINE, Process, command, environment, serving, settle
from tests.worlds import SMALL


def written(path: Path, data: Path) -> Path:
    """A config of a service with its log in `data`."""
    path.write_text(f'[stream]\nurl = "lmdb://{data}"\nbatch_rows = 16\n{SMALL}')
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    return written(folder / "service.toml", folder / "data")


@pytest.fixture(scope="module")
def running(config: Path) -> Iterator[Process]:
    with serving(config, config.parent) as process:
        yield process


@pytest.fixture
def client(running: Process) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=DEADLINE, headers={"Content-Type": "application/json"}) as client:
        yield client


def test_events_in_rankings_out(client: httpx.Client) -> None:
    events = [
        {"type": "item", "item": "a", "attributes": {"colour": "red"}},
        {"type": "interaction", "user": "u", "item": "a"},
        {"type": "interaction", "user": "u", "item": ["a"]},
        {"type": "item", "item": "b", "attributes": {"colour": "blue"}},
    ]
    answer = client.post("/v1/events", json=events)
    assert answer.status_code == 207
    assert [result["status"] for result in answer.json()["results"]] == ["accepted", "accepted", "rejected", "accepted"]
    assert client.put("/v1/items/c", json={"attributes": {"colour": "red"}}).json() == {"visible": True}
    ranking = client.post("/v1/recommend", json={"user": "v", "n": 3}).json()
    assert sorted(ranked["item"] for ranked in ranking["items"]) == ["a", "b", "c"]


def test_a_large_body_is_answered_and_the_connection_goes_on(client: httpx.Client) -> None:
    large = client.post("/v1/events", content=b" " * (6 << 20))
    assert large.status_code == 413 and "max_body" in large.json()["error"]

    def parts() -> Iterator[bytes]:
        for _ in range(6):
            yield b" " * (1 << 20)

    assert client.post("/v1/events", content=parts()).status_code == 413
    assert client.get("/healthz").status_code == 200


def test_a_head_of_more_than_16_kib_is_refused_and_others_are_served(client: httpx.Client) -> None:
    with httpx.Client(base_url=client.base_url, timeout=DEADLINE) as greedy:
        assert greedy.get("/healthz", headers={"X-Filler": "x" * 15_000}).status_code == 200
        answer = greedy.get("/healthz", headers={"X-Filler": "x" * 16_384})
        assert answer.status_code == 431 and "max_head = 16384" in answer.json()["error"]
        assert greedy.get("/v1/items/" + "x" * 16_384).status_code == 414
    assert client.get("/healthz").status_code == 200
    refused = client.get("/metrics").text
    assert 'freshet_refused_total{status="431"} 1.0' in refused and 'freshet_refused_total{status="414"} 1.0' in refused


def test_the_live_stream_sends_the_history_and_then_each_second(client: httpx.Client) -> None:
    received = []
    with client.stream("GET", "/v1/live") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            if line.startswith("data: "):
                received.append((kind, json.loads(line.removeprefix("data: "))))
            if len(received) == 3:
                break
    assert [kind for kind, _ in received] == ["history", "sample", "sample"]
    assert {"time", "events", "learn_rate", "freshness", "learners", "sources", "marks"} <= received[1][1].keys()


def test_a_second_writer_and_a_taken_port_are_refused_by_name(running: Process, config: Path, tmp_path: Path) -> None:
    second = subprocess.run(
        command("serve", "--config", str(config), "--port", "0"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert second.returncode == 4
    assert str(running.process.pid) in second.stderr and "already writes" in second.stderr
    assert "Traceback" not in second.stderr
    port = running.url.rsplit(":", 1)[1]
    other = written(tmp_path / "other.toml", tmp_path / "data")
    taken = subprocess.run(
        command("serve", "--config", str(other), "--port", port),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert taken.returncode == 5
    assert f"port {port}" in taken.stderr and "choose another port" in taken.stderr
    assert "Traceback" not in taken.stderr


def test_it_stops_cleanly_and_resumes(tmp_path: Path) -> None:
    config = written(tmp_path / "service.toml", tmp_path / "data")
    with serving(config, tmp_path) as running, httpx.Client(base_url=running.url, timeout=DEADLINE) as other:
        assert other.put("/v1/items/c", json={"attributes": {"colour": "red"}}).json() == {"visible": True}
        other.post("/v1/events", json=[{"type": "interaction", "user": "u", "item": "c"}]).raise_for_status()
        before = settle(other)
        with httpx.Client(base_url=running.url, timeout=DEADLINE) as client, client.stream("GET", "/v1/live") as stream:
            next(stream.iter_lines())
            assert other.post("/v1/recommend", json={"user": "u"}).status_code == 200
            assert running.stop() in (0, -15), running.said()
    assert "Traceback" not in running.said() and "rror" not in running.said()
    with serving(config, tmp_path) as again, httpx.Client(base_url=again.url, timeout=DEADLINE) as client:
        after = client.get("/v1/status?digest=1").json()
        assert after["version"] >= before["version"] > 0
        assert after["items"] == before["items"] == 1
        assert client.get("/v1/items/c").json()["attributes"] == {"colour": "red"}
