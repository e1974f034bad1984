from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from streams.block import Block
from streams.events import Interaction
from streams.recorded import BadRecording, ColumnMap, open_recording
from tests.streams.recordings import flat, rated, write


def test_bad_rows_are_left_out_with_their_number_and_reason(tmp_path: Path) -> None:
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
        assert letters[7].reason == "row 7: stars: 'many' is not a finite number"
        assert json.loads(letters[7].value) == {"user": "a", "item": "x", "timestamp": "3", "stars": "many"}
        assert "(see timestamp_unit)" in letters[10].reason
        assert all(letter.source == str(path) for letter in letters.values())


def test_strict_ends_at_the_first_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "user,item,timestamp\na,x,1\na,x,soon\n")
    with pytest.raises(BadRecording, match="row 3: timestamp: 'soon' is not a time; correct it"):
        flat(open_recording(path, strict=True))


def test_row_numbers_hold_across_blocks(tmp_path: Path) -> None:
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
def test_times_are_numbers_or_dates(tmp_path: Path, texts: list[str], unit: str, seconds: list[float]) -> None:
    path = write(tmp_path / "t.csv", "user,item,timestamp\n" + "".join(f"a,x,{text}\n" for text in texts))
    events = flat(open_recording(path, columns=ColumnMap(timestamp_unit=unit)))  # type: ignore[arg-type]
    assert [event.timestamp for event in events] == seconds


def test_an_unknown_unit_of_time_is_refused() -> None:
    with pytest.raises(ValueError, match="timestamp_unit: 'min' is not a unit; choose one of s, ms, us, ns"):
        ColumnMap(timestamp_unit="min")  # type: ignore[arg-type]


def test_a_column_is_numbers_only_if_all_its_cells_are(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "user,item,timestamp,a,b,c\nu,x,1,1,1,\nu,x,2,,no,\nu,x,3,-2e1,3,\n")
    events = flat(open_recording(path, columns=ColumnMap(context=("a", "b", "c"))))
    assert [event.context for event in events if isinstance(event, Interaction)] == [
        {"a": 1.0, "b": "1"},
        {"b": "no"},
        {"a": -20.0, "b": "3"},
    ]


def test_a_column_of_numbers_stays_one_in_a_stream(tmp_path: Path) -> None:
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
        "row 900001: a: 'text' is not a number, in a column of numbers"
    ]


def test_quotes_hold_commas(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", '"user","item",timestamp\n"a,b","say ""x""",1\n')
    assert flat(open_recording(path, kind="click")) == [Interaction(user="a,b", item='say "x"', timestamp=1.0)]


def test_windows_line_ends_and_byte_order_marks(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "user,item,timestamp\r\na,x,1\r\n", "utf-8-sig")
    assert flat(open_recording(path, kind="click")) == [Interaction(user="a", item="x", timestamp=1.0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "empty file"),
        ("t.csv", b"user,item,timestamp\n", "no good row"),
        ("t.csv", b"user,item,timestamp", "no rows"),
        ("t.csv", b"user,item,timestamp\na,x,soon\n", r"no good row \(row 2: timestamp: 'soon' is not a time\)"),
        ("t.csv", b"user,item,timestamp\n\xff\xfe,x,1\n", r"row 2: user: .* is not UTF-8 .*encoding = \"latin-1\""),
        ("t.csv", b"\xff\xfe", "UTF-16.*encoding"),
        ("t.csv", b"us\xe9r,item\n", "its first line is not UTF-8.*encoding"),
        ("t.csv", b"user,user,item,timestamp\na,a,x,1\n", "two columns 'user'"),
        ("t.xls", b"user,item", "cannot tell its format from its name; set format to one of movielens, recbole, csv"),
        ("t.parquet", b"user,item", "not a Parquet file"),
        ("t.dat", b"", "empty file"),
        ("t.inter", b"", "empty file"),
        ("t.jsonl", b"", "empty file"),
        ("t.jsonl", b'{"type": "click"}\n', r"no good row \(row 1: type: got"),
        ("t.csv.gz", b"user,item,timestamp\na,x,1\n", "cannot be read"),
    ],
)
@pytest.mark.parametrize("in_order", [True, False])
def test_unusable_files_say_why(tmp_path: Path, name: str, content: bytes, message: str, in_order: bool) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadRecording, match=message) as caught:
        flat(open_recording(path, sorted=in_order))
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_files_and_folders_say_why(tmp_path: Path) -> None:
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
