from __future__ import annotations

import importlib.util
import json
import math
import shlex
import tomllib
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import (
    bandit,
    bandit_stream,
    click_through,
    context_world,
    event_cost,
    feed,
    kafka_ingest,
    learn_throughput,
    lookahead,
    memory_read,
    networks,
    replay_speed,
    scaling,
    serve_open_loop,
    served_list,
    sharded_training,
    shipped_bytes,
    sparse_layers,
    sparse_tables,
    stream,
    tuned,
)
from benchmarks.client import arrivals
from benchmarks.context_models import MODELS

HAS_VW = importlib.util.find_spec("vowpalwabbit") is not None


def metrics_of(
    main: Callable[[list[str]], None], options: str, capsys: pytest.CaptureFixture[str], minimum: float = 0.0
) -> dict[str, Any]:
    """Run a benchmark and return the metrics of its last line: strict JSON, with finite numbers, none below `minimum`."""
    main(shlex.split(options))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=refuse)
    assert {"benchmark", "machine", "python", "versions", "options", "metrics"} == document.keys()
    assert all(math.isfinite(number) and number >= minimum for number in numbers(document["metrics"]))
    metrics: dict[str, Any] = document["metrics"]
    return metrics


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield value


def test_the_stream_is_the_same_each_time_and_in_every_format(tmp_path: Path) -> None:
    clicks, again = stream.make(5000), stream.make(5000)
    for name in ("user", "item", "ctx", "useg", "icat", "label", "timestamp"):
        np.testing.assert_array_equal(getattr(clicks, name), getattr(again, name))
    assert 0.05 < clicks.label.mean() < 0.15
    assert (np.diff(clicks.timestamp) > 0).all()

    columns = {name: getattr(clicks, name) for name in ("user", "item", "ctx", "useg", "icat", "label")}
    np.savez(tmp_path / "clicks.npz", **columns, ts=clicks.timestamp - stream.START)
    read = stream.take(tmp_path / "clicks.npz", 1000)
    np.testing.assert_array_equal(read.item, clicks.item[:1000])
    np.testing.assert_allclose(read.timestamp, clicks.timestamp[:1000])

    stream.write_vw(read, tmp_path / "clicks.vw")
    u, i, s, c, x = (column[0] for column in (read.user, read.item, read.useg, read.icat, read.ctx))
    first = (tmp_path / "clicks.vw").read_text().splitlines()[0]
    assert first == f"{'1' if read.label[0] else '-1'} |u u{u} |i i{i} |s s{s} |c k{c} |x c{x}"


def test_arrivals_have_the_requested_rate() -> None:
    rng = np.random.default_rng(0)
    poisson, uniform = arrivals(1000.0, 10.0, "poisson", rng), arrivals(1000.0, 10.0, "uniform", rng)
    assert poisson.size == uniform.size == 10_000
    assert poisson.max() < 10.0 and uniform.max() < 10.0
    # Gaps of Poisson arrivals have a standard deviation equal to their mean; uniform gaps have none.
    assert np.diff(poisson).std() == pytest.approx(1e-3, rel=0.1)
    assert np.diff(uniform).std() < 1e-9


