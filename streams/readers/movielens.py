"""The three formats of MovieLens (``u.data``, ``ratings.dat``, ``ratings.csv``), and MovieTweetings, close to the second."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from streams.events import Attribute, ItemUpdate, UserUpdate
from streams.readers.beside import beside, plain_name, stems
from streams.readers.files import first_line, read_text
from streams.readers.layout import Layout, Options, Side, SideFile
from streams.readers.mapping import BadRecording, BadRows, ColumnMap
from streams.readers.text import TextReader
from streams.readers.updates import make_update

__all__ = ["CSV_HEADER", "movielens"]

CSV_HEADER = ["userId", "movieId", "rating", "timestamp"]
_COLUMNS = ColumnMap("user", "item", "timestamp", "rating")
_GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_TITLE = re.compile(r"(?P<title>.*?)\s*\((?P<year>\d{4})\)\s*")

Attributes = dict[str, Attribute]


def movielens(path: Path, columns: ColumnMap | None, users: SideFile, items: SideFile, options: Options) -> Layout:
    """Return the layout of a file of ratings, with its side files. The first line tells the format.

    Raises
    ------
    BadRecording
        The file has none of the three formats, or `columns` is given: the columns of MovieLens are fixed.
    """
    if columns is not None:
        raise BadRecording(path, "columns are given, but those of MovieLens are fixed", "leave them out, or set format = csv")
    if options.encoding is not None or options.header is not True:
        raise BadRecording(path, "header or encoding is given, but those of MovieLens are fixed", "leave them out")
    line = first_line(path)
    if not line:
        raise BadRecording(path, "empty file", "give a file with rows")
    if "::" in line:
        # Arrow splits at a single character, so every second field is empty.
        names = ["user", "", "item", " ", "rating", "  ", "timestamp"]
        reader = TextReader(path, ":", names=names, header=False)
        return Layout(
            reader,
            _COLUMNS,
            users=_side("user", _named(path, "users", ".dat"), users, _split("::"), _user_dat),
            items=_side("item", _named(path, "movies", ".dat"), items, _split("::"), _film),
        )
    if line.split(",") == CSV_HEADER:
        reader = TextReader(path, ",", quote='"')
        film = _side("item", _named(path, "movies", ".csv"), items, lambda line: next(csv.reader([line])), _film)
        return Layout(reader, ColumnMap("userId", "movieId", "timestamp", "rating"), items=film)
    if line.count("\t") == 3:
        return Layout(
            TextReader(path, "\t", names=["user", "item", "rating", "timestamp"], header=False),
            _COLUMNS,
            users=_side("user", beside(path, "u.user"), users, _split("|"), _user_pipe),
            items=_side("item", beside(path, "u.item"), items, _split("|"), _film_pipe),
        )
    raise BadRecording(path, f"not a MovieLens file (it starts with {line[:60]!r})", "set its format and its columns")


def _split(separator: str) -> Callable[[str], list[str]]:
    return lambda line: line.split(separator)


def _named(path: Path, name: str, ending: str) -> Path | None:
    """Return the side file of a file ratings*: with the rest of its name, or without that of its split, or the usual one."""
    rests = [stem.removeprefix("ratings") for stem in stems(path) if stem.startswith("ratings")]
    return beside(path, *(f"{name}{rest}{plain_name(path).suffix}" for rest in rests), f"{name}{ending}")


def _side(
    side: str,
    default: Path | None,
    given: SideFile,
    split: Callable[[str], list[str]],
    attributes: Callable[[Sequence[str]], Attributes | None],
) -> Side | None:
    path = given if isinstance(given, Path) else default
    if given is False or path is None:
        return None
    if not path.exists():
        raise BadRecording(path, "no such file", f"give the path of a file of {side}s, or leave it out")
    return lambda bad, timestamp: _updates(side, path, split, attributes, bad, timestamp)


def _updates(
    side: str,
    path: Path,
    split: Callable[[str], list[str]],
    attributes: Callable[[Sequence[str]], Attributes | None],
    bad: BadRows,
    timestamp: float,
) -> Iterator[UserUpdate | ItemUpdate]:
    for number, line in enumerate(read_text(path), 1):
        text = line.rstrip("\r")
        if not text:
            continue
        fields = split(text)
        try:
            found = attributes(fields)
        except (ValueError, IndexError):
            bad.put(path, number, "bad_attributes", f"not a {side} in the format of MovieLens", partial(str, text))
            continue
        if found is not None and fields[0]:
            yield make_update(side, fields[0], found, timestamp)


def _user_pipe(fields: Sequence[str]) -> Attributes | None:
    """Read ``id|age|gender|occupation|zip``; some copies have a header."""
    if fields[1] == "age":
        return None
    return {"age": float(fields[1]), "gender": fields[2], "occupation": fields[3]}


def _user_dat(fields: Sequence[str]) -> Attributes:
    """Read ``id::gender::age::occupation::zip``. MovieTweetings has ``id::twitter id``: no attributes."""
    if len(fields) == 2:
        return {}
    return {"gender": fields[1], "age": float(fields[2]), "occupation": fields[3]}


def _film_pipe(fields: Sequence[str]) -> Attributes | None:
    """Read ``id|title|release date|video date|url|19 genre flags``; some copies have a header."""
    if fields[5] == "unknown":
        return None
    flags = fields[5:]
    if len(flags) != len(_GENRES) or not set(flags) <= {"0", "1"}:
        raise ValueError("not 19 genre flags of 0 or 1")
    found: Attributes = {"title": fields[1], "genres": [g for g, flag in zip(_GENRES, flags, strict=True) if flag == "1"]}
    year = re.search(r"\d{4}$", fields[2])
    if year:
        found["year"] = float(year[0])
    return found


def _film(fields: Sequence[str]) -> Attributes | None:
    """Read ``id::title (year)::genre|genre``, or the same fields as CSV with a header."""
    if fields[0] == "movieId":
        return None
    if len(fields) != 3:
        raise ValueError("not three fields")
    genres = [] if fields[2].startswith("(no genres") else [genre for genre in fields[2].split("|") if genre]
    titled = _TITLE.fullmatch(fields[1])
    if titled is None:
        return {"title": fields[1], "genres": genres}
    return {"title": titled["title"], "year": float(titled["year"]), "genres": genres}
