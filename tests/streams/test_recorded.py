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

from streams.block import Block, Column
from streams.codec import encode
from streams.events import Event, Impression, Interaction, ItemUpdate, Tick, UserUpdate
from streams.recorded import CHUNK, BadRecording, ColumnMap, Recording, open_recording, validate

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="no folder shared/data next to the checkout")


def flat(recording: Recording) -> list[Event]:
    """Blocks opened up into events."""
    return list(opened(recording.events()))


def opened(events: Iterator[Event | Block]) -> Iterator[Event]:
    for event in events:
        if isinstance(event, Block):
            yield from event.interactions()
        else:
            yield event


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding)
    return path


def rated(user: str, item: str, value: float, timestamp: float, **more: object) -> Interaction:
    return Interaction(user=user, item=item, kind="rating", value=value, timestamp=timestamp, **more)  # type: ignore[arg-type]


class TestBlock:
    block = Block(
        user=Column(np.array([0, 1, 0], np.int32), ["a", "b"]),
        item=Column(np.array([0, 0, 1], np.int32), ["x", "y"]),
        kind=Column(np.array([0, 1, 0], np.int32), ["click", "buy"]),
        value=np.array([1.0, 2.0, 3.0]),
        timestamp=np.array([10.0, 20.0, 30.0]),
        context={"page": Column(np.array([0, -1, 0], np.int32), ["home"]), "place": np.array([1.0, 2.0, np.nan])},
    )
    events = (
        Interaction(user="a", item="x", kind="click", value=1.0, timestamp=10.0, context={"page": "home", "place": 1.0}),
        Interaction(user="b", item="x", kind="buy", value=2.0, timestamp=20.0, context={"place": 2.0}),
        Interaction(user="a", item="y", kind="click", value=3.0, timestamp=30.0, context={"page": "home"}),
    )

    def test_rows_are_events(self) -> None:
        assert self.block.rows == 3
        assert tuple(self.block.interactions()) == self.events

    def test_a_slice_is_a_view_of_the_same_rows(self) -> None:
        cut = self.block.slice(1, 3)
        assert tuple(cut.interactions()) == self.events[1:]
        assert cut.user.names is self.block.user.names
        assert np.shares_memory(cut.value, self.block.value)

    def test_a_row_of_nobody_is_refused(self) -> None:
        nobody = Column(np.array([-1]), ["a"])
        one = np.ones(1)
        with pytest.raises(ValueError, match="a row has user None"):
            list(Block(nobody, Column(np.array([0]), ["x"]), "click", one, one).interactions())


