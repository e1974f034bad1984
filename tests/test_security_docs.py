"""The commands of docs/security.md work in the order in which they stand there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from service import config as configs
from tests.worlds import SMALL

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "security.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the config of the page, and with `freshet` on the path."""
    program = tmp_path / "bin" / "freshet"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from service.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    (tmp_path / "shop.toml").write_text(blocks("toml")[0] + SMALL)
    return tmp_path


def test_its_commands_make_keys_serve_with_them_and_replace_one(folder: Path) -> None:
    made, served, replaced = blocks("sh")
    port = str(free_port())
    served = served.replace("localhost:8000", f"localhost:{port}").replace("--host", f"--port {port} --host")
    script = f"set -eu\n{made}\ntrap 'kill $!' EXIT\n{served}\nOLD=$(cat shop.key)\n{replaced}\nsleep 2\n"
    ask = f"curl -s localhost:{port}/v1/recommend -H 'Content-Type: application/json' -o /dev/null -w '%{{http_code}} '"
    ask += """ -d '{"user": "ann"}'"""
    script += f'{ask} -H "X-API-Key: $OLD"\n{ask} -H "X-API-Key: $(cat shop-2.key)"\n{ask}\n'
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"request_id"') == 2, "a key is taken in both headers"
    assert "freshet_learned_rows_total" in done.stdout
    assert done.stdout.endswith("401 200 401 ")
    for file in folder.glob("*.key"):
        assert file.read_text().strip() not in (folder / "keys").read_text() + done.stderr
    assert (folder / "keys").stat().st_mode & 0o777 == 0o600


def test_its_configs_are_accepted_and_name_the_proxys_host(tmp_path: Path) -> None:
    for n, text in enumerate(blocks("toml")):
        (tmp_path / f"{n}.toml").write_text(text)
        assert configs.load(tmp_path / f"{n}.toml").server.keys == "keys"
    (host,) = configs.load(tmp_path / "1.toml").server.hosts
    assert f"{host} {{" in blocks("caddyfile")[0] and f"server_name {host};" in blocks("nginx")[0]


def test_the_limits_of_the_proxies_are_those_of_the_service() -> None:
    limit = configs.parse({}).server.max_body
    assert limit == 4 << 20
    assert "max_size 4MB" in blocks("caddyfile")[0] and "client_max_body_size 4m;" in blocks("nginx")[0]


def test_it_names_every_route_that_a_scope_allows() -> None:
    rows = {row.split("|")[1].strip(" `"): row for row in TEXT.splitlines() if row.startswith("| `")}
    for scope, names in (
        ("read", ["rank", "recommend", "/docs"]),
        ("metrics", ["/metrics"]),
        ("admin", ["/v1/status", "forget"]),
    ):
        assert all(f"`{name}`" in rows[scope].split("|")[2] for name in names), scope
    assert "`POST /v1/events`" in rows["write"]
