"""The demonstration, as a newcomer runs it: short."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from service import config
from service.demo import demo_config, run_demo
from service.server import bind
from tests.service.processes import DEADLINE, ROOT, command, environment


def test_the_example_says_what_the_demo_does() -> None:
    example = config.load(ROOT / "examples" / "demo.toml")
    built_in = demo_config(Path("/tmp/freshet-demo"))
    assert example == built_in


def test_a_short_demo_ends_by_itself_with_a_summary() -> None:
    ended = subprocess.run(
        command("demo", "--seconds", "8", "--port", "0"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    told = ended.stdout
    assert re.search(r"http://127\.0\.0\.1:\d+/", told)
    visits, shifts = re.search(r"(\d+) visits in \d+ s, tastes shifted (\d+) times", told).groups()
    assert int(visits) > 50 and int(shifts) >= 1
    assert re.search(r"click-through .* fm .* popularity", told)
    for phase in ("before the last shift", "right after it", "at the end"):
        assert re.search(rf"{phase} .*\d+\.\d %.*\d+\.\d %", told), phase
    assert int(re.search(r"rows learned\D*(\d+)", told)[1]) > int(visits)
    assert re.search(r"event to score, p50 / p99 ms\D*\d+\.\d / \d+\.\d", told)


def test_ctrl_c_ends_it_with_a_summary_too(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+") as out:
        process = subprocess.Popen(
            command("demo", "--port", "0"),
            env=environment() | {"PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = None
            until = time.monotonic() + DEADLINE
            while time.monotonic() < until and process.poll() is None:
                found = re.search(r"http://127\.0\.0\.1:\d+", (tmp_path / "out").read_text())
                url = found and found[0]
                if url and httpx.get(f"{url}/metrics").text.count("freshet_click_through{") == 2:
                    break
                time.sleep(0.1)
            assert url, (tmp_path / "out").read_text()
            assert "tastes shifted" not in (tmp_path / "out").read_text()
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the visitors' process as well
            assert process.wait(DEADLINE) == 0, (tmp_path / "out").read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    told = (tmp_path / "out").read_text()
    assert "Traceback" not in told
    assert re.search(r"\d+ visits in", told)


def test_a_taken_port_is_refused_by_name() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(OSError, match="choose another port"):
        run_demo(seconds=1.0, port=taken.getsockname()[1])
