"""A restart that cannot continue its history starts a new one, and replicas and the ledger follow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memory import Checkpoint, checkpoint
from service.config import Config, ConfigError
from service.process.data_folder import bind_to_log
from service.process.runtime import build_pipeline, open_runtime
from service.recovery.ledger import Ledger
from service.recovery.recovery import MISSING, UNUSABLE
from service.replication.replica import Replica
from streams.dead_letters import DeadLetters
from streams.lmdb_log import LmdbLog
from streams.log import MemoryLog
from tests.service.conftest import records
from tests.service.replication.test_replica import World, follow, states
from tests.service.running import serving
from tests.worlds import busy_world

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("partitions", [1, 3])
def test_after_a_trim_replicas_and_the_ledger_have_the_new_history(
    partitions: int, make_config: MakeConfig, tmp_path: Path
) -> None:
    world = World(make_config(), tmp_path, partitions)
    first, replica = world.trainer(), world.replica()
    for _ in range(30):
        first.turn()
    first.save()
    for _ in range(10):
        first.turn()
    follow(replica)
    world.events.trim({partition: end - 20 for partition, end in world.events.end().items()})
    back = world.trainer()
    assert back.status()["epoch"] > first.status()["epoch"]
    assert back.failures[MISSING] > 0
    assert len(back.notices) == partitions
    back.drain()
    follow(replica)
    one, other = states(back, replica)
    assert one == other
    assert replica.loads == 2
    back._flush_ledger()
    again = world.trainer(poll=7)  # killed before its next checkpoint: the ledger has the order
    again.drain()
    assert again.digest() == back.digest()
    assert again.status()["epoch"] == back.status()["epoch"]
    assert not again.notices


def test_going_back_to_a_config_while_another_one_published_is_a_new_history(make_config: MakeConfig, tmp_path: Path) -> None:
    """The other config has published a newer epoch. Replicas that saw it would wait for it for ever."""
    world = World(make_config(), tmp_path / "a", partitions=1)
    other = World(make_config(ranker={"fm": {"factors": 2, "bits": 10}}), tmp_path / "b", partitions=1)
    other.events, other.weights = world.events, world.weights
    first = world.trainer()
    for _ in range(30):
        first.turn()
    first.save()
    time.sleep(0.002)  # an epoch is the time in milliseconds
    between = other.trainer()
    between.drain()
    late = world.replica()
    follow(late)
    assert "waiting for a newer checkpoint" in late.notices[-1]
    back = world.trainer()
    assert back.status()["epoch"] > between.status()["epoch"]
    assert not back.notices, "nothing is missing"
    back.drain()
    follow(late)
    one, copy = states(back, late)
    assert one == copy
    assert back.digest() == learned_alone(world)


def learned_alone(world: World) -> str:
    alone = World(world.config, world.folder / "alone", partitions=1)
    alone.events = world.events
    trainer = alone.trainer()
    trainer.drain()
    return trainer.digest()


@pytest.mark.parametrize("how", ["emptied", "of another log"])
def test_a_ledger_that_cannot_be_followed_costs_the_order_and_not_the_state(
    how: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    world = World(make_config(), tmp_path, partitions=3)
    first = world.trainer()
    for _ in range(30):
        first.turn()
    first.save()
    version = first.pipeline.version
    for _ in range(5):
        first.turn()
    first._flush_ledger()
    if how == "emptied":
        Ledger(world.kept).clear()
        says = "keeps offsets"
    else:
        world.kept = MemoryLog()
        wrong = Ledger(world.kept)
        wrong.start(dict.fromkeys(range(3), 0))
        beyond = MemoryLog(3)
        beyond.append(records(list(busy_world(seed=9, length=900))))
        wrong.note(beyond.read(beyond.begin(), 10_000))
        wrong.flush()
        says = "the log lost its tail"
        newest = max(tmp_path.glob("*.safetensors"))
        whole = checkpoint.load(newest)
        checkpoint.save(tmp_path, Checkpoint(whole.version, whole.state, whole.meta | {"ledger": 0}))
    back = world.trainer()
    assert back.pipeline.version == version
    assert back.failures == {"ledger": 1}
    assert says in back.notices[0]
    assert back.status()["epoch"] > first.status()["epoch"]
    back.drain()
    assert back.lag() == 0


def test_a_replica_skips_an_unusable_checkpoint_and_changes_no_file(make_config: MakeConfig, tmp_path: Path) -> None:
    world = World(make_config(), tmp_path, partitions=1)
    trainer = world.trainer()
    trainer.drain()
    path = trainer.save()
    assert path is not None
    replica = Replica(build_pipeline(world.config), lambda: world.weights, tmp_path, "lmdb of somebody else")
    for _ in range(3):
        assert not replica.turn()
    files = sorted(tmp_path.glob("checkpoint-*"))
    assert path in files
    assert all(file.suffix == ".safetensors" for file in files)
    assert replica.failures == {UNUSABLE: len(files)}, "each is counted once"
    assert "log: the checkpoint is of log None, but this log is 'lmdb of somebody else'" in replica.notices[0]
    assert "no checkpoint of this configuration yet" in replica.notices[-1]
    assert replica.loads == 0


def test_a_replica_starts_from_the_newest_usable_checkpoint(make_config: MakeConfig, tmp_path: Path) -> None:
    world = World(make_config(), tmp_path, partitions=1)
    trainer = world.trainer()
    for _ in range(20):
        trainer.turn()
    trainer.save()
    older = trainer.pipeline.version
    trainer.drain()
    whole = trainer.checkpoint()
    del whole.state["items.index.keys"]
    newest = checkpoint.save(tmp_path, whole)
    replica = world.replica()
    replica.turn()
    assert replica.loads == 1
    assert older < replica.pipeline.version < trainer.pipeline.version, "that checkpoint and one change"
    assert newest.name in replica.notices[0]
    follow(replica)
    one, other = states(trainer, replica)
    assert one == other


def test_a_log_made_anew_is_folded_and_its_bad_records_are_reported(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path / "data", checkpoint={"folder": str(tmp_path / "state")})

    def life(letters: list[bytes]) -> tuple[list[bytes], dict[str, int], str]:
        runtime = open_runtime(config)
        if letters:
            runtime.log.append([*((b"", letter) for letter in letters), *records(list(busy_world(seed=1, length=40)))])
        trainer = runtime.updater
        trainer.restore()
        while trainer.turn():
            pass
        trainer.save()
        found = [letter.value for letter in runtime.dead.read()], trainer.gauges()["failures"], "\n".join(trainer.notices)
        trainer.close()
        runtime._held.close()
        return found

    assert life([b"bad"]) == ([b"bad"], {}, "")
    assert life([]) == ([b"bad"], {}, "")
    for file in (tmp_path / "data" / "events").iterdir():
        file.unlink()
    letters, failures, notices = life([b"worse"])
    assert letters == [b"bad", b"worse"], "the same partition and offset, but of another log"
    assert failures[UNUSABLE] >= 1
    assert "log: the checkpoint is of log 'lmdb " in notices
    assert life([]) == ([b"bad", b"worse"], {}, "")


def test_a_folder_is_the_one_of_its_log_however_often_that_is_made_anew(tmp_path: Path) -> None:
    assert bind_to_log(tmp_path, "topic 1") == bind_to_log(tmp_path, "topic 1") == 0
    before = time.time()
    since = bind_to_log(tmp_path, "topic 2")
    assert before <= since <= time.time()
    assert bind_to_log(tmp_path, "topic 2") == since
    with pytest.raises(ConfigError, match="belong to the topic 'topic 2', and this one is 'other 2'"):
        bind_to_log(tmp_path, "other 2")
    (tmp_path / "stream").write_text("")  # the disk was full
    assert bind_to_log(tmp_path, "other 2") == 0


def test_letters_of_another_log_are_not_reported_ones() -> None:
    letters = DeadLetters(MemoryLog())
    letters.put("not_json", "?", b"x", source="log", partition=0, offset=9)
    assert letters.reported("log") == {0: 9}
    letters.since = time.time() + 1
    assert letters.reported("log") == {}


def test_a_log_on_disk_keeps_its_identity(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log")
    identity = log.identity
    assert identity is not None
    assert identity.startswith("lmdb ")
    log.append([(b"", b"1")])
    log.close()
    assert LmdbLog(tmp_path / "log").identity == identity
    assert LmdbLog(tmp_path / "other").identity != identity


@pytest.mark.anyio
async def test_an_operator_sees_what_is_missing(make_config: MakeConfig, tmp_path: Path) -> None:
    """A log was trimmed under another config: the service is ready, and reports and counts what its state lacks."""
    config = make_config(tmp_path / "data")
    async with serving(config) as service:
        service.runtime.log.append(records(list(busy_world(seed=1, length=40))))
        await service.learned()
    log = LmdbLog(tmp_path / "data" / "events")
    log.append(records(list(busy_world(seed=2, length=40))))
    begin = log.end()[0] - 10
    log.trim({0: begin})
    log.close()
    async with serving(config) as service:
        while (await service.send("GET", "/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        (notice,) = (await service.send("GET", "/v1/status")).json()["notices"]
        assert f"the log begins at record {begin}, but the checkpoint continues at record" in notice
        assert 'freshet_failures_total{what="records_missing"}' in (await service.send("GET", "/metrics")).text
