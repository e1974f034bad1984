"""A short run of benchmarks/resident_memory.py: what clients can do to it does not take more memory than the service states."""

from __future__ import annotations

import json

import pytest

from benchmarks import resident_memory

MIB = 2**20


def test_resident_memory_stays_within_what_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    resident_memory.main(["--ids", "30000", "--bodies", "100", "--parts", "ids", "bodies"])  # it exits if a part needs more
    parts = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    for part in parts.values():
        assert part["worst"]["resident"] < 1.1 * (part["worst"]["stated"] + resident_memory.BASE)
    # 30,000 users, items and event ids take little beside the tables, which are made for more.
    assert parts["ids"]["end"]["resident"] < parts["ids"]["start"]["resident"] + 128 * MIB
    # 100 bodies of 4 MB are more than max_bodies: those beyond it were refused.
    held = parts["bodies"]["worst"]["stated"] - parts["bodies"]["start"]["stated"]
    assert 200 * MIB < held < 300 * MIB
