"""What is served beats its parts: the mixture's order is not below that of any retriever by itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import config as configs
from service.config import Config
from service.evaluation.progressive import SERVED, TopN
from service.evaluation.replay import replay

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"
EXAMPLE = ROOT / "examples" / "ml100k.toml"
MAX_LOSS = 0.002
"""Hit rate that may be lost to the best part: less than one standard error here."""

ROWS = 3000
"""Of a cut of a stream."""
LEARNERS = ("statistics", "negatives", "retrievers", "ranker", "adapters", "rerankers")
Stream = Callable[[Path], dict[str, Any]]
"""Writes a cut of a stream into a folder; returns the sections ``stream`` and ``reward`` of a config that reads it."""


def learners_of(example: str) -> dict[str, Any]:
    config = configs.load(ROOT / "examples" / f"{example}.toml")
    return {name: getattr(config, name) for name in LEARNERS}


def served(config: Config, file: Path, batch_rows: int) -> dict[str, TopN]:
    stream = config.stream.model_copy(update={"url": f"file:{file}", "batch_rows": batch_rows})
    return replay(config.model_copy(update={"stream": stream})).top_n


def check(found: dict[str, TopN]) -> None:
    parts = {name: top.hit_rate for name, top in found.items() if name != SERVED}
    assert found[SERVED].hit_rate >= max(parts.values()) - MAX_LOSS, (found[SERVED].hit_rate, parts)


def chains(path: Path) -> Path:
    """Users walk along chains of items, in order: what comes next is known, and nothing is popular."""
    rng = np.random.default_rng(0)
    chain, at = rng.integers(0, 20, 150), np.zeros(150, np.int64)
    lines = []
    for n in range(4000):
        user = int(rng.integers(0, 150))
        if at[user] == 30:
            continue
        lines.append(f"{user}\t{chain[user] * 30 + at[user]}\t5\t{1_000_000 + n}\n")
        at[user] += 1
    path.write_text("".join(lines))
    return path


def fashions(path: Path) -> Path:
    """All users like what is in fashion: five items at a time, which change every 100 ratings."""
    rng = np.random.default_rng(0)
    rows = [(int(rng.integers(0, 900)), n // 100 * 5 + int(rng.integers(0, 5)), n) for n in range(4000)]
    path.write_text("".join(f"{user}\t{item}\t5\t{1_000_000 + 60 * n}\n" for user, item, n in rows))
    return path


@pytest.mark.parametrize(("world", "best"), [(chains, {"item_knn", "transitions"}), (fashions, {"trending"})])
def test_it_finds_out_which_part_is_right(world, best: set[str], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = served(configs.load(EXAMPLE), world(tmp_path / "u.data"), 4)
    parts = {name: top.hit_rate for name, top in found.items() if name != SERVED}
    assert max(parts, key=lambda name: parts[name]) in best
    check(found)


def by_time(lines: list[str], column: int, separator: str) -> list[str]:
    return sorted(lines, key=lambda line: float(line.split(separator)[column]))


def movielens(folder: Path) -> dict[str, Any]:
    """First of the ratings of MovieLens 100K."""
    rows = by_time((DATA / "ml-100k" / "u.data").read_text().splitlines(), 3, "\t")
    (folder / "u.data").write_text("\n".join(rows[:ROWS]) + "\n")
    return {"stream": {"url": f"file:{folder / 'u.data'}"}, "reward": {"rating": {"at_least": 4.0}}}


def movietweetings(folder: Path) -> dict[str, Any]:
    """First of the ratings of MovieTweetings 100K."""
    rows = by_time((DATA / "movietweetings-100k" / "ratings_100K.dat").read_text().splitlines(), 3, "::")
    (folder / "ratings.dat").write_text("\n".join(rows[:ROWS]) + "\n")
    return {"stream": {"url": f"file:{folder / 'ratings.dat'}"}, "reward": {"rating": {"at_least": 8.0}}}


def lastfm(folder: Path) -> dict[str, Any]:
    """First of the plays of Last.fm."""
    head, *rows = (DATA / "lastfm-2k" / "lastfm.inter").read_text().splitlines()
    (folder / "lastfm.inter").write_text("\n".join([head, *by_time(rows, 3, "\t")[:ROWS]]) + "\n")
    columns = {"user": "user_id", "item": "item_id", "value": "weight", "timestamp_unit": "ms"}
    stream = {"url": f"file:{folder / 'lastfm.inter'}", "columns": columns}
    return {"stream": stream, "reward": {"rating": {"at_least": 0.0}}}


def mind(folder: Path) -> dict[str, Any]:
    """First of the impressions and clicks of MIND."""
    with (DATA / "mind-cut" / "events.jsonl").open() as file:
        (folder / "events.jsonl").write_text("".join(islice(file, ROWS // 3)))
    stream = {"url": f"file:{folder / 'events.jsonl'}", "format": "events", "kind": "click"}
    return {"stream": stream, "reward": {"click": 1.0}}


@pytest.mark.skipif(not DATA.exists(), reason="the recorded streams are not beside this clone")
@pytest.mark.parametrize("example", ["shop", "demo"])
@pytest.mark.parametrize("stream", [movielens, movietweetings, lastfm, mind])
def test_what_an_example_serves_is_not_below_its_best_part(stream: Stream, example: str, tmp_path: Path) -> None:
    """The example's learners on a cut of a stream; by more than MAX_LOSS and two standard errors of the best part's rate."""
    sections = stream(tmp_path)
    ids = {"user": {"id": "category"}, "item": {"id": "category"}}
    sections["stream"]["batch_rows"] = 16
    found = replay(Config.model_validate({**sections, "features": ids, **learners_of(example)})).top_n
    parts = {name: top.hit_rate for name, top in found.items() if name != SERVED}
    best, tests = max(parts.values()), found[SERVED].tests
    assert tests > 200
    assert found[SERVED].hit_rate >= best - MAX_LOSS - 2 * (best * (1 - best) / tests) ** 0.5, (found[SERVED].hit_rate, parts)


def test_the_containers_serve_what_the_shop_serves() -> None:
    shop, containers = configs.load(ROOT / "examples" / "shop.toml"), configs.load(ROOT / "deploy" / "freshet.toml")
    assert [getattr(shop, part) for part in (*LEARNERS, "policy")] == [
        getattr(containers, part) for part in (*LEARNERS, "policy")
    ]


@pytest.mark.skipif(not DATA.exists(), reason="the recorded streams are not beside this clone")
def test_on_a_cut_of_movielens(tmp_path: Path) -> None:
    rows = sorted((DATA / "ml-100k" / "u.data").read_text().splitlines(), key=lambda line: int(line.split("\t")[3]))
    (tmp_path / "u.data").write_text("\n".join(islice(rows, 12_000)) + "\n")
    check(served(configs.load(EXAMPLE), tmp_path / "u.data", 16))
