"""A recommender without a server answers what the service answers, and goes on where it was saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import freshet
from service.config import Config
from streams.events import Event, Interaction, ItemUpdate, UserUpdate
from tests.service.running import click, serving

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {"ranker": {"bias": {}}, "retrievers": {"popularity": {"capacity": 100}}}


def shop(count: int = 60) -> list[Event]:
    """Two tribes that click what has their colour."""
    rng = np.random.default_rng(1)
    items: list[Event] = [
        ItemUpdate(item=f"i{n}", attributes={"colour": "rb"[n % 2], "price": float(n)}, timestamp=1.0) for n in range(10)
    ]
    users: list[Event] = [UserUpdate(user=f"u{n}", attributes={"tribe": "rb"[n % 2]}, timestamp=1.0) for n in range(8)]
    clicks: list[Event] = []
    for n in range(count):
        user = int(rng.integers(8))
        clicks.append(Interaction(id=f"c{n}", user=f"u{user}", item=f"i{2 * rng.integers(5) + user % 2}", timestamp=10.0 + n))
    return [*items, *users, *clicks]


@pytest.mark.anyio
async def test_it_answers_what_the_service_of_the_log_answers(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path / "data", statistics={})
    async with serving(config) as service:
        await service.post("/v1/events", [_posted(one) for one in shop()])
        await service.learned()
        for n in range(12):
            shown = await service.recommend(f"u{n % 8}", n=3, context={"device": "phone"})
            chosen = shown["items"][n % 3]["item"]
            await service.post("/v1/events", click(f"u{n % 8}", chosen, id=f"s{n}", request_id=shown["request_id"]))
        await service.impressions(12)
        await service.learned()
        expected = service.runtime.updater.digest(), service.runtime.pipeline.version
        users, items = ("u1", "u2", "stranger"), ["i1", "i4", "i6"]
        found = [await service.recommend(user, n=4, seed=3, log=False) for user in users]
        given = [await service.post("/v1/rank", {"user": user, "items": items, "seed": 3, "log": False}) for user in users]
    recommender = freshet.Recommender(config).learn(f"lmdb://{tmp_path / 'data'}")
    assert (recommender.digest, recommender.version) == expected
    for user, recommended, ranked in zip(users, found, given, strict=True):
        for answer, own in (
            (recommended, recommender.recommend(user, 4, seed=3)),
            (ranked.json(), recommender.rank(user, items, seed=3)),
        ):
            # ReLoop2 weighs earlier rows by their age, and time has passed.
            assert own == [(one["item"], pytest.approx(one["score"], rel=1e-3)) for one in answer["items"]]


def _posted(event: Event) -> dict[str, Any]:
    import msgspec

    return msgspec.json.decode(freshet.encode(event))


def test_learning_a_table_leads_to_the_state_of_its_replay(make_config: MakeConfig) -> None:
    rng = np.random.default_rng(2)
    table = pa.table(
        {
            "user": rng.integers(0, 9, 100),
            "item": rng.integers(0, 9, 100),
            "timestamp": 1e9 + np.arange(100.0),
            "value": rng.integers(1, 6, 100),
        }
    )
    columns = {"value": "value"}
    config = make_config(negatives={})
    assert (
        freshet.Recommender(config).learn(table, columns=columns).digest
        == freshet.replay(table, config, columns=columns).digest
    )


def test_the_next_ranking_knows_what_was_learned() -> None:
    recommender = freshet.Recommender(SMALL)
    recommender.learn({"type": "interaction", "user": "ann", "item": "tea"})
    assert recommender.recommend("bob").items == ["tea"]
    recommender.learn(freshet.Interaction(user="bob", item="cup"))
    assert recommender.recommend("bob").items == ["tea"], "not what he has touched"
    assert recommender.recommend("cem", exclude=["tea"]).items == ["cup"]


def test_only_a_logged_ranking_teaches() -> None:
    recommender = freshet.Recommender(SMALL).learn(freshet.ItemUpdate(item=name) for name in ("tea", "cup"))
    before = recommender.digest
    recommender.recommend("ann")
    assert recommender.digest == before
    shown = recommender.recommend("ann", log=True)
    assert set(shown.items) == {"tea", "cup"}
    recommender.learn({"type": "interaction", "user": "ann", "item": "tea", "request_id": shown.request_id})
    later = freshet.Interaction(user="bob", item="jug", timestamp=shown_at(recommender) + 59.0)
    recommender.learn(later)
    # The window of 600 s has not passed: the cup is not refused yet.
    scores = dict(recommender.rank("cem", ["tea", "cup"]))
    assert scores["tea"] > scores["cup"]


def shown_at(recommender: freshet.Recommender) -> float:
    return recommender._time


def test_forgetting_a_user_deletes_what_was_learned_of_them() -> None:
    recommender = freshet.Recommender(SMALL).learn(shop())
    assert recommender.recommend("u1", 100).items != recommender.recommend("u1", 100, repeat=True).items
    recommender.forget("u1")
    assert recommender.recommend("u1", 100).items == recommender.recommend("u1", 100, repeat=True).items


def test_a_saved_recommender_goes_on_as_if_it_had_never_stopped(make_config: MakeConfig, tmp_path: Path) -> None:
    events = shop()
    config = make_config(statistics={})
    recommender = freshet.Recommender(config).learn(events[:40])
    shown = recommender.recommend("u1", 3, log=True)
    folder = recommender.save(tmp_path / "saved")
    loaded = freshet.Recommender.load(folder)
    assert loaded.config.fingerprint == config.fingerprint
    assert loaded.digest == recommender.digest
    rest = [
        freshet.Interaction(
            id="x", user="u1", item=shown.items[1], request_id=shown.request_id, timestamp=recommender._time + 5
        ),
        # A retry of an event from before, and one that ends the window of the ranking.
        events[39],
        freshet.Interaction(id="y", user="u2", item="i3", timestamp=recommender._time + 25),
    ]
    assert loaded.learn(rest).digest == recommender.learn(rest).digest
    assert loaded.recommend("u1", 5, seed=1) == recommender.recommend("u1", 5, seed=1)


def test_saving_again_keeps_only_the_newest(tmp_path: Path) -> None:
    recommender = freshet.Recommender(SMALL).learn(shop(10))
    recommender.save(tmp_path)
    recommender.learn(freshet.Interaction(user="ann", item="tea")).save(tmp_path)
    assert len(list(tmp_path.glob("recommender-*"))) == len(list((tmp_path / "checkpoints").glob("*"))) == 1
    assert freshet.Recommender.load(tmp_path).digest == recommender.digest
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("recommender-*")} == {0o600}


def test_the_log_in_memory_keeps_only_what_waits() -> None:
    recommender = freshet.Recommender(SMALL | {"stream": {"window": 5.0, "lateness": 5.0}}).learn(shop(5_000))
    begin, end = recommender._log.begin()[0], recommender._log.end()[0]
    assert end > 5_000
    assert end - begin < 50


def test_wrong_events_are_refused_with_their_number_and_nothing_is_learned() -> None:
    recommender = freshet.Recommender(SMALL)
    good = freshet.Interaction(user="ann", item="tea")
    for bad, message in (
        ({"type": "interaction", "user": "ann"}, "event 1: item: missing"),
        ({"type": "interaction", "user": "ann", "item": 3}, "event 1: item: got 3; send text in quotes"),
        (freshet.Interaction(user="ann", item="tea", kind="stare"), r"event 1: kind: 'stare' is not in \[reward\]"),
        (freshet.Interaction(user="ann", item="tea", timestamp=9e9), "event 1: timestamp.*in the future"),
        ({"type": "tick"}, "event 1: type: 'tick' is reserved"),
        ({"type": "interaction", "user": "ann", "item": object()}, "event 1: .*give dicts of JSON values, or events"),
    ):
        with pytest.raises(freshet.BadEvent, match=message):
            recommender.learn([good, bad])
    assert recommender.version == 0


def test_wrong_requests_are_refused_as_by_the_service(tmp_path: Path) -> None:
    recommender = freshet.Recommender(SMALL)
    with pytest.raises(freshet.BadEvent, match="n: got 0; send a whole number >= 1"):
        recommender.recommend("ann", 0)
    with pytest.raises(freshet.Refused, match=r"by: 'fm' is not a configured retriever; use one of \['popularity'\]"):
        recommender.recommend("ann", by="fm")
    with pytest.raises(freshet.BadEvent, match="items: got"):
        recommender.rank("ann", [])
    with pytest.raises(freshet.ConfigError, match=r"\[ranker\]"):
        freshet.Recommender({"ranker": {}})
    with pytest.raises(FileNotFoundError, match="no saved recommender here"):
        freshet.Recommender.load(tmp_path)


def test_bad_rows_of_a_table_are_skipped_counted_and_reported() -> None:
    table = pa.table({"user": ["ann", None, "bob"], "item": ["tea", "tea", "cup"], "timestamp": [1.0, 2.0, 3.0]})
    config = SMALL | {"stream": {"kind": "click"}}
    recommender = freshet.Recommender(config)
    with pytest.warns(UserWarning, match="1 rows or records could not be learned"):
        recommender.learn(table)
    assert sum(recommender.skipped.values()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recommender.learn(table.take([0, 2]))


def test_a_ranking_is_a_list_of_pairs_and_a_table() -> None:
    ranked = freshet.Recommender(SMALL).learn(shop()).recommend("stranger", 3)
    assert [item for item, _ in ranked] == ranked.items == ranked.to_arrow()["item"].to_pylist()
    assert ranked.to_arrow().column_names == ["item", "score", "propensity"]
    assert f"<td>{ranked.items[0]}</td>" in ranked._repr_html_()
    explained = freshet.Recommender(SMALL).learn(shop()).recommend("stranger", 3, explain=True)
    assert explained.response.items[0].reasons is not None


def test_a_past_learned_in_parts_is_learned_whole() -> None:
    """Months lie between the parts, and years between them and today."""
    parts = [
        [Interaction(user=f"u{n}", item="tea", timestamp=1e9 + month * 2.6e6 + n) for n in range(20)] for month in range(3)
    ]
    recommender = freshet.Recommender(SMALL)
    for part in parts:
        recommender.learn(part)
    recommender.learn(Interaction(user="ann", item="tea"))
    assert recommender.skipped == {}
    assert recommender._trainer.reader.counts["interactions"] == 61
    assert recommender._log.end()[0] - recommender._log.begin()[0] <= 2


def test_windows_follow_the_time_of_the_events_and_not_of_today() -> None:
    """Learning a past in many parts takes seconds; its windows have their own minutes."""
    recommender = freshet.Recommender(SMALL | {"stream": {"window": 100.0, "lateness": 10.0}})
    recommender.learn(freshet.Impression(request_id="r", user="ann", items=("tea", "cup"), timestamp=1e9))
    for n in range(90):
        recommender.learn(Interaction(user="bob", item="jug", timestamp=1e9 + n))
    assert recommender._trainer.reader.open_impressions == 1
    for n in range(90, 130, 5):
        recommender.learn(Interaction(user="bob", item="jug", timestamp=1e9 + n))
    assert recommender._trainer.reader.open_impressions == 0
