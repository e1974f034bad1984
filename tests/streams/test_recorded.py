from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.block import Block
from streams.codec import encode
from streams.events import Event, Impression, Interaction, ItemUpdate, Tick, UserUpdate
from streams.recorded import CHUNK, BadRecording, ColumnMap, Recording, open_recording, validate
from tests.streams.recordings import write

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="no folder shared/data next to the checkout")


def flat(recording: Recording) -> list[Event]:
    """All events of a recording, with blocks expanded."""
    return list(expanded(recording.events()))


def expanded(events: Iterator[Event | Block]) -> Iterator[Event]:
    for event in events:
        if isinstance(event, Block):
            yield from event.interactions()
        else:
            yield event


COLUMNS = ColumnMap("u", "i", "t", value="v", kind="k", context=("device", "place"))
TABLE = {
    "u": ["007", "8", "007", "9"],
    "i": ["a", "b", "b", "a"],
    "t": [30, 10, 20, 20],
    "v": [1.5, 2.0, 3.0, 4.0],
    "k": ["click", "buy", "click", "click"],
    "device": ["phone", None, "tv", "phone"],
    "place": [1, 2, None, 4],
}
EVENTS = [
    Interaction(user="8", item="b", kind="buy", value=2.0, timestamp=10.0, context={"place": 2.0}),
    Interaction(user="007", item="b", kind="click", value=3.0, timestamp=20.0, context={"device": "tv"}),
    Interaction(user="9", item="a", kind="click", value=4.0, timestamp=20.0, context={"device": "phone", "place": 4.0}),
    Interaction(user="007", item="a", kind="click", value=1.5, timestamp=30.0, context={"device": "phone", "place": 1.0}),
]


def save(table: dict[str, list[object]], path: Path) -> Path:
    """Write a table in the format of the path's ending."""
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(table), path)
    elif path.suffix == ".jsonl":
        rows = (dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True))
        path.write_text("".join(f"{json.dumps({k: v for k, v in row.items() if v is not None})}\n" for row in rows))
    else:
        separator = "\t" if ".tsv" in path.name else ","
        rows_of_text = [list(table), *zip(*table.values(), strict=True)]
        text = "".join(f"{separator.join('' if c is None else str(c) for c in row)}\n" for row in rows_of_text)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "csv.gz"])