def test_learn_throughput(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--rounds 1 --rows 3000 --single-rows 50 --river-rows 100 --batches 1 256 --factors 4"
    metrics = metrics_of(learn_throughput.main, sizes, capsys)
    assert all(rate > 0 for rate in numbers(metrics["rates"]))
    assert {"fm 4, batches of 256, score + learn", "fm 4, batches of 1, learn", "bias, batches of 256, score + learn"} <= set(
        metrics["rates"]
    )
    assert "river FMClassifier 10" in metrics["rates"]
    assert any(name.startswith("vw") for name in metrics["rates"]) == HAS_VW
    assert all(pair["low"] <= pair["median"] <= pair["high"] for pair in metrics["ratios"].values())


def test_replay_speed(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(replay_speed.main, "--rounds 1 --rows 20000 --batches 256 --factors 4", capsys)
    parquet, csv = (metrics["quality"][f"freshet {kind}, batches of 256"] for kind in ("parquet", "csv"))
    assert parquet == csv
    assert parquet["auc"] > 0.55
    stages = metrics["stages_ns_per_row"]["freshet csv, batches of 256"]
    assert stages["learn"] > 0 and stages["predict"] > 0 and stages["read and decode"] > 0


@pytest.mark.skipif(not HAS_VW, reason="vowpalwabbit is not installed (extra: peers)")
def test_vw_learns_the_same_rows(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(replay_speed.main, "--rounds 1 --rows 20000 --batches 1024 --factors 4", capsys)
    assert 0.55 < metrics["quality"]["vw sgd"]["auc"] < 0.9
    assert metrics["ratios"]["freshet parquet, batches of 1024 / vw sgd"]["best"] > 0


def test_without_peers_none_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(learn_throughput.main, "--no-peers --rounds 1 --rows 500 --batches 256 --factors 4", capsys)
    assert not any(name.startswith(("vw", "river")) for name in metrics["rates"])


def test_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(tuned.main, "--rows 6000 --trials 3 --rankers fm", capsys)
    assert metrics["found"]["freshet"]["trials"] == 3
    assert all(0.1 < found["rest"] < metrics["guess"] + 0.1 for found in metrics["found"].values())


def test_memory_read(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--rounds 1 --entries 300 2000 --queries 1 30 --neighbours 5 --factors 4 --probes 2 1000"
    metrics = metrics_of(memory_read.main, sizes, capsys)
    for entries in ("300 entries", "2,000 entries"):
        kinds = metrics[entries]
        assert {"flat", "sketch", "ivf, 2 probes", "ivf, 1000 probes"} <= kinds.keys()
        assert kinds["flat"]["recall"] == kinds["ivf, 1000 probes"]["recall"] == 1.0
        assert 0 < kinds["ivf, 2 probes"]["recall"] < 1
        assert all(milliseconds > 0 for kind in kinds.values() for milliseconds in kind["read_ms"].values())


def test_networks(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--rounds 1 --rows 200 --candidates 10 500 --batches 16 64 --rankers fm deep"
    metrics = metrics_of(networks.main, sizes, capsys)
    assert {"fm, cpu", "deep, cpu"} <= metrics.keys()
    for found in metrics.values():
        assert 0 < found["10 candidates, ms"] < found["500 candidates, ms"]
        assert found["rows/s at 16"] > 0 and found["bytes"] > 0


def test_context_world(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(context_world.main, "--seeds 0 --steps 2 --full-steps 2 --users 8", capsys)
    assert len(metrics) == 3 * len(MODELS)
    for found in metrics.values():
        assert found["CE"] == pytest.approx(math.log(120), abs=0.2)  # as good as nothing learned
        assert 0 <= found["NDCG@10"] <= found["HR@10"] <= 1


def test_the_world_keeps_its_law_and_changes_all_favourites_at_half() -> None:
    world = context_world.World(favourite=1.0, changes=True)
    events = world.draw(50, 0, 1)[:, :128]
    for early, late in zip(events[:, :64], events[:, 64:], strict=True):
        assert len(set(early)) <= 10 and len(set(late)) <= 10
        assert not set(early) & set(late)
    events = context_world.World(favourite=0.0, successor=1.0).draw(2, 0, 1)
    assert all(len(set(row)) == 120 for row in events)  # one cycle of all items


def test_event_cost(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(event_cost.main, "--rounds 1 --users 60 --items 40 --waiting 30 --rows 500", capsys)
    assert metrics["state_bytes"] > 0 and len(metrics["events"]) == 15
    for spent in metrics["events"].values():
        assert 0 < spent["longest_cpu_ms"] <= spent["all_cpu_ms"]


def test_serve_open_loop(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--rounds 1 --seconds 1 --rate 20 --candidates 20 --events 200 --post 20 --floor-rate 10 --users 60 --items 40"
    metrics = metrics_of(serve_open_loop.main, f"{sizes} --reloop2 'capacity = 100'", capsys)
    assert metrics["problems"] == []
    assert metrics["modes"].keys() == {"not learning", "not learning, reloop2", "learning", "learning, reloop2"}
    for mode, found in metrics["modes"].items():
        assert found["rank"]["count"] == 20
        assert 0 < found["rank"]["p50_ms"] <= found["rank"]["p99_ms"]
        assert ("learned" in found) == mode.startswith("learning")
        if "learned" in found:
            assert found["learned"]["rows"] == 200
            assert found["learned"]["freshness_ms"]["p99"] > 0
    p99 = {mode: found["rank"]["p99_ms"] for mode, found in metrics["modes"].items()}
    ratio = metrics["ratios"]["p99 learning, reloop2 / learning"]
    assert ratio == pytest.approx(p99["learning, reloop2"] / p99["learning"])


def test_kafka_ingest(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(kafka_ingest.main, "--rounds 1 --rows 3000 --slow-rows 500 --events 2500 --part 1000", capsys)
    assert metrics["problems"] == []
    assert 950 < metrics["event_bytes"] < 1050
    assert all(rate > 0 for rate in numbers(metrics["rates"]))
    assert len(metrics["rates"]) == 4
    assert [part["events"] for part in metrics["memory"]] == [1000, 2000, 2500]
    assert all(part["resident_mb"] > 10 for part in metrics["memory"])


def test_the_bandit_stream_knows_the_best_item() -> None:
    world, again = bandit_stream.make(3000), bandit_stream.make(3000)
    np.testing.assert_array_equal(world.candidates, again.candidates)
    assert world.probability[world.user].mean() == pytest.approx(0.106, abs=0.01)
    assert (world.regret(world.candidates[:, 0]) >= 0).all()
    at = np.arange(3000)
    best = world.candidates[at, np.take_along_axis(world.probability[world.user], world.candidates, axis=1).argmax(axis=1)]
    assert not world.regret(best).any()
    assert not np.array_equal(world.coins(0), world.coins(1))


def test_bandit(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(bandit.main, "--rounds 2 --decisions 6000 --slow-decisions 100 --batch 100", capsys)
    ours = [one for name, one in metrics.items() if name.startswith("Diag-LinUCB")]
    # Random choices have a regret of 2,800.
    assert len(ours) == 5 and all(one["decisions"] == 6000 and 0 < one["regret"] < 2500 for one in ours)
    assert metrics["epsilon-greedy 0.1 on the same statistics"]["decisions"] == 100
    assert any(name.startswith("river") for name in metrics)
    assert any(name.startswith("VW") for name in metrics) == HAS_VW
    assert all(one["decisions_per_cpu_second"] > 0 for one in metrics.values())


def test_bandit_without_peers(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--no-peers --rounds 1 --decisions 500 --slow-decisions 50 --batch 100"
    assert not any(name.startswith(("VW", "river")) for name in metrics_of(bandit.main, options, capsys))


def test_click_through(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--rounds 2 --visits 160 --early 20 --rate 200 --users 30 --items 40"
    metrics = metrics_of(click_through.main, options, capsys, minimum=-1.0)
    # The last phase before the replacement is empty: both early ones fill it.
    phases = ("before", "20 after the shift", "the next 20", "all after the shift", "all after the replacement")
    assert tuple(metrics["phases"]) == phases
    for phase in metrics["phases"].values():
        clicks = {arm: one["mean"] for arm, one in phase["clicks"].items()}
        assert set(clicks) == set(click_through.ARMS) and all(0 < rate < 1 for rate in clicks.values())
        for arm, ahead in phase["ahead"].items():
            assert ahead["mean"] == pytest.approx(clicks["diag_linucb"] - clicks[arm]) and ahead["within"] >= 0
    assert [part["from"] for part in metrics["curve"]] == [0, 20, 40, 60]


def test_feed(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(feed.main, "--rounds 1 --steps 200 --users 30 --arms base H=2 diag_linucb --set first=50", capsys)
    assert all(0 < one["per_step"][0] < 1 and one["per_session"][0] > 0 for one in metrics.values())


def test_the_arms_of_the_feed_differ_in_the_config(tmp_path: Path) -> None:
    options = Namespace(set=["beta=0.5"])
    configs = {arm: tomllib.loads(feed._settings(options, arm, tmp_path)) for arm in feed.ARMS}
    assert all("rerankers" not in configs[arm] for arm in ("base", *feed.BASELINES))
    assert configs["H=3"]["rerankers"]["losse_ftl"]["horizon"] == 3
    assert configs["H=3"]["rerankers"]["losse_ftl"]["beta"] == 0.5
    assert "item_knn" in configs["item_knn"]["retrievers"]


def test_lookahead(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(lookahead.main, "--rounds 1 --requests 3", capsys)
    assert len(metrics) == 6 and all(one["request_ms"] > 0 for one in metrics.values())


def test_click_through_of_a_served_list_beside_a_retriever_in_a_service_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--config examples/shop.toml --arms served popularity --apart --no-repeat --half-life 20 --rounds 1"
    metrics = metrics_of(click_through.main, f"{options} --visits 80 --early 10 --rate 200 --users 30 --items 40", capsys, -1.0)
    clicks = {arm: one["mean"] for arm, one in metrics["phases"]["before"]["clicks"].items()}
    assert clicks.keys() == {"served", "popularity"} and all(0 < rate < 1 for rate in clicks.values())
    assert metrics["phases"]["before"]["ratio"]["popularity"] == pytest.approx(clicks["served"] / clicks["popularity"])


def test_click_through_sets_the_half_life_of_the_config_s_popularity(tmp_path: Path) -> None:
    options = Namespace(config=click_through.EXAMPLE, arms=["served", "popularity", "item_knn"], half_life=7.0)
    added = tomllib.loads(click_through._settings(options, tmp_path))["retrievers"]
    assert added["popularity"] == {"half_life": 7.0} and added["item_knn"] == {} and "diag_linucb" in added
    demo = Namespace(config=click_through.EXAMPLE.with_name("demo.toml"), arms=["served"], half_life=7.0)
    before = tomllib.loads(demo.config.read_text())["retrievers"]
    before["popularity"]["half_life"] = 7.0
    assert tomllib.loads(click_through._settings(demo, tmp_path))["retrievers"] == before
    shop = Namespace(config=click_through.EXAMPLE.with_name("shop.toml"), arms=["served"], half_life=7.0)
    with pytest.raises(ValueError, match="--half-life"):
        click_through._settings(shop, tmp_path)


def test_what_is_shipped_is_counted_by_store(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(shipped_bytes.main, "--rows 600 --change-rows 100", capsys)
    assert metrics.keys() == shipped_bytes.SETUPS.keys()
    for parts in metrics.values():
        total = parts.pop(shipped_bytes.TOTAL)
        assert 0.8 * total < sum(parts.values()) < total, "the stores, and what says which they are"


def test_served_lists_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"{n % 23}\t{n * 7 % 40}\t{3 + n % 3}\t{1_000_000 + 60 * n}\n" for n in range(400))
    (tmp_path / "u.data").write_text(rows)
    metrics = metrics_of(served_list.main, f"{tmp_path / 'u.data'} --loaded 340 --asked 60 --by trending", capsys)
    assert metrics.keys() == {"served", "trending"}
    assert 0 < metrics["served"]["tests"] == metrics["trending"]["tests"] <= 60
    assert all(0 <= order["ndcg"] <= order["hit_rate"] <= 1 for order in metrics.values())


def test_sparse_tables(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--events 6000 --users 100 --items 200 --seeds 0 --arms 'dense 16' 'DSL 0.25, floor .05'"
    metrics = metrics_of(sparse_tables.main, options, capsys)
    assert metrics["dense 16"]["values a user"] == 16
    assert 8 <= metrics["DSL 0.25, floor .05"]["values a user"] <= 16
    assert all(0.045 < one["NDCG@10"] < one["hit rate@10"] < 1 for one in metrics.values()), "0.045 by chance"


def test_sparse_layers(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = metrics_of(sparse_layers.main, "--rounds 1 --widths 128 --densities 0.2 --rows 8", capsys)
    (found,) = metrics.values()
    assert found["forward, dense / sparse"] == pytest.approx(found["forward, dense"] / found["forward, sparse"])
    assert found["both, dense"] > found["forward, dense"] > 0


def test_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--sizes 200 --taught 400 --parts state --retrievers popularity two_tower"
    state = metrics_of(scaling.main, options, capsys)["200"]["state"]
    assert state["recall"] == {"two_tower": 1.0}, "with few items, a request is compared with all"
    assert state["recall_after_a_fifth_changed"] == {"two_tower": 1.0}
    assert state["retrieve_ms"].keys() == {"popularity", "two_tower"}
    assert all(spent > 0 for spent in state["learn_1000_ms"].values())
    assert state["copy"]["longest_cpu_ms"] <= 1000 * state["copy"]["cpu_s"]


def test_sharded_training(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--rounds 1 --rows 6000 --auc-rows 1500 --seeds 1 --ranks 1 2 --learners fm"
    metrics = metrics_of(sharded_training.main, options, capsys, minimum=-1.0)
    (rates,), (of_ranks,) = metrics["rates"].values(), metrics["quality"].values()
    assert rates.keys() == {"trainer", "1 process", "2 processes"}
    (one,), (two,) = rates["1 process"], rates["2 processes"]
    assert one["rows"] == two["rows"] > 0 and one["wall"] > 0 and two["cpu"] > 0
    assert of_ranks["2"]["equal_states"] and 0.4 < of_ranks["1"]["auc"] == of_ranks["2"]["auc"] < 1
