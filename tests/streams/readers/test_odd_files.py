"""Odd files: what other tools write, what cuts and other encodings leave, each read or named with a remedy."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from streams.events import Event, ItemUpdate
from streams.readers.mapping import Admission
from streams.recorded import BadRecording, ColumnMap, open_recording, validate
from tests.streams.recordings import flat, rated, write

NONE = ColumnMap(timestamp=None)
HEADER = "user,item,timestamp\n"


def test_hash_and_question_mark_and_other_signs_are_part_of_a_name(tmp_path: Path) -> None:
    for name in ("a#1.csv", "a?1.csv", "a%20b.csv", "[x].csv", "a b;c.csv", "ä.csv", "-.csv", "caf\udce9.csv"):
        path = tmp_path / name
        path.write_text(f"{HEADER}u,i,5\n")
        assert flat(open_recording(path)) == [rated("u", "i", 1.0, 5.0)]
    pa.parquet.write_table(pa.table({"user": ["u"], "item": ["i"], "timestamp": [5]}), tmp_path / "p#?.parquet")
    (tmp_path / "p#?.parquet").rename(tmp_path / "p\udce9.parquet")
    assert flat(open_recording(tmp_path / "p\udce9.parquet")) == [rated("u", "i", 1.0, 5.0)]


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_that_was_cut_is_named(tmp_path: Path, ending: str, in_order: bool) -> None:
    draw = random.Random(1)
    rows = [(f"u{draw.randrange(9999)}", f"i{draw.randrange(999)}", 1_700_000_000 + n) for n in range(60_000)]
    lines = {
        "csv": HEADER + "".join(f"{u},{i},{t}\n" for u, i, t in rows),
        "jsonl": "".join(f'{{"type":"interaction","user":"{u}","item":"{i}","timestamp":{t}}}\n' for u, i, t in rows),
    }
    whole = gzip.compress(lines[ending].encode())
    path = tmp_path / f"t.{ending}.gz"
    for size in (len(whole) // 2, 40, 12):
        path.write_bytes(whole[:size])
        with pytest.raises(BadRecording, match=r"t\.\w+\.gz: .*whole"):
            list(open_recording(path, sorted=in_order).events())


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_other_line_ends_and_a_byte_order_mark(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"user,item,timestamp{ends}u,i,5{ends}v,j,6{ends}".encode())
    assert flat(open_recording(path)) == [rated("u", "i", 1.0, 5.0), rated("v", "j", 1.0, 6.0)]


@pytest.mark.parametrize("in_order", [True, False])
def test_line_ends_in_quotes_at_any_size(tmp_path: Path, in_order: bool) -> None:
    rows, note = 3_000, "a line\nand another " * 200  # 11 MB: the file is read in parts of 8 MiB
    text = '"u\nser",item,timestamp,note\n' + "".join(f'"u\n{n}",i,{n + 1},"{note}"\n' for n in range(rows))
    found = flat(open_recording(write(tmp_path / "t.csv", text), columns=ColumnMap(user="u\nser"), sorted=in_order))
    assert found == [rated(f"u\n{n}", "i", 1.0, n + 1.0) for n in range(rows)]


@pytest.mark.parametrize("in_order", [True, False])
def test_a_cell_in_latin_1_costs_its_row_and_an_encoding_reads_it(tmp_path: Path, in_order: bool) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(HEADER.encode() + b"u,caf\xe9,1\nu,a,2\n\xff,b,3\nu,c\nu,d,5\n")
    recording = open_recording(path, sorted=in_order)
    assert [event.item for event in flat(recording)] == ["a", "d"]  # type: ignore[union-attr]
    assert recording.dead.counts == {"not_utf8": 2, "wrong_fields": 1}
    reasons = [letter.reason for letter in recording.dead.read(9) if letter.kind == "not_utf8"]
    assert sorted(reason[:20] for reason in reasons) == ["row 2: item: b'caf\\x", "row 4: user: b'\\xff'"]
    assert all('encoding = "latin-1"' in reason for reason in reasons)
    latin = open_recording(path, encoding="latin-1", sorted=in_order)
    assert [(event.user, event.item) for event in flat(latin)] == [  # type: ignore[union-attr]
        ("u", "café"), ("u", "a"), ("ÿ", "b"), ("u", "d"),
    ]  # fmt: skip


def test_utf_16_needs_its_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(f"{HEADER}u,ï,5\n".encode("utf-16"))
    with pytest.raises(BadRecording, match='set encoding = "utf-16"'):
        open_recording(path)
    assert flat(open_recording(path, encoding="utf-16")) == [rated("u", "ï", 1.0, 5.0)]
    lines = tmp_path / "t.jsonl"
    lines.write_bytes('{"user": "u", "item": "ï", "timestamp": 5}\n'.encode("utf-16"))
    assert flat(open_recording(lines, columns=ColumnMap(), encoding="utf-16")) == [rated("u", "ï", 1.0, 5.0)]


def test_text_in_parquet_that_is_not_utf_8(tmp_path: Path) -> None:
    latin = pa.array([b"caf\xe9", b"a", b"a"]).view(pa.binary()).cast(pa.binary())
    for name, column in (("plain", latin.view(pa.string())), ("bytes", latin)):
        path = tmp_path / f"{name}.parquet"
        pa.parquet.write_table(pa.table({"user": ["u", "v", "w"], "item": column, "timestamp": [1, 2, 3]}), path)
        recording = open_recording(path)
        assert [event.user for event in flat(recording)] == ["v", "w"]  # type: ignore[union-attr]
        assert [letter.reason[:12] for letter in recording.dead.read(9)] == ["row 1: item:"]


def test_files_without_a_header_are_told_and_read(tmp_path: Path) -> None:
    path = write(tmp_path / "UserBehavior.csv", "1,2268318,2520377,pv,1511544070\n1,2333346,2520771,cart,1511561733\n")
    with pytest.raises(BadRecording, match="no header line, set header = false"):
        open_recording(path)
    numbered = ColumnMap("1", "2", "5", kind="4")
    named = ("user", "item", "category", "kind", "timestamp")
    for found in (
        open_recording(path, columns=numbered, header=False),
        open_recording(path, columns=ColumnMap(kind="kind"), header=named),
    ):
        assert [(e.user, e.item, e.kind, e.timestamp) for e in flat(found)] == [  # type: ignore[union-attr]
            ("1", "2268318", "pv", 1511544070.0),
            ("1", "2333346", "cart", 1511561733.0),
        ]
    with pytest.raises(BadRecording, match="5 columns, but 2 names"):
        open_recording(path, header=("user", "item"))
    with pytest.raises(BadRecording, match="header is given, but it is for csv and tsv"):
        open_recording(write(tmp_path / "t.jsonl", "{}"), columns=ColumnMap(), header=False)


def test_a_table_without_times_says_how_to_say_so(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "user,item,label\nu,i,1\nu,j,0\n")
    with pytest.raises(BadRecording, match=r"no column 'timestamp'.*timestamp = false"):
        open_recording(path)
    assert flat(open_recording(path, columns=ColumnMap(timestamp=None, value="label"))) == [
        rated("u", "i", 1.0, 1.0),
        rated("u", "j", 0.0, 2.0),
    ]


def test_a_rating_or_a_label_is_the_value_unless_columns_are_given(tmp_path: Path) -> None:
    text = "user,item,timestamp,{}\nu,i,1,5\n"
    for name in ("rating", "label"):
        path = write(tmp_path / "t.csv", text.format(name))
        assert flat(open_recording(path)) == [rated("u", "i", 5.0, 1.0)]
        assert flat(open_recording(path, columns=ColumnMap())) == [rated("u", "i", 1.0, 1.0)]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.large_string())]
)
@pytest.mark.parametrize("column", ["ids", "times", "tags"])
def test_every_kind_of_text_in_parquet(tmp_path: Path, kind: Any, column: str) -> None:
    cells: dict[str, Any] = {"user": ["u"], "item": ["i"], "timestamp": [7], "tag": ["01"]}
    name = {"ids": "user", "times": "timestamp", "tags": "tag"}[column]
    cells[name] = pa.array(["1970-01-01 00:00:07 UTC" if name == "timestamp" else cells[name][0]]).cast(
        pa.string() if pa.types.is_dictionary(kind) else kind
    )
    if pa.types.is_dictionary(kind):
        cells[name] = cells[name].dictionary_encode().cast(pa.dictionary(pa.int32(), pa.large_string()))
    pa.parquet.write_table(pa.table(cells), tmp_path / "t.parquet")
    columns = ColumnMap(item_attributes=("tag",))
    found = flat(open_recording(tmp_path / "t.parquet", columns=columns, text={"item": frozenset({"tag"})}))
    assert found == [ItemUpdate(item="i", attributes={"tag": "01"}, timestamp=7.0), rated("u", "i", 1.0, 7.0)]


@pytest.mark.parametrize("ids", [[1.0, float("nan"), 3.0, None], [1.0, float("inf"), 3.0, float("-inf")]])
def test_a_number_that_is_none_is_no_id(tmp_path: Path, ids: list[float | None]) -> None:
    table = pa.table({"user": pa.array(ids), "item": [1, 2, 3, 4], "timestamp": [1, 2, 3, 4]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    report = validate(open_recording(tmp_path / "t.parquet"))
    assert (report.rows, report.bad) == (2, {"no_user": 2})


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.int64()), pa.struct({"a": pa.int8()})]
)
@pytest.mark.parametrize("name", ["user", "item", "k", "device"])
def test_lists_are_no_ids(tmp_path: Path, kind: Any, name: str) -> None:
    cells: dict[str, Any] = {"user": ["u"], "item": ["i"], "k": ["k"], "device": ["d"], "timestamp": [1]}
    value: dict[Any, Any] = {pa.struct({"a": pa.int8()}): {"a": 1}, pa.list_(pa.int64()): [1]}
    cells[name] = pa.array([value.get(kind, ["a"])], kind)
    pa.parquet.write_table(pa.table(cells), tmp_path / "t.parquet")
    recording = open_recording(tmp_path / "t.parquet", columns=ColumnMap(kind="k", context=("device",)))
    with pytest.raises(BadRecording, match=f"column '{name}' is of type .*map a column of text or numbers"):
        flat(recording)


def test_null_in_a_list_costs_that_entry(tmp_path: Path) -> None:
    tags: list[list[str | None] | None] = [["a", None, "b"], ["c"], None, [None]]
    columns = ColumnMap(item_attributes=("tags",))
    table = pa.table({"user": ["u"] * 4, "item": list("ijkl"), "timestamp": [1, 2, 3, 4], "tags": pa.array(tags)})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    lines = [
        json.dumps({"user": "u", "item": item, "timestamp": time, "tags": tag})
        for item, time, tag in zip("ijkl", range(1, 5), tags, strict=True)
    ]
    write(tmp_path / "t.jsonl", "\n".join(lines))
    for name in ("t.parquet", "t.jsonl"):
        updates = [event for event in flat(open_recording(tmp_path / name, columns=columns)) if isinstance(event, ItemUpdate)]
        assert [update.attributes.get("tags") for update in updates] == [["a", "b"], ["c"], None, None]


def test_digits_of_text_stay(tmp_path: Path) -> None:
    cells = ["2103807459595387724", "2103807459595387725", "01234", "1234", "1e5", "1.0", "NA", "null", "true", "nan"]
    body = "".join(f"u,i{n},{n + 1},{cell}\n" for n, cell in enumerate(cells))
    path = write(tmp_path / "t.csv", f"user,item,timestamp,cat\n{body}")
    side = write(tmp_path / "items.csv", "item,cat\n" + "".join(f"i{n},{cell}\n" for n, cell in enumerate(cells)))
    columns, text = ColumnMap(item_attributes=("cat",)), {"item": frozenset({"cat"})}
    assert _categories(open_recording(path, columns=columns, text=text)) == cells
    plain = write(tmp_path / "plain.csv", HEADER + "u,i0,1\n")
    assert _categories(open_recording(plain, items=side, text=text)) == cells
    # Digits that a number would lose make a column text even if nothing declares it.
    for kept in (cells[:2], cells[2:4]):
        body = "".join(f"u,i{n},{n + 1},{cell}\n" for n, cell in enumerate(kept))
        assert _categories(open_recording(write(path, f"user,item,timestamp,cat\n{body}"), columns=columns)) == kept
    big = [2103807459595387724, 2103807459595387725]
    pa.parquet.write_table(
        pa.table({"user": ["u", "u"], "item": ["i", "j"], "timestamp": [1, 2], "cat": big}), tmp_path / "t.parquet"
    )
    lines = "".join(f'{{"user":"u","item":"i{n}","timestamp":1,"cat":{cell}}}\n' for n, cell in enumerate(big))
    write(tmp_path / "t.jsonl", lines)
    for name in ("t.parquet", "t.jsonl"):
        for declared in (text, {}):
            assert _categories(open_recording(tmp_path / name, columns=columns, text=declared)) == [str(cell) for cell in big]


def _categories(recording: Any) -> list[object]:
    return [event.attributes["cat"] for event in flat(recording) if isinstance(event, ItemUpdate)]


def test_lines_that_are_python_and_not_json(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", "{'user': 'u', 'item': 'i', 'timestamp': 1}\n" * 3)
    for columns in (ColumnMap(), None):
        with pytest.raises(BadRecording, match=r"t\.jsonl.*row 1.*Python dict.*ast\.literal_eval"):
            flat(open_recording(path, columns=columns))


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("ml.inter.gz", ("ml.user.gz", "ml.item.gz")),
        ("ml.inter.gz", ("ml.user", "ml.item")),
        ("ml.train.inter", ("ml.user", "ml.item")),
        ("ml.part1.inter.gz", ("ml.user.gz", "ml.item")),
        ("ml.train.inter", ("ml.train.user", "ml.train.item")),
    ],
)
def test_side_files_of_compressed_and_split_recordings(tmp_path: Path, name: str, sides: tuple[str, str]) -> None:
    contents = {
        name: "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t5\n",
        sides[0]: "user_id:token\tage:float\nu\t30\n",
        sides[1]: "item_id:token\tcolour:token\ni\tred\n",
    }
    for file, text in contents.items():
        (tmp_path / file).write_bytes(gzip.compress(text.encode()) if file.endswith(".gz") else text.encode())
    report = validate(open_recording(tmp_path / name))
    assert (report.unknown_users, report.unknown_items) == (0, 0)


def test_movielens_compressed_and_split(tmp_path: Path) -> None:
    for name, text in {
        "u.data.gz": "1\t2\t5\t9\n",
        "u.user.gz": "1|24|M|other|0\n",
        "ratings.train.dat": "1::2::5::9\n",
        "users.dat": "1::M::25::4::0\n",
        "movies.dat": "2::A film (1999)::Drama\n",
    }.items():
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    data = open_recording(tmp_path / "u.data.gz", format="movielens")
    assert (data.has_users, data.has_items) == (True, False)
    split = open_recording(tmp_path / "ratings.train.dat")
    assert (split.has_users, split.has_items) == (True, True)
    assert validate(split).unknown_items == 0


class _Nobody:
    """Admits nothing about the user ``no``."""

    def check(self, event: Event) -> None:
        from streams.codec import BadEvent

        if getattr(event, "user", "") == "no":
            raise BadEvent("user", "not this one", kind="refused")

    def refused(self, block: Any) -> list[Any]:
        import numpy as np

        from streams.codec import BadEvent

        rows = [n for n, user in enumerate(block.user.texts()) if user == "no"]
        return [(np.array(rows, np.int64), BadEvent("user", "not this one", kind="refused"))]


@pytest.mark.parametrize("make", [lambda: _Nobody()])
def test_what_is_not_admitted_is_a_bad_row_with_its_number(tmp_path: Path, make: Callable[[], Admission]) -> None:
    events = "".join(f'{{"type":"interaction","user":"{user}","item":"i","timestamp":1}}\n' for user in ("a", "no", "b"))
    table = "user,item,timestamp\na,i,1\n,i,1\nno,i,1\nb,i,1\n"
    for name, text, number in (("t.jsonl", events, 2), ("t.csv", table, 4)):
        recording = open_recording(write(tmp_path / name, text), admission=make())
        assert [event.user for event in flat(recording)] == ["a", "b"]  # type: ignore[union-attr]
        assert recording.dead.counts["refused"] == 1
        assert recording.dead.read(9)[-1].reason == f"row {number}: user: not this one"
        with pytest.raises(BadRecording, match="not this one"):
            flat(open_recording(write(tmp_path / name, text.replace("\n,i,1", "")), admission=make(), strict=True))


def test_of_many_bad_rows_all_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEADER + ",i,1\n" * 3_000 + "u,i,1\n")
    recording = open_recording(path)
    assert len(flat(recording)) == 1
    assert recording.dead.counts == {"no_user": 3_000}
    assert recording.dead.read(9999)[-1].reason == "row 1001: user: empty is missing, or over 256 characters"
