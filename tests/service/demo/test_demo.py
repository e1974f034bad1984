"""The demonstration, as a newcomer runs it: short."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from service import config
from service.demo.demonstration import demo_config, run_demo
from service.http.server import bind
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
    printed = ended.stdout
    assert re.search(r"http://127\.0\.0\.1:\d+/", printed)
    visits, shifts = re.search(r"(\d+) visits in \d+ s, tastes shifted (\d+) times", printed).groups()
    assert int(visits) > 50 and int(shifts) >= 1
    assert re.search(r"click-through .* fm .* popularity .* clicks vs\. popularity", printed)
    for phase in ("before the last shift", "right after it", "at the end"):
        shares = re.search(rf"{phase} \D*(\d+\.\d) %\D*(\d+\.\d) %\D*([+-]\d+) %", printed)
        assert shares, phase
        own, control, lift = map(float, shares.groups())
        # The shares are printed to a tenth of a percent, which limits the precision of their ratio.
        assert lift == pytest.approx(100 * (own / control - 1), abs=1.0 + 20 / control)
    assert re.search(r"recovered after\W+(not yet|\d+ s)", printed)
    assert int(re.search(r"rows learned\D*(\d+)", printed)[1]) > int(visits)
    assert re.search(r"event to score, p50 / p99 ms\D*\d+\.\d / \d+\.\d", printed)


class Demo:
    """A demonstration in a process of its own, whose temporary folders can be looked at."""

    def __init__(self, folder: Path, **more: str) -> None:
        self.folder, self._out = folder, folder / "out"
        own = {"PYTHONUNBUFFERED": "1", "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()
        with self._out.open("w") as out:
            self.process = subprocess.Popen(
                command("demo", "--port", "0"),
                env=environment() | own | more,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._out.read_text()

    def wait_for(self, condition: Callable[[str], bool]) -> str:
        """Wait until it holds of what has been said."""
        until = time.monotonic() + DEADLINE
        while not condition(said := self.said()):
            assert time.monotonic() < until and self.process.poll() is None, said
            time.sleep(0.05)
        return said

    def children(self) -> set[int]:
        """Processes of its session that live, itself excepted."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, _, session = path.read_text().rsplit(")", 1)[1].split()[:4]
                if int(session) == self.process.pid and state != "Z" and int(path.parent.name) != self.process.pid:
                    found.add(int(path.parent.name))
        return found

    def nothing_is_left(self) -> bool:
        """Whether processes and folders are gone, or go within a moment."""
        until = time.monotonic() + DEADLINE
        while self.children() or list((self.folder / "tmp").glob("freshet-demo-*")):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def make(**more: str) -> Demo:
        started.append(Demo(tmp_path, **more))
        return started[-1]

    yield make
    for demo in started:
        demo.kill()


def both_are_served(said: str) -> bool:
    found = re.search(r"http://127\.0\.0\.1:\d+", said)
    return found is not None and httpx.get(f"{found[0]}/metrics").text.count("freshet_click_through{") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("all_of_them", [True, False], ids=["as a terminal does", "the service alone"])
def test_a_signal_ends_it_with_a_summary_and_nothing_left(
    number: signal.Signals, all_of_them: bool, start: Callable[..., Demo]
) -> None:
    demo = start()
    assert "tastes shifted" not in demo.wait_for(both_are_served)
    assert demo.children()
    (os.killpg if all_of_them else os.kill)(demo.process.pid, number)
    assert demo.process.wait(DEADLINE) == 0, demo.said()
    assert "Traceback" not in demo.said()
    assert int(re.search(r"(\d+) visits in", demo.said())[1]) > 0
    assert re.search(r"click-through .* clicks vs\. popularity", demo.said())
    assert demo.nothing_is_left()


def test_a_signal_ends_it_while_it_compiles(tmp_path: Path, start: Callable[..., Demo]) -> None:
    demo = start(NUMBA_CACHE_DIR=str(tmp_path / "numba"))
    demo.wait_for(lambda said: "compiling the functions of the learners" in said and "http://" in said)
    os.killpg(demo.process.pid, signal.SIGTERM)
    assert demo.process.wait(DEADLINE) == 0, demo.said()
    assert "Traceback" not in demo.said()
    assert "0 visits in 0 s" in demo.said()
    assert demo.nothing_is_left()


def test_visitors_clear_up_after_a_service_that_was_killed(start: Callable[..., Demo]) -> None:
    demo = start()
    demo.wait_for(both_are_served)
    demo.process.kill()
    assert demo.process.wait(DEADLINE) == -signal.SIGKILL
    assert demo.nothing_is_left()


def test_a_taken_port_is_refused_by_name() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(OSError, match="choose another port"):
        run_demo(seconds=1.0, port=taken.getsockname()[1])
