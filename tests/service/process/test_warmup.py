"""Ready means ready: everything is compiled and loaded before, and the state is unchanged."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from learners.rankers.fm import FactorizationMachine
from learners.retrievers.popularity import Popularity
from memory import jit
from service import config as configs
from service.config import Config
from service.process.runtime import open_runtime
from service.process.warmup import _Compiling, warm_up
from tests.service.processes import DEADLINE, ROOT, Process, command, environment, serving, settle

OWN_LOG = """
[stream]
url = "lmdb://{folder}"
window = 0.5
lateness = 0.5
"""
CONFIGS = [
    "",
    *("demo", "shop", "diag_linucb", "losse_ftl", "reloop2", "deep", "dsl", "sar", "sequential", "ml100k", "open_bandit"),
]


def compiled(process: Process) -> int:
    """How many compiled functions the process has, whether it compiled them or found them in the cache."""
    text = httpx.get(f"{process.url}/metrics", timeout=DEADLINE).raise_for_status().text
    return int(float(re.search(r"^freshet_compiled_functions (\S+)$", text, re.MULTILINE)[1]))  # type: ignore[index]


def with_own_log(name: str, folder: Path) -> Path:
    """An example, or the defaults, with a log of its own and a short window."""
    sections = (ROOT / "examples" / f"{name}.toml").read_text() if name else ""
    kept = [part for part in sections.split("\n[") if not part.lstrip("[").startswith("stream")]
    path = folder / f"{name or 'default'}.toml"
    path.write_text("\n[".join([OWN_LOG.format(folder=folder / "data"), *(part.lstrip("[") for part in kept[1:])]))
    return path


def everything(process: Process) -> None:
    """Rank, recommend and learn, with single items and with many; every request succeeds."""
    described = {"category": "a", "tags": ["x", "y"], "brand": "b", "price": 2.5, "genres": ["z"], "item_feature_1": "c"}
    items = [{"type": "item", "item": f"i{n}", "attributes": described} for n in range(30)]
    users = [{"type": "user", "user": f"u{n}", "attributes": {"segment": "s", "country": "NL"}} for n in range(9)]
    with httpx.Client(base_url=process.url, timeout=DEADLINE) as client:

        def post(path: str, body: object) -> dict[str, object]:
            answer = client.post(path, json=body)
            assert answer.status_code in (200, 202), answer.text
            return answer.json()

        post("/v1/rank", {"user": "u1", "items": ["i1"]})
        post("/v1/events", [*items, *users])
        kind = "rating" if any(name in process.errors.name for name in ("ml100k", "sequential")) else "click"
        post("/v1/events", {"type": "interaction", "user": "u1", "item": "i1", "kind": kind, "value": 5.0})
        for n in range(12):
            post("/v1/rank", {"user": f"u{n}", "items": [f"i{n}" for n in range(20)], "context": {"device": "phone"}})
            shown = post("/v1/recommend", {"user": f"u{n}", "n": 8, "explain": True, "context": {"device": "phone"}})
            clicks = [
                {"type": "interaction", "request_id": shown["request_id"], "user": f"u{n}", "item": place["item"], "kind": kind}
                for place in shown["items"][: n % 4]
            ]
            post("/v1/events", [click | {"value": 5.0} for click in clicks] or [{"type": "forget", "user": "u1"}])
        settle(client)
        post("/v1/recommend", {"user": "u3", "n": 8, "explain": True})
        client.get("/metrics").raise_for_status()


def test_each_combination_of_types_is_counted() -> None:
    before = jit.specializations()
    function = jit.njit(cache=False)(lambda x: x + 1)
    for number in (1, 2, 1.0):
        function(number)
    assert jit.specializations() == before + 2


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_compiled_or_loaded_after_ready(name: str, tmp_path: Path) -> None:
    with serving(with_own_log(name, tmp_path), tmp_path) as process:
        before = compiled(process)
        assert before > 5
        everything(process)
        assert compiled(process) == before
        assert process.stop() in (0, -15)


def test_processes_that_start_together_take_turns_and_a_later_one_compiles_nothing(tmp_path: Path) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text('[stream]\nurl = "memory://"\n[retrievers]\n[ranker.bias]\n')
    own = environment() | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    started = [
        subprocess.Popen(command("warmup", "--config", str(config)), env=own, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    logs = [process.communicate(timeout=DEADLINE)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], logs
    assert sum("another process compiles" in text for text in logs) == 1
    counts = sorted(int(text.split("compiled ")[1].split()[0]) for text in logs)
    assert counts[0] <= 2 < counts[1], "the second finds what the first has compiled"
    assert all("compiling the functions of the learners (once for an installation)" in text for text in logs)
    later = subprocess.run(command("warmup", "--config", str(config)), env=own, capture_output=True, text=True)
    assert (later.returncode, later.stderr) == (0, "")


def test_the_state_is_not_touched(make_config: Callable[..., Config]) -> None:
    config = make_config()
    runtime = open_runtime(config)
    runtime.updater.restore()
    before = runtime.updater.digest()
    assert warm_up(config) == []
    assert runtime.updater.digest() == before
    assert runtime.log.end() == {0: 0}
    again = open_runtime(config)
    again.updater.restore()
    assert again.updater.digest() == before, "not even the next one's random numbers"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail(*_: object) -> None:
        raise RuntimeError("no such table")

    monkeypatch.setattr(Popularity, "observe", fail)
    monkeypatch.setattr(FactorizationMachine, "explain", fail)
    yield


@pytest.mark.usefixtures("failing")
def test_a_learner_that_fails_is_named_and_the_service_starts(
    make_config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(retrievers={"popularity": {}}, rerankers={})
    problems = warm_up(config)
    assert any("no such table" in problem for problem in problems)
    assert "warm-up: rank before anything is learned: RuntimeError('no such table')" in caplog.text
    runtime = open_runtime(config)
    runtime.engine.prepare = lambda stopping: warm_up(config, stopping)
    with runtime:
        assert runtime.engine.call(lambda: runtime.updater.role).result(DEADLINE) == "trainer"


def test_it_is_not_ready_before_the_warm_up_and_stop_interrupts_it(make_config: Callable[..., Config]) -> None:
    runtime = open_runtime(make_config())
    begun, steps = threading.Event(), []

    def prepare(stopping: Callable[[], bool]) -> None:
        begun.set()
        while not stopping():
            steps.append(runtime.engine.preparing)
        steps.append(warm_up(runtime.config, stopping))

    runtime.engine.prepare = prepare
    with runtime:
        assert begun.wait(DEADLINE)
        assert runtime.engine.preparing
        assert not runtime.updater.caught_up
    assert steps[-1] == [] and all(steps[:-1])
    assert runtime.engine.failure is None


def test_without_a_cache_folder_the_command_line_works(tmp_path: Path) -> None:
    recording = tmp_path / "t.csv"
    recording.write_text("user,item,timestamp\nu1,i1,1700000000\n")
    # Simulates a user who can write neither the installation nor a home: the only locator left needs NUMBA_CACHE_DIR.
    nowhere = environment() | {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    nowhere.pop("NUMBA_CACHE_DIR", None)
    for arguments in (["--help"], ["validate", str(recording)]):
        ended = subprocess.run(command(*arguments), env=nowhere, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")
    code = "from memory.jit import cache_folder; print(cache_folder())"
    shown = subprocess.run([sys.executable, "-c", code], env=nowhere, capture_output=True, text=True, check=True)
    assert shown.stdout == "None\n"


def test_without_a_cache_the_log_names_the_remedy(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(jit, "cache_folder", lambda: None)
    with caplog.at_level(logging.INFO):
        compiling = _Compiling(lambda: False, held=None)  # type: ignore[arg-type]
        compiling.start("memory.keyed.history.recent")
        compiling.start("memory.keyed.history.append")
    assert caplog.text.count("NUMBA_CACHE_DIR") == 1
    assert compiling.count == 2


def test_every_example_can_be_warmed_up() -> None:
    names = {path.stem for path in (ROOT / "examples").glob("*.toml")}
    assert names - {"clicks"} == set(CONFIGS) - {""}, "clicks has the ranker of ml100k, and nothing else"
    clicks, ratings = (configs.load(ROOT / "examples" / f"{name}.toml") for name in ("clicks", "ml100k"))
    assert clicks.ranker == ratings.ranker and not clicks.retrievers
