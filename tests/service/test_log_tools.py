"""``freshet log info | trim | copy``, on a log of 100 records."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memory import checkpoint as checkpoints
from memory.checkpoint import Checkpoint
from service.config import ConfigError
from service.log_tools.commands import app
from service.process.data_folder import FolderBusy, become_writer
from streams.lmdb_log import LmdbLog


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a log of 100 records, and one of dead letters."""
    log = LmdbLog(tmp_path / "shop" / "events")
    log.append([(b"key", b"value %d " % n + b"." * 300) for n in range(100)])
    log.close()
    LmdbLog(tmp_path / "shop" / "dead").close()
    return tmp_path / "shop"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code
    return result.output


def info(folder: Path, code: int = 0) -> dict[str, Any]:
    found = json.loads(run("info", folder, "--json", code=code).partition("\n]")[0] + "]")
    return next(one for one in found if one["path"].endswith("events"))


def damage(folder: Path) -> None:
    file = folder / "events" / "data.mdb"
    file.write_bytes(file.read_bytes().replace(b"value 47 ", b"value 48 "))


def begin(folder: Path) -> int:
    log = LmdbLog(folder / "events", readonly=True)
    found = log.begin()[0]
    log.close()
    return found


def test_info_shows_offsets_times_bytes_and_checksums(folder: Path) -> None:
    text = run("info", folder)
    assert "events" in text and "dead" in text and "0 to 100" in text and "right" in text
    found = info(folder)
    assert found["identity"].startswith("lmdb ")
    assert 30_000 < found["used_bytes"] <= found["file_bytes"] == (folder / "events" / "data.mdb").stat().st_size
    (partition,) = found["partitions"].values()
    assert (partition["begin"], partition["end"], partition["damaged"]) == (0, 100, [])
    assert time.time() - 60 < partition["first"] <= partition["last"] <= time.time()
    damage(folder)
    assert info(folder, code=5)["partitions"]["0"]["damaged"] == [47]
    assert "record 47 of partition 0 is damaged" in run("info", folder, code=5)
    assert "not verified" in run("info", folder, "--no-verify")


def test_info_shows_the_retention_of_a_config(folder: Path) -> None:
    config = folder.parent / "shop.toml"
    none = "retention: none; events are kept until the log is full"
    for retain, said in (("", none), ("retain = 5\n", "retention: 5 records before")):
        config.write_text(f'[stream]\nurl = "lmdb://{folder}"\n{retain}')
        assert said in run("info", "--config", config)


def test_trim_deletes_up_to_an_offset_or_an_age(folder: Path) -> None:
    assert "30 records deleted" in run("trim", folder, "--before", 30)
    assert begin(folder) == 30
    assert "0 records deleted" in run("trim", folder, "--older-than", 1)
    assert "70 records deleted" in run("trim", f"lmdb://{folder}", "--older-than", 0)
    assert begin(folder) == 100
    with pytest.raises(ConfigError, match="give one of the two"):
        run("trim", folder)


def test_trim_keeps_what_the_newest_checkpoint_needs(folder: Path) -> None:
    log = LmdbLog(folder / "events", readonly=True)
    meta = {"log": log.identity, "positions": {"0": {"next": 60, "rewind": 20}}}
    log.close()
    checkpoints.save(folder / "checkpoints" / "f", Checkpoint(5, {}, meta))
    assert "20 records deleted; records from {0: 20} on are needed" in run("trim", folder, "--before", 90)
    assert begin(folder) == 20
    assert "70 records deleted" in run("trim", folder, "--before", 90, "--force")


def test_trim_is_refused_while_a_service_runs(folder: Path) -> None:
    with become_writer(folder), pytest.raises(FolderBusy, match="already writes here"):
        run("trim", folder, "--before", 1)


def test_a_copy_is_compact_whole_and_the_same_log(folder: Path) -> None:
    run("trim", folder, "--before", 60)
    assert "40 records" in run("copy", folder, folder.parent / "copy")
    logs = [LmdbLog(path, readonly=True) for path in (folder / "events", folder.parent / "copy")]
    assert logs[0].identity == logs[1].identity
    assert logs[0].read({0: 60}, 100) == logs[1].read({0: 60}, 100)
    assert logs[1].nbytes < logs[0].nbytes
    for log in logs:
        log.close()
    with pytest.raises(FileExistsError, match="not empty"):
        run("copy", folder, folder.parent / "copy")


def test_a_damaged_log_is_copied_only_with_salvage(folder: Path) -> None:
    damage(folder)
    target = folder.parent / "copy"
    with pytest.raises(OSError, match=r"1 records are damaged, the first is record 47 of partition 0; copy the others"):
        run("copy", folder, target)
    assert not target.exists()
    run("copy", "--salvage", folder, target)
    log = LmdbLog(target, readonly=True)
    values = [record.value for record in log.read({0: 0}, 200)]
    log.close()
    assert [n for n, value in enumerate(values) if not value.startswith(b"value %d " % n)] == [47]
    assert values[47] == b""
