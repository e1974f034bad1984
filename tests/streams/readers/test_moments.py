"""Times in recorded files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from streams.readers.moments import date_notation, times
from streams.recorded import BadRecording, ColumnMap, open_recording, validate
from tests.streams.recordings import write

START = 1569888000.0


@pytest.mark.parametrize(
    "text",
    [
        "2019-10-01 00:00:00 UTC",
        "2019-10-01 00:00:00UTC",
        "2019-10-01T00:00:00 utc",
        "2019-10-01 00:00:00 GMT",
        "2019-10-01T00:00:00Z",
        "2019-10-01 00:00:00 Z",
        "2019-10-01 00:00:00",
        "2019-10-01",
        "2019-10-01 02:00:00+02:00",
        "2019-10-01 02:00:00 +02:00",
        "2019-10-01 02:00:00 +0200",
        "2019-09-30 19:00:00 -05",
        "2019-10-01 00:00:00.000 UTC",
        "2019-10-01T00:00:00.000000000Z",
        " 2019-10-01 00:00:00 UTC ",
        "1569888000",
        "1569888000.0",
        "1.569888e9",
    ],
)
@pytest.mark.parametrize("before", [[], ["1970-01-01 00:00:07"], ["7"]])
def test_every_notation_alone_and_after_another(text: str, before: list[str]) -> None:
    values, misfit = times(pa.chunked_array([[*before, text, None, ""]]), "s")
    assert misfit is None
    assert values[len(before)] == START
    assert np.isnan(values[-2:]).all()


def test_fractions() -> None:
    values, _ = times(
        pa.chunked_array([["2019-10-01 00:00:00.25 UTC", "2019-10-01 00:00:00.5 UTC", "2019-10-01 00:00:01 UTC"]]), "s"
    )
    assert values.tolist() == [START + 0.25, START + 0.5, START + 1]


@pytest.mark.parametrize("text", ["soon", "2019-13-01", "11/11/2019", "UTC", "2019-10-01 25:00:00 UTC", "nano", "1_0"])
def test_what_is_no_time(text: str) -> None:
    values, misfit = times(pa.chunked_array([["2019-10-01 00:00:00 UTC", text]]), "s")
    assert values[0] == START
    assert misfit is not None
    assert misfit.tolist() == [False, True]


def test_a_format_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "user,item,timestamp\nu,i,11/11/2019 9:05:58 AM\nu,i,\nu,i,soon\n")
    report = validate(open_recording(path, columns=ColumnMap(timestamp_format="%m/%d/%Y %I:%M:%S %p")))
    assert (report.rows, report.start, report.bad) == (1, 1573463158.0, {"bad_timestamp": 2})
    path = write(tmp_path / "t.csv", "user,item,timestamp\nu,i,14102100\nu,i,14102123\n")
    report = validate(open_recording(path, columns=ColumnMap(timestamp_format="%y%m%d%H")))
    assert (report.start, report.end, report.warnings) == (1413849600.0, 1413932400.0, [])


@pytest.mark.parametrize(
    ("times", "notation"),
    [
        (["14102100", "14102101", "14102923"], "YYMMDDHH"),
        (["20141021", "20141022"], "YYYYMMDD"),
        (["2014102100", "2014102101"], "YYYYMMDDHH"),
        (["1410210000", "1410210101", "1410211502", "1410212303", "1410222359"], "YYMMDDHHMM"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_dates_in_digits_are_warned_of(tmp_path: Path, times: list[str], notation: str, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    if ending == "csv":
        write(path, "user,item,timestamp\n" + "".join(f"u,i,{time}\n" for time in times))
    else:
        pa.parquet.write_table(
            pa.table({"user": ["u"] * len(times), "item": ["i"] * len(times), "timestamp": [int(time) for time in times]}), path
        )
    (warning,) = validate(open_recording(path)).warnings
    assert f"times such as {times[0]} look like dates ({notation}), but are read as Unix seconds" in warning
    assert "timestamp_format" in warning


@pytest.mark.parametrize(
    "values", [[881250949.0, 891717742.0], [1.0, 2.0], [1_700_000_000.0 + 61 * n for n in range(50)], [1.5e7 + 0.5]]
)
def test_unix_seconds_are_not_dates(values: list[float]) -> None:
    assert date_notation(np.array(values)) is None


@pytest.mark.parametrize(("factor", "unit"), [(1000, "ms"), (1_000_000, "us"), (1_000_000_000, "ns")])
def test_times_in_another_unit_name_it(tmp_path: Path, factor: int, unit: str) -> None:
    path = write(tmp_path / "t.csv", f"user,item,timestamp\nu,i,{1_700_000_000 * factor}\n")
    with pytest.raises(BadRecording, match=f'timestamp_unit = "{unit}"'):
        list(open_recording(path).events())
    assert validate(open_recording(path, columns=ColumnMap(timestamp_unit=unit))).start == 1.7e9  # type: ignore[arg-type]
