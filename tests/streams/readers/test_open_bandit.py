from __future__ import annotations

from pathlib import Path

import pytest

from streams.events import ItemUpdate
from streams.readers.decisions import Decision, open_decisions
from streams.recorded import BadRecording
from tests.streams.recordings import write

HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user-item_affinity_0\n"
ITEMS = ",item_id,item_feature_0,item_feature_1\n0,7,-0.5,aed79\n1,8,0.25,31af3\n2,9,1.5,31af3\n"
GOOD = "0,2019-11-24 00:00:34.5+00:00,8,3,1,0.25,ab,cd,0.0\n"
DATA = Path(__file__).parents[4] / "shared" / "data" / "obd-small"


def log(folder: Path, rows: str = GOOD, header: str = HEADER, items: str | None = ITEMS) -> Path:
    if items is not None:
        write(folder / "item_context.csv", items)
    return write(folder / "all.csv", header + rows)


def read(path: Path, **keywords: bool) -> tuple[list[ItemUpdate | Decision], dict[str, int], list[str]]:
    found = open_decisions(path, **keywords)  # type: ignore[arg-type]
    return list(found.read()), dict(found.dead.counts), [letter.reason for letter in found.dead.read()]


def test_a_row_is_a_decision_of_one_position(tmp_path: Path) -> None:
    found, dead, _ = read(log(tmp_path))
    assert found[:3] == [
        ItemUpdate(item="7", attributes={"item_feature_0": -0.5, "item_feature_1": "aed79"}),
        ItemUpdate(item="8", attributes={"item_feature_0": 0.25, "item_feature_1": "31af3"}),
        ItemUpdate(item="9", attributes={"item_feature_0": 1.5, "item_feature_1": "31af3"}),
    ]
    decision = found[3]
    assert isinstance(decision, Decision)
    assert decision.impression.items == ("8",)
    assert decision.impression.propensities == (0.25,)
    assert decision.impression.context == {"position": 3.0, "user_feature_0": "ab", "user_feature_1": "cd"}
    assert decision.impression.timestamp == 1574553634.5
    assert decision.impression.user == "ab:cd"
    assert (decision.others, decision.kind, decision.rewards, decision.importance) == (("7", "9"), "click", (1.0,), 1.0)
    assert dead == {}


def test_the_propensity_has_two_names(tmp_path: Path) -> None:
    found, _, _ = read(log(tmp_path, header=HEADER.replace("propensity_score", "action_prob")))
    assert isinstance(found[3], Decision) and found[3].impression.propensities == (0.25,)


def test_without_item_context_the_candidates_are_the_items_of_the_log(tmp_path: Path) -> None:
    rows = "".join(GOOD.replace(",8,", f",{item},") for item in (8, 3, 8, 5))
    found, _, _ = read(log(tmp_path, rows, items=None))
    assert [one.others for one in found if isinstance(one, Decision)] == [("3", "5"), ("8", "5"), ("3", "5"), ("8", "3")]


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ("1,2019-11-24 00:00:35+00:00,4,3,1,0.25,ab,cd,0.0\n", "unknown_item", ["row 3", "item_id", "'4'"]),
        ("1,2019-11-24 00:00:35+00:00,,3,1,0.25,ab,cd,0.0\n", "unknown_item", ["row 3", "item_id"]),
        ("1,yesterday,8,3,1,0.25,ab,cd,0.0\n", "bad_timestamp", ["row 3", "timestamp", "yesterday"]),
        ("1,2019-11-24 00:00:35+00:00,8,,1,0.25,ab,cd,0.0\n", "bad_position", ["row 3", "position"]),
        ("1,2019-11-24 00:00:35+00:00,8,3,yes,0.25,ab,cd,0.0\n", "bad_reward", ["row 3", "click", "yes"]),
        ("1,2019-11-24 00:00:35+00:00,8,3,1,0,ab,cd,0.0\n", "bad_propensity", ["row 3", "propensity_score", "'0'"]),
        ("1,2019-11-24 00:00:35+00:00,8,3,1,1.5,ab,cd,0.0\n", "bad_propensity", ["row 3", "1.5"]),
        ("1,2019-11-24 00:00:35+00:00,8,3,1,,ab,cd,0.0\n", "bad_propensity", ["row 3", "propensity_score"]),
        ("1,2019-11-24 00:00:35+00:00,8,3,1\n", "wrong_fields", ["row 3", "5 fields instead of 9"]),
    ],
)
def test_bad_rows_are_left_out_counted_and_named(tmp_path: Path, row: str, kind: str, words: list[str]) -> None:
    path = log(tmp_path, GOOD + row + GOOD)
    found, dead, reasons = read(path)
    assert [one.impression.request_id for one in found if isinstance(one, Decision)] == ["2", "4"]
    assert dead == {kind: 1}
    for word in words:
        assert word in reasons[0]
    with pytest.raises(BadRecording, match="row 3"):
        read(path, strict=True)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (HEADER.replace("propensity_score", "p"), ["propensity_score", "'p'"]),
        (HEADER.replace("click", "clicked"), ["'click'", "did you mean 'clicked'"]),
        ("user,item,rating\n", ["propensity_score", "'rating'"]),
    ],
)
def test_a_file_without_its_columns_is_refused_by_name(tmp_path: Path, header: str, names: list[str]) -> None:
    with pytest.raises(BadRecording) as error:
        read(log(tmp_path, header=header))
    for name in names:
        assert name in str(error.value)


def test_a_file_with_only_bad_rows_is_refused_with_their_count(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match=r"not one decision \(2 x bad_propensity\)"):
        read(log(tmp_path, 2 * GOOD.replace("0.25", "-1")))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no Open Bandit sample in {DATA}")
@pytest.mark.parametrize(("policy", "campaign", "items"), [("random", "all", 80), ("bts", "men", 34)])
def test_the_whole_sample_is_read(policy: str, campaign: str, items: int) -> None:
    found, dead, _ = read(DATA / policy / campaign / f"{campaign}.csv")
    decisions = [one for one in found if isinstance(one, Decision)]
    assert (len(found) - len(decisions), len(decisions), dead) == (items, 10_000, {})
    assert {len(one.others) for one in decisions} == {items - 1}
    if policy == "random":
        assert {one.impression.propensities for one in decisions} == {(1 / items,)}