class TestTables:
    def test_rows_become_interactions_in_time_order(self, tmp_path: Path, ending: str) -> None:
        recording = open_recording(save(TABLE, tmp_path / f"t.{ending}"), columns=COLUMNS)
        assert flat(recording) == EVENTS
        assert recording.out_of_order == 1
        assert flat(recording) == EVENTS

    def test_sorted_files_keep_their_order_and_count_what_goes_back(self, tmp_path: Path, ending: str) -> None:
        recording = open_recording(save(TABLE, tmp_path / f"t.{ending}"), columns=COLUMNS, sorted=True)
        assert flat(recording) == [EVENTS[3], *EVENTS[:3]]
        assert recording.out_of_order == 1

    def test_without_a_time_column_row_order_is_time(self, tmp_path: Path, ending: str) -> None:
        path = save({"user": ["a", "b"], "item": ["x", "x"]}, tmp_path / f"t.{ending}")
        recording = open_recording(path, columns=ColumnMap(timestamp=None), kind="view")
        assert flat(recording) == [
            Interaction(user="a", item="x", kind="view", timestamp=1.0),
            Interaction(user="b", item="x", kind="view", timestamp=2.0),
        ]

    def test_a_missing_column_is_refused_with_the_names_of_the_others(self, tmp_path: Path, ending: str) -> None:
        path = save({"userid": ["a"], "item": ["x"], "time": [1]}, tmp_path / f"t.{ending}")
        with pytest.raises(
            BadRecording, match=r"no column 'user'; did you mean 'userid'\? it has 'userid', 'item', 'time'"
        ) as bad:
            open_recording(path, columns=ColumnMap(timestamp="time"))
        assert (bad.value.path, bad.value.column) == (path, "user")

    def test_attributes_on_rows_become_updates_where_they_are_new_or_changed(self, tmp_path: Path, ending: str) -> None:
        rows = 3 * CHUNK
        n = np.arange(rows)
        table: dict[str, list[object]] = {
            "user": [f"u{k}" for k in (n % 3).tolist()],
            "item": ["x"] * rows,
            "timestamp": (n + 1).tolist(),
            # User 0 stays; user 1 changes in the second chunk; user 2 changes within the first chunk, seen in the second.
            "plan": [("free" if k % 3 == 0 or (k < CHUNK and not (k % 3 == 2 and k > 100)) else "paid") for k in n.tolist()],
            "price": (1.0 + (n >= 2 * CHUNK)).tolist(),
        }
        columns = ColumnMap(user_attributes=("plan",), item_attributes=("price",))
        recording = open_recording(save(table, tmp_path / f"t.{ending}"), columns=columns, sorted=ending != "parquet")
        updates: list[Event] = []
        blocks, rows_before = 0, 0
        for event in recording.events():
            if isinstance(event, Block):
                blocks, rows_before = blocks + 1, rows_before + event.rows
            else:
                updates.append(event)
                assert event.timestamp > rows_before
        assert rows_before == rows
        found = [(update.user, update.attributes["plan"]) for update in updates if isinstance(update, UserUpdate)]
        assert found[:3] == [("u0", "free"), ("u1", "free"), ("u2", "free")]
        assert sorted(found[3:]) == [("u1", "paid"), ("u2", "paid")]
        prices = [update.attributes["price"] for update in updates if isinstance(update, ItemUpdate)]
        assert prices == [1.0, 2.0]


