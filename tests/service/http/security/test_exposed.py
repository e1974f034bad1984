"""A service that other machines reach has keys, or says that it has none."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from service.http.server import is_loopback
from tests.service.processes import DEADLINE, command, environment, serving
from tests.worlds import SMALL


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "127.1", "localhost", "::1", "::ffff:127.0.0.1"])
def test_addresses_of_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "0", "::", "10.0.0.5", "169.254.1.1", "fe80::1", "::ffff:10.0.0.5"])
def test_addresses_that_others_reach(host: str) -> None:
    assert not is_loopback(host)


def test_a_name_counts_by_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"inside": ["127.0.0.1", "::1"], "both": ["127.0.0.1", "10.0.0.5"]}

    def found(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if host not in names:
            raise socket.gaierror
        return [(0, 0, 0, "", (address, 0)) for address in names[host]]

    monkeypatch.setattr("service.http.server.socket.getaddrinfo", found)
    assert is_loopback("inside") and not is_loopback("both") and not is_loopback("unknown")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment() | variables, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


@pytest.mark.parametrize("role", [["serve"], ["train"], ["serve", "--replica"]])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_keys_no_service_starts_where_others_reach_it(tmp_path: Path, role: list[str], host: str) -> None:
    config = tmp_path / "a.toml"
    config.write_text(f'[stream]\nurl = "lmdb://{tmp_path}/data"\n[weights]\nurl = "lmdb://{tmp_path}/data"\n{SMALL}')
    done = run(*role, "--config", str(config), "--host", host, "--port", "0")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"config: [server] host = '{host}': other machines reach this address, and there are no keys; make one with "
        "`freshet key new`, or serve everyone with --insecure"
    ]
    assert not (tmp_path / "data").exists(), "nothing was opened"


def test_a_file_of_keys_that_is_wrong_stops_the_start_on_loopback_too(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text(f'[server]\nkeys = "{tmp_path}/keys"\n{SMALL}')
    done = run("serve", "--config", str(config), "--port", "0")
    assert done.returncode == 2 and "keys'" in done.stderr and "freshet key new" in done.stderr
    assert run("serve", "--port", "0", FRESHET_API_KEYS="nonsense").returncode == 2


def test_a_service_with_keys_serves_others_and_writes_no_key_anywhere(tmp_path: Path) -> None:
    config, file = tmp_path / "a.toml", tmp_path / "keys"
    made = run("key", "new", "--name", "shop", "--scope", "read", "--scope", "metrics", "--file", str(file))
    key = made.stdout.strip()
    assert made.returncode == 0 and len(made.stdout.split()) == 1 and key not in made.stderr
    config.write_text(f'[stream]\nurl = "lmdb://{tmp_path}/data"\n[server]\nkeys = "{file}"\n{SMALL}')
    with serving(config, tmp_path, "serve", "--host", "0.0.0.0") as service:
        url = service.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(f"{url}/v1/recommend", json={"user": "u"}).status_code == 401
        with httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=DEADLINE) as client:
            answer = client.post("/v1/recommend", json={"user": "u"})
            assert answer.status_code == 200 and "server" not in answer.headers
            assert client.get("/v1/status").status_code == 403
            assert 'freshet_denied_total{reason="missing"} 1.0' in client.get("/metrics").text
        assert httpx.get(f"{url}/healthz").status_code == 200
        service.stop()
        assert key not in service.said() and "Traceback" not in service.said()
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes(), path


def test_insecure_serves_everyone_and_says_so(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text(SMALL)
    with serving(config, tmp_path, "serve", "--host", "0.0.0.0", "--insecure") as service:
        assert httpx.get(service.url.replace("0.0.0.0", "127.0.0.1") + "/v1/status").status_code == 200
        assert "there are no keys: everyone who reaches 0.0.0.0 may read, write and erase everything" in service.said()


def test_the_command_prints_a_key_and_its_entry_once(tmp_path: Path) -> None:
    done = run("key", "new", "--name", "ops", "--scope", "admin")
    key, entry = done.stdout.splitlines()
    assert key.startswith("freshet_") and entry.startswith("ops admin sha256:")
    assert run("key", "new", "--name", "ops", "--scope", "root").returncode == 2
