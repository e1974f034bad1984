from __future__ import annotations

from pathlib import Path

import pytest

from streams.events import Interaction, ItemUpdate, UserUpdate
from streams.recorded import BadRecording, ColumnMap, open_recording
from tests.streams.recordings import flat, rated, write


def test_headers_type_the_columns(tmp_path: Path) -> None:
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


def test_label_instead_of_rating_and_no_time(tmp_path: Path) -> None:
    path = write(tmp_path / "x.inter", "user_id:token\titem_id:token\tlabel:float\n1\tb\t1\n2\tb\t0\n")
    assert flat(open_recording(path, kind="click")) == [
        Interaction(user="1", item="b", value=1.0, timestamp=1.0),
        Interaction(user="2", item="b", value=0.0, timestamp=2.0),
    ]


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "x.inter", "who:token\twhat:token\twhen:float\n1\tb\t7\n")
    with pytest.raises(BadRecording, match="no column 'user_id'"):
        open_recording(path)
    assert flat(open_recording(path, columns=ColumnMap("who", "what", "when"))) == [rated("1", "b", 1.0, 7.0)]


def test_a_header_without_types_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match="header 'user' has no type; write it as user:token"):
        open_recording(write(tmp_path / "x.inter", "user\titem\n1\t2\n"))
