"""What is served beats its parts: the mixture's order is not below that of any retriever by itself."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

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


@pytest.mark.skipif(not DATA.exists(), reason="the recorded streams are not beside this clone")
def test_on_a_cut_of_movielens(tmp_path: Path) -> None:
    rows = sorted((DATA / "ml-100k" / "u.data").read_text().splitlines(), key=lambda line: int(line.split("\t")[3]))
    (tmp_path / "u.data").write_text("\n".join(islice(rows, 12_000)) + "\n")
    check(served(configs.load(EXAMPLE), tmp_path / "u.data", 16))