class TestMovielens:
    def test_u_data_with_users_and_films_beside(self, tmp_path: Path) -> None:
        write(tmp_path / "u.data", "2\t10\t4\t300\n1\t10\t3\t100\n1\t11\t5\t200\n")
        write(tmp_path / "u.user", "1|24|M|technician|85711\n2|53|F|other|T8H1N\n")
        flags = "|".join("1" if n in (5, 14) else "0" for n in range(19))
        none = "|".join("0" * 19)
        write(
            tmp_path / "u.item", f"10|Misérables, Les (1995)|01-Feb-1995||http://x|{flags}\n11|unknown||||{none}\n", "latin-1"
        )
        recording = open_recording(tmp_path)
        assert (recording.path.name, recording.format, recording.rows) == ("u.data", "movielens", 3)
        genres = ["Comedy", "Romance"]
        assert flat(recording) == [
            UserUpdate(user="1", attributes={"age": 24.0, "gender": "M", "occupation": "technician"}, timestamp=100.0),
            UserUpdate(user="2", attributes={"age": 53.0, "gender": "F", "occupation": "other"}, timestamp=100.0),
            ItemUpdate(
                item="10", attributes={"title": "Misérables, Les (1995)", "genres": genres, "year": 1995.0}, timestamp=100.0
            ),
            ItemUpdate(item="11", attributes={"title": "unknown", "genres": []}, timestamp=100.0),
            rated("1", "10", 3.0, 100.0),
            rated("1", "11", 5.0, 200.0),
            rated("2", "10", 4.0, 300.0),
        ]

    def test_a_header_in_a_side_file_is_no_user(self, tmp_path: Path) -> None:
        write(tmp_path / "u.data", "1\t10\t3\t100\n")
        write(tmp_path / "u.user", "user|age|gender|occupation|zip\n1|24|M|technician|85711\n")
        assert [event.user for event in flat(open_recording(tmp_path)) if isinstance(event, UserUpdate)] == ["1"]

    def test_double_colons_with_films_of_the_same_ending(self, tmp_path: Path) -> None:
        path = write(tmp_path / "ratings_1.dat", "1::0000007::7::20\n2::0000007::8.5::10\n")
        write(tmp_path / "movies_1.dat", "0000007::Alien: Part 2 (1986)::Horror|Sci-Fi\n0000008::No year::\nbroken\n")
        write(tmp_path / "users_1.dat", "1::18405182\n2::31260677\n")
        recording = open_recording(path)
        assert flat(recording) == [
            UserUpdate(user="1", timestamp=10.0),
            UserUpdate(user="2", timestamp=10.0),
            ItemUpdate(
                item="0000007",
                attributes={"title": "Alien: Part 2", "year": 1986.0, "genres": ["Horror", "Sci-Fi"]},
                timestamp=10.0,
            ),
            ItemUpdate(item="0000008", attributes={"title": "No year", "genres": []}, timestamp=10.0),
            rated("2", "0000007", 8.5, 10.0),
            rated("1", "0000007", 7.0, 20.0),
        ]
        assert dict(recording.dead.counts) == {"bad_attributes": 1}

    def test_csv(self, tmp_path: Path) -> None:
        path = write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,2,4.5,100\n")
        write(tmp_path / "movies.csv", 'movieId,title,genres\n2,"American President, The (1995)",(no genres listed)\n')
        assert flat(open_recording(path)) == [
            ItemUpdate(
                item="2", attributes={"title": "American President, The", "year": 1995.0, "genres": []}, timestamp=100.0
            ),
            rated("1", "2", 4.5, 100.0),
        ]

    def test_side_files_can_be_named_and_left_out(self, tmp_path: Path) -> None:
        path = write(tmp_path / "u.data", "1\t10\t3\t100\n")
        write(tmp_path / "u.user", "1|24|M|technician|85711\n")
        other = write(tmp_path / "other", "1|25|F|writer|0\n")
        assert flat(open_recording(path, users=False)) == [rated("1", "10", 3.0, 100.0)]
        assert flat(open_recording(path, users=other))[0] == UserUpdate(
            user="1", attributes={"age": 25.0, "gender": "F", "occupation": "writer"}, timestamp=100.0
        )
        with pytest.raises(BadRecording, match="missing: no such file"):
            open_recording(path, users=tmp_path / "missing")

    def test_what_is_none_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadRecording, match="no MovieLens file"):
            open_recording(write(tmp_path / "x.dat", "1;2;3;4\n"))
        with pytest.raises(BadRecording, match="those of MovieLens are known"):
            open_recording(write(tmp_path / "u.data", "1\t10\t3\t100\n"), columns=ColumnMap())


