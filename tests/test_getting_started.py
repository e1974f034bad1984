"""The page for beginners works as it stands: its files are written and its commands are run, in order."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "getting_started.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until_ready(port: int, service: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        assert service.poll() is None, "the service ended"
        try:
            urllib.request.urlopen(f"http://localhost:{port}/readyz")
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the service is not ready")


def test_the_page_leads_from_a_file_to_a_recommendation(tmp_path: Path) -> None:
    port = free_port()
    command = tmp_path / "bin" / "freshet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m service "$@"\n')
    command.chmod(0o755)
    folders = [str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {"PATH": os.pathsep.join(folders), "PYTHONPATH": str(PAGE.parents[1])}
    service: subprocess.Popen[bytes] | None = None
    output = ""
    try:
        for language, title, text in BLOCK.findall(PAGE.read_text()):
            text = text.replace("8000", str(port)).replace("/tmp/freshet-plays", str(tmp_path / "plays"))
            if title:
                (tmp_path / title).write_text(text)
            elif "pip install" in text:
                continue  # The tests run where it is installed.
            elif text.startswith("freshet serve"):
                service = subprocess.Popen(["sh", "-c", f"exec {text}"], cwd=tmp_path, env=environment)
                wait_until_ready(port, service)
            else:
                assert language == "sh"
                done = subprocess.run(
                    ["sh", "-ec", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0, done.stderr
                output = done.stdout
    finally:
        if service is not None:
            service.send_signal(signal.SIGTERM)
            service.wait(30)
    assert len(json.loads(output)["items"]) == 3
    assert (tmp_path / "out" / "replay.html").exists()
    assert "[ranker.fm]" in (tmp_path / "best.toml").read_text()
