from __future__ import annotations

from pathlib import Path

import pytest

from streams.events import ItemUpdate, UserUpdate
from streams.recorded import BadRecording, ColumnMap, open_recording
from tests.streams.recordings import flat, rated, write


def test_u_data_with_users_and_films_beside(tmp_path: Path) -> None:
    write(tmp_path / "u.data", "2\t10\t4\t300\n1\t10\t3\t100\n1\t11\t5\t200\n")
    write(tmp_path / "u.user", "1|24|M|technician|85711\n2|53|F|other|T8H1N\n")
    flags = "|".join("1" if n in (5, 14) else "0" for n in range(19))
    none = "|".join("0" * 19)
    write(tmp_path / "u.item", f"10|Misérables, Les (1995)|01-Feb-1995||http://x|{flags}\n11|unknown||||{none}\n", "latin-1")
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


def test_a_header_in_a_side_file_is_skipped(tmp_path: Path) -> None:
    write(tmp_path / "u.data", "1\t10\t3\t100\n")
    write(tmp_path / "u.user", "user|age|gender|occupation|zip\n1|24|M|technician|85711\n")
    assert [event.user for event in flat(open_recording(tmp_path)) if isinstance(event, UserUpdate)] == ["1"]


def test_double_colons_with_films_of_the_same_ending(tmp_path: Path) -> None:
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


def test_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,2,4.5,100\n")
    write(tmp_path / "movies.csv", 'movieId,title,genres\n2,"American President, The (1995)",(no genres listed)\n')
    assert flat(open_recording(path)) == [
        ItemUpdate(item="2", attributes={"title": "American President, The", "year": 1995.0, "genres": []}, timestamp=100.0),
        rated("1", "2", 4.5, 100.0),
    ]


def test_side_files_can_be_named_and_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "u.data", "1\t10\t3\t100\n")
    write(tmp_path / "u.user", "1|24|M|technician|85711\n")
    other = write(tmp_path / "other", "1|25|F|writer|0\n")
    assert flat(open_recording(path, users=False)) == [rated("1", "10", 3.0, 100.0)]
    assert flat(open_recording(path, users=other))[0] == UserUpdate(
        user="1", attributes={"age": 25.0, "gender": "F", "occupation": "writer"}, timestamp=100.0
    )
    with pytest.raises(BadRecording, match="missing: no such file"):
        open_recording(path, users=tmp_path / "missing")


def test_other_files_and_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match="not a MovieLens file"):
        open_recording(write(tmp_path / "x.dat", "1;2;3;4\n"))
    with pytest.raises(BadRecording, match="those of MovieLens are fixed"):
        open_recording(write(tmp_path / "u.data", "1\t10\t3\t100\n"), columns=ColumnMap())