class TestParquet:
    def test_types_of_columns_are_used(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        table = pa.table(
            {
                "user": pa.array([10**15, 7, None], pa.int64()),
                "item": pa.array([1.0, 2.0, 2.5]),
                "timestamp": pa.array([2_000_000, 1_000_000, 0], pa.timestamp("us", "UTC")),
                "shown": pa.array(["3", "4", None]).dictionary_encode(),
                "new": pa.array([True, None, False]),
                "genres": pa.array([["a", "b"], [], None]),
            }
        )
        pa.parquet.write_table(table, path)
        recording = open_recording(path, columns=ColumnMap(context=("shown", "new"), item_attributes=("genres",)), kind="click")
        assert recording.rows == 3
        assert flat(recording) == [
            ItemUpdate(item="2", timestamp=1.0),
            ItemUpdate(item="1", attributes={"genres": ["a", "b"]}, timestamp=2.0),
            Interaction(user="7", item="2", timestamp=1.0, context={"shown": "4"}),
            Interaction(user="1000000000000000", item="1", timestamp=2.0, context={"shown": "3", "new": "true"}),
        ]
        assert dict(recording.dead.counts) == {"no_user": 1}

    def test_a_column_of_an_unusable_type_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pa.parquet.write_table(pa.table({"user": ["a"], "item": ["x"], "timestamp": [{"a": 1}]}), path)
        with pytest.raises(BadRecording, match=r"column 'timestamp' is of type struct.*; map a column of text or numbers"):
            flat(open_recording(path))


class TestSideTables:
    def test_users_and_items_of_tables(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", "user,item,timestamp\na,x,5\n")
        users = write(tmp_path / "u.tsv", "name\tage\tcity\na\t30\tRome\n\t31\tOslo\n")
        items = tmp_path / "i.parquet"
        pa.parquet.write_table(pa.table({"tags": [["p", "q"]], "item": [3]}), items)
        recording = open_recording(path, users=str(users), items=items, kind="click")
        assert flat(recording) == [
            UserUpdate(user="a", attributes={"age": 30.0, "city": "Rome"}, timestamp=5.0),
            ItemUpdate(item="3", attributes={"tags": ["p", "q"]}, timestamp=5.0),
            Interaction(user="a", item="x", timestamp=5.0),
        ]
        assert [letter.reason for letter in recording.dead.read()] == ["row 3: name: empty is missing, or over 256 characters"]

    def test_rows_add_to_the_attributes_of_the_side_file(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", "user,item,timestamp,plan\na,x,5,paid\n")
        users = write(tmp_path / "u.csv", "user,age\na,30\n")
        first, second, _ = flat(open_recording(path, columns=ColumnMap(user_attributes=("plan",)), users=users))
        assert first == UserUpdate(user="a", attributes={"age": 30.0}, timestamp=5.0)
        assert second == UserUpdate(user="a", attributes={"age": 30.0, "plan": "paid"}, timestamp=5.0)


class TestEvents:
    sent = (
        UserUpdate(user="a", attributes={"age": 3.0}),
        Impression(request_id="r", user="a", items=("x", "y"), timestamp=20.0),
        Interaction(user="a", item="x", request_id="r"),
        Interaction(user="b", item="x", timestamp=10.0),
        Tick(timestamp=30.0),
    )

    def path(self, folder: Path) -> Path:
        lines = [encode(event).decode() for event in self.sent]
        return write(folder / "e.jsonl", "\n".join([lines[0], "{broken", "", '{"type":"tick","at":1}', *lines[1:]]))

    def test_native_events_come_in_time_order(self, tmp_path: Path) -> None:
        recording = open_recording(self.path(tmp_path))
        user, impression, click, early, tick = self.sent
        assert recording.format == "events"
        assert list(recording.events()) == [user, early, impression, click, tick]
        assert [(letter.offset, letter.kind) for letter in recording.dead.read()] == [(2, "not_json"), (4, "not_an_event")]
        assert "at: not a field of tick" in recording.dead.read()[1].reason

    def test_sorted_keeps_the_order_of_the_file(self, tmp_path: Path) -> None:
        recording = open_recording(self.path(tmp_path), sorted=True)
        assert tuple(recording.events()) == self.sent
        assert recording.out_of_order == 1

    def test_they_need_no_columns(self, tmp_path: Path) -> None:
        with pytest.raises(BadRecording, match="events need no columns"):
            open_recording(self.path(tmp_path), format="events", columns=ColumnMap())

    def test_strict(self, tmp_path: Path) -> None:
        with pytest.raises(BadRecording, match="row 2: event:"):
            list(open_recording(self.path(tmp_path), strict=True).events())


def test_json_lines_can_mix_types_and_be_broken(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        '{"user": 1, "item": "x", "timestamp": 1, "tags": ["a"]}\nnot json\n'
        '{"user": "b", "item": 2, "timestamp": 2.5}\n{"user": {"id": 1}, "item": "x", "timestamp": 3}\n',
    )
    recording = open_recording(path, columns=ColumnMap(item_attributes=("tags",)), kind="click")
    assert flat(recording) == [
        ItemUpdate(item="x", attributes={"tags": ["a"]}, timestamp=1.0),
        ItemUpdate(item="2", timestamp=2.5),
        Interaction(user="1", item="x", timestamp=1.0),
        Interaction(user="b", item="2", timestamp=2.5),
    ]
    assert [(letter.offset, letter.kind) for letter in recording.dead.read()] == [(2, "not_json"), (4, "bad_cell")]


cells = st.tuples(
    st.sampled_from(["a", "b", "ünïcode", "007", ' "quoted", '[1:-1]]),
    st.sampled_from(["x", "y", "1"]),
    st.integers(0, 5),
    st.floats(-5, 5, width=16),
    st.sampled_from(["phone", "", "1"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(cells, min_size=1, max_size=30), st.booleans())
def test_every_format_gives_the_same_events(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int, float, str]], in_order: bool
) -> None:
    folder = tmp_path_factory.mktemp("story")
    names = ["user", "item", "timestamp", "value", "device"]
    table = pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
    pa.parquet.write_table(table, folder / "t.parquet")
    pa.csv.write_csv(table, folder / "t.csv")
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    events = [
        {"type": "interaction", "user": u, "item": i, "timestamp": t, "value": v, "kind": "rating"} for u, i, t, v, _ in rows
    ]
    (folder / "e.jsonl").write_text("\n".join(json.dumps(event) for event in events))
    columns = ColumnMap(value="value")
    expected = list(expanded(open_recording(folder / "e.jsonl", sorted=True).events()))
    if not in_order:
        expected.sort(key=lambda event: event.timestamp)
    for name in ("t.parquet", "t.csv", "t.jsonl"):
        assert flat(open_recording(folder / name, columns=columns, sorted=in_order)) == expected


def test_blocks_of_one_table_share_their_names(tmp_path: Path) -> None:
    rows = CHUNK + 10
    table = pa.table({"user": [f"u{n % 7}" for n in range(rows)], "item": ["x"] * rows, "timestamp": np.arange(rows) + 1})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    first, second = open_recording(tmp_path / "t.parquet").events()
    assert isinstance(first, Block)
    assert isinstance(second, Block)
    assert (first.rows, second.rows) == (CHUNK, 10)
    assert first.user.names is second.user.names


class TestValidate:
    def test_it_reports_contents_and_bad_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", "user,item,timestamp,k\na,x,9,click\nb,y,5,buy\nb,x,bad,buy\na,z,6,click\n")
        users = write(tmp_path / "u.csv", "user,age\na,3\nc,4\n")
        report = validate(open_recording(path, columns=ColumnMap(kind="k"), users=users))
        assert report.as_dict() == {
            "path": str(path),
            "format": "csv",
            "rows": 3,
            "events": {"user": 2},
            "users": 2,
            "items": 3,
            "kinds": {"click": 2, "buy": 1},
            "start": 5.0,
            "end": 9.0,
            "out_of_order": 1,
            "bad": {"bad_timestamp": 1},
            "warnings": [],
            "examples": {"bad_timestamp": ["t.csv row 4: timestamp: 'bad' is not a time"]},
            "unknown_users": 1,
            "unknown_items": None,
        }

    def test_events(self, tmp_path: Path) -> None:
        report = validate(open_recording(TestEvents().path(tmp_path)))
        assert (report.rows, report.events, report.kinds) == (2, {"user": 1, "impression": 1, "tick": 1}, {"click": 2})
        assert report.bad == {"not_json": 1, "not_an_event": 1}


@needs_data
class TestRealData:
    def test_movielens_100k(self) -> None:
        report = validate(open_recording(DATA / "ml-100k"))
        assert (report.rows, report.users, report.items, report.bad) == (100_000, 943, 1_682, {})
        assert (report.start, report.end) == (874724710.0, 893286638.0)
        assert (report.unknown_users, report.unknown_items) == (0, 0)
        assert report.events == {"user": 943, "item": 1_682}

    def test_movietweetings(self) -> None:
        report = validate(open_recording(DATA / "movietweetings-100k" / "ratings_100K.dat"))
        assert (report.rows, report.users, report.items, report.bad) == (100_000, 16_554, 10_506, {})
        assert report.unknown_items == 0

    def test_open_bandit(self) -> None:
        folder = DATA / "obd-small" / "random" / "men"
        columns = ColumnMap("user_feature_0", "item_id", value="click", context=("position", "propensity_score"))
        recording = open_recording(folder / "men.csv", columns=columns, items=folder / "item_context.csv", kind="shown")
        report = validate(recording)
        assert (report.rows, report.items, report.bad, report.unknown_items) == (10_000, 34, {}, 0)
        block = next(event for event in recording.events() if isinstance(event, Block))
        position = block.context["position"]
        assert isinstance(position, np.ndarray)
        assert set(position.tolist()) == {1.0, 2.0, 3.0}