class TestRecbole:
    def test_headers_type_the_columns(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "x.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\tday:token\tseconds:float\ttags:token_seq\n"
            "007\tb\t4\t20\t1\t2.5\tx y\n008\tb\t3\t10\t\t\tx\n",
        )
        write(tmp_path / "x.user", "user_id:token\tage:token\theight:float\n007\t25\t1.75\n")
        write(tmp_path / "x.item", "item_id:token\tclass:token_seq\tprice:float\nb\tnew wool\t9\nc\t\t\n")
        assert flat(open_recording(path)) == [
            UserUpdate(user="007", attributes={"age": "25", "height": 1.75}, timestamp=10.0),
            ItemUpdate(item="b", attributes={"class": ["new", "wool"], "price": 9.0}, timestamp=10.0),
            ItemUpdate(item="c", timestamp=10.0),
            rated("008", "b", 3.0, 10.0),
            rated("007", "b", 4.0, 20.0, context={"day": "1", "seconds": 2.5}),
        ]

    def test_label_instead_of_rating_and_no_time(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.inter", "user_id:token\titem_id:token\tlabel:float\n1\tb\t1\n2\tb\t0\n")
        assert flat(open_recording(path, kind="click")) == [
            Interaction(user="1", item="b", value=1.0, timestamp=1.0),
            Interaction(user="2", item="b", value=0.0, timestamp=2.0),
        ]

    def test_columns_can_be_mapped(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.inter", "who:token\twhat:token\twhen:float\n1\tb\t7\n")
        with pytest.raises(BadRecording, match="no column 'user_id'"):
            open_recording(path)
        assert flat(open_recording(path, columns=ColumnMap("who", "what", "when"))) == [rated("1", "b", 1.0, 7.0)]

    def test_a_header_without_types_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadRecording, match="header 'user' has no type; write it as user:token"):
            open_recording(write(tmp_path / "x.inter", "user\titem\n1\t2\n"))


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

    def test_a_missing_column_names_what_there_is(self, tmp_path: Path, ending: str) -> None:
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


class TestText:
    def test_bad_rows_are_left_out_with_their_number_and_reason(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "t.csv",
            "user,item,timestamp,stars\n"
            "a,x,1,1\n"
            "a,x,1\n"
            ",x,2,1\n"
            "a,,2,1\n"
            "a,x,soon,1\n"
            "a,x,3,many\n"
            "a,x,4,nan\n"
            "a,x,-5,1\n"
            "a,x,1700000000000,1\n"
            "a,x,5,1,9\n"
            f"{'a' * 257},x,6,1\n"
            "\n"
            "a,x,7,2\n",
        )
        for in_order in (True, False):
            recording = open_recording(path, columns=ColumnMap(value="stars"), sorted=in_order)
            assert flat(recording) == [rated("a", "x", 1.0, 1.0), rated("a", "x", 2.0, 7.0)]
            letters = {letter.offset: letter for letter in recording.dead.read()}
            assert {offset: letter.kind for offset, letter in letters.items()} == {
                3: "wrong_fields",
                4: "no_user",
                5: "no_item",
                6: "bad_timestamp",
                7: "bad_value",
                8: "bad_value",
                9: "bad_timestamp",
                10: "bad_timestamp",
                11: "wrong_fields",
                12: "no_user",
            }
            assert letters[3].reason == "row 3: 3 fields instead of 4"
            assert letters[3].value == b"a,x,1"
            assert letters[7].reason == "row 7: stars: 'many' is no finite number"
            assert json.loads(letters[7].value) == {"user": "a", "item": "x", "timestamp": "3", "stars": "many"}
            assert "(see timestamp_unit)" in letters[10].reason
            assert all(letter.source == str(path) for letter in letters.values())

    def test_strict_ends_at_the_first_bad_row(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", "user,item,timestamp\na,x,1\na,x,soon\n")
        with pytest.raises(BadRecording, match="row 3: timestamp: 'soon' is no time; correct it"):
            flat(open_recording(path, strict=True))

    def test_row_numbers_hold_across_blocks(self, tmp_path: Path) -> None:
        lines = [f"u{n},x,{n}" for n in range(1, 700_001)]
        lines[5], lines[400_000], lines[690_000] = "short", "u,x,bad", "u,x"
        path = write(tmp_path / "t.csv", "user,item,timestamp\n" + "\n".join(lines) + "\n")
        for in_order in (True, False):
            recording = open_recording(path, sorted=in_order)
            assert sum(event.rows for event in recording.events() if isinstance(event, Block)) == 699_997
            assert [letter.offset for letter in recording.dead.read()] in ([7, 400_002, 690_002], [7, 690_002, 400_002])

    @pytest.mark.parametrize(
        ("texts", "unit", "seconds"),
        [
            (["1.5", "2"], "s", [1.5, 2.0]),
            (["1500", "2000"], "ms", [1.5, 2.0]),
            (["2019-11-24 00:03:13.5+00:00", "2019-11-24T01:03:14Z"], "s", [1574553793.5, 1574557394.0]),
            (["2019-11-24 00:03:13", "2019-11-25"], "s", [1574553793.0, 1574640000.0]),
            (["2019-11-24 00:03:13+01:00", "2019-11-25"], "s", [1574550193.0, 1574640000.0]),
            ([" 7 ", "2019-11-25"], "s", [7.0, 1574640000.0]),
        ],
    )
    def test_times_are_numbers_or_dates(self, tmp_path: Path, texts: list[str], unit: str, seconds: list[float]) -> None:
        path = write(tmp_path / "t.csv", "user,item,timestamp\n" + "".join(f"a,x,{text}\n" for text in texts))
        events = flat(open_recording(path, columns=ColumnMap(timestamp_unit=unit)))  # type: ignore[arg-type]
        assert [event.timestamp for event in events] == seconds

    def test_a_unit_of_time_that_is_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match="timestamp_unit: 'min' is no unit; choose one of s, ms, us, ns"):
            ColumnMap(timestamp_unit="min")  # type: ignore[arg-type]

    def test_a_column_is_numbers_only_if_all_its_cells_are(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", "user,item,timestamp,a,b,c\nu,x,1,1,1,\nu,x,2,,no,\nu,x,3,-2e1,3,\n")
        events = flat(open_recording(path, columns=ColumnMap(context=("a", "b", "c"))))
        assert [event.context for event in events if isinstance(event, Interaction)] == [
            {"a": 1.0, "b": "1"},
            {"b": "no"},
            {"a": -20.0, "b": "3"},
        ]

    def test_a_column_of_numbers_stays_one_in_a_stream(self, tmp_path: Path) -> None:
        lines = [f"u,x,{n + 1},{n}" for n in range(900_000)]
        lines[-1] = "u,x,900000,text"
        recording = open_recording(
            write(tmp_path / "t.csv", "user,item,timestamp,a\n" + "\n".join(lines)),
            columns=ColumnMap(context=("a",)),
            sorted=True,
        )
        blocks = [event for event in recording.events() if isinstance(event, Block)]
        assert len(blocks) > 1
        assert all(isinstance(block.context["a"], np.ndarray) for block in blocks)
        assert [letter.reason for letter in recording.dead.read()] == [
            "row 900001: a: 'text' is no number, in a column of numbers"
        ]

    def test_quotes_hold_commas(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", '"user","item",timestamp\n"a,b","say ""x""",1\n')
        assert flat(open_recording(path, kind="click")) == [Interaction(user="a,b", item='say "x"', timestamp=1.0)]

    def test_windows_line_ends_and_byte_order_marks(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", "user,item,timestamp\r\na,x,1\r\n", "utf-8-sig")
        assert flat(open_recording(path, kind="click")) == [Interaction(user="a", item="x", timestamp=1.0)]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.csv", b"", "empty file"),
            ("t.csv", b"user,item,timestamp\n", "not one good row"),
            ("t.csv", b"user,item,timestamp", "no rows"),
            ("t.csv", b"user,item,timestamp\na,x,soon\n", r"not one good row \(row 2: timestamp: 'soon' is no time\)"),
            ("t.csv", b"user,item,timestamp\n\xff\xfe,x,1\n", "not UTF-8.*iconv"),
            ("t.csv", b"\xff\xfe", "its first line is not UTF-8"),
            ("t.csv", b"user,user,item,timestamp\na,a,x,1\n", "two columns 'user'"),
            ("t.xls", b"user,item", "cannot tell its format from its name; say format = one of movielens, recbole, csv"),
            ("t.parquet", b"user,item", "no Parquet file"),
            ("t.dat", b"", "empty file"),
            ("t.inter", b"", "empty file"),
            ("t.jsonl", b"", "empty file"),
            ("t.jsonl", b'{"type": "click"}\n', r"not one good row \(row 1: type: got"),
            ("t.csv.gz", b"user,item,timestamp\na,x,1\n", "cannot be read"),
        ],
    )
    @pytest.mark.parametrize("in_order", [True, False])
    def test_unusable_files_say_why(self, tmp_path: Path, name: str, content: bytes, message: str, in_order: bool) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BadRecording, match=message) as caught:
            flat(open_recording(path, sorted=in_order))
        assert str(caught.value).startswith(f"{path}: ")

    def test_missing_files_and_folders_say_why(self, tmp_path: Path) -> None:
        with pytest.raises(BadRecording, match="no such file"):
            open_recording(tmp_path / "t.csv")
        with pytest.raises(BadRecording, match=r"a folder without u\.data"):
            open_recording(tmp_path)
        write(tmp_path / "u.data", "")
        write(tmp_path / "x.inter", "")
        with pytest.raises(BadRecording, match=r"a folder with u\.data, x\.inter"):
            open_recording(tmp_path)
        with pytest.raises(BadRecording, match="unknown format 'excel'; choose one of"):
            open_recording(tmp_path / "u.data", format="excel")
        with pytest.raises(BadRecording, match="cannot tell the format of a file of users"):
            open_recording(write(tmp_path / "t.csv", "user,item,timestamp\na,x,1\n"), users=tmp_path / "u.xls")


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

    def test_a_column_of_no_use_is_refused(self, tmp_path: Path) -> None:
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

    def test_rows_add_to_what_the_side_file_says(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", "user,item,timestamp,plan\na,x,5,paid\n")
        users = write(tmp_path / "u.csv", "user,age\na,30\n")
        first, second, _ = flat(open_recording(path, columns=ColumnMap(user_attributes=("plan",)), users=users))
        assert first == UserUpdate(user="a", attributes={"age": 30.0}, timestamp=5.0)
        assert second == UserUpdate(user="a", attributes={"age": 30.0, "plan": "paid"}, timestamp=5.0)


class TestEvents:
    told = (
        UserUpdate(user="a", attributes={"age": 3.0}),
        Impression(request_id="r", user="a", items=("x", "y"), timestamp=20.0),
        Interaction(user="a", item="x", request_id="r"),
        Interaction(user="b", item="x", timestamp=10.0),
        Tick(timestamp=30.0),
    )

    def path(self, folder: Path) -> Path:
        lines = [encode(event).decode() for event in self.told]
        return write(folder / "e.jsonl", "\n".join([lines[0], "{broken", "", '{"type":"tick","at":1}', *lines[1:]]))

    def test_native_events_come_in_time_order(self, tmp_path: Path) -> None:
        recording = open_recording(self.path(tmp_path))
        user, impression, click, early, tick = self.told
        assert recording.format == "events"
        assert list(recording.events()) == [user, early, impression, click, tick]
        assert [(letter.offset, letter.kind) for letter in recording.dead.read()] == [(2, "not_json"), (4, "not_an_event")]
        assert "at: not a field of tick" in recording.dead.read()[1].reason

    def test_or_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        recording = open_recording(self.path(tmp_path), sorted=True)
        assert tuple(recording.events()) == self.told
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
def test_every_format_tells_the_same_story(
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
    expected = list(opened(open_recording(folder / "e.jsonl", sorted=True).events()))
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
    def test_it_says_what_is_in_a_file_and_what_is_wrong(self, tmp_path: Path) -> None:
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
            "examples": {"bad_timestamp": ["t.csv row 4: timestamp: 'bad' is no time"]},
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
