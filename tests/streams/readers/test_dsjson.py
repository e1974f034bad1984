"""The special cases of these logs: decisions, lines that are skipped and counted, and lines that `strict` refuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from streams.events import ItemUpdate
from streams.readers.decisions import Decision, open_decisions
from streams.recorded import BadRecording

ACTIONS = [
    {"_tag": "red", "T": {"hue": "warm", "size": 2, "_secret": 1}},
    {"_tag": "blue", "T": {"hue": "cold", "new": True}},
    {"i": {"id": "grey", "constant": 1}, "j": [{"words": ["a", "b"]}, {"marks": [0.5, 2]}]},
]


def decision(**more: Any) -> dict[str, Any]:
    return {
        "_label_cost": -1.5,
        "_label_probability": 0.2,
        "_label_Action": 2,
        "_labelIndex": 1,
        "EventId": "e1",
        "Timestamp": "2017-07-20T20:44:41.1768469Z",
        "a": [1, 2, 3],
        "p": [0.7, 0.2, 0.1],
        "c": {
            "_synthetic": False,
            "Geo": {"country": "NL", "_cf": 8},
            "Words": [{"w": ["x", "y"]}, {"n": 3}],
            "_multi": ACTIONS,
        },
        **more,
    }


def read(
    tmp_path: Path, *lines: dict[str, Any] | str, strict: bool = False
) -> tuple[list[ItemUpdate | Decision], dict[str, int], list[str]]:
    path = tmp_path / "log.dsjson"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    found = open_decisions(path, strict=strict)
    return list(found.read()), dict(found.dead.counts), [letter.reason for letter in found.dead.read()]


def only(found: list[ItemUpdate | Decision]) -> Decision:
    (one,) = [one for one in found if isinstance(one, Decision)]
    return one


def test_a_line_is_a_decision(tmp_path: Path) -> None:
    found, dead, _ = read(tmp_path, decision())
    one = only(found)
    assert one.impression.items == ("blue",)
    assert one.impression.propensities == (0.2,)
    assert one.others == ("red", "grey")
    assert (one.kind, one.rewards, one.importance) == ("reward", (1.5,), 1.0)
    assert one.impression.request_id == "e1"
    assert one.impression.timestamp == pytest.approx(1500583481.176846)
    assert one.impression.context == {"Geo.country": "NL", "Words.w": "x y", "Words.n": 3.0}
    grey = {"i.id": "grey", "i.constant": 1.0, "j.words": ["a", "b"], "j.marks.0": 0.5, "j.marks.1": 2.0}
    assert found[:3] == [
        ItemUpdate(item="red", attributes={"T.hue": "warm", "T.size": 2.0}),
        ItemUpdate(item="blue", attributes={"T.hue": "cold", "T.new": True}),
        ItemUpdate(item="grey", attributes=grey),
    ]
    assert dead == {}


@pytest.mark.parametrize("first", [0, 1])
def test_actions_count_from_one_and_the_ranking_from_one_or_zero(tmp_path: Path, first: int) -> None:
    """``p`` has the order of ``a``: index ``_labelIndex`` would give 0.1 here, the probability of another action."""
    ranked = [action + first for action in (1, 0, 2)]
    found, dead, _ = read(tmp_path, decision(a=ranked, p=[0.7, 0.1, 0.2], _label_probability=0.7))
    assert only(found).impression.items == ("blue",)
    assert only(found).impression.propensities == (0.7,)
    assert dead == {}
    found, dead, reasons = read(tmp_path, decision(), decision(a=ranked, p=[0.7, 0.1, 0.2], _label_probability=0.1))
    assert dead == {"inconsistent": 1}
    assert "row 2" in reasons[0] and "0.7" in reasons[0]


def test_lines_between_decisions_are_skipped_and_counted_also_when_strict(tmp_path: Path) -> None:
    lines = [
        '[CHECKPOINT INFO LINE] {"a": 1}',
        {"RewardValue": 1.0, "EnqueuedTimeUtc": "2017-07-20T20:44:41Z", "EventId": "e0"},
        {"RewardValue": 1.0, "EnqueuedTimeUtc": "2017-07-20T20:44:41Z", "EventId": "e0"},
        {"EventId": "e0", "ActionTaken": True},
        decision(_skipLearn=True),
        "",
        decision(),
    ]
    found, dead, reasons = read(tmp_path, *lines, strict=True)
    assert only(found).impression.request_id == "e1"
    assert dead == {"checkpoint": 1, "dangling": 3, "skip_learn": 1}
    assert [reason.split(":")[0] for reason in reasons] == ["row 1", "row 2", "row 3", "row 4", "row 5"]


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("{", "not_json", []),
        ("[1, 2]", "not_a_decision", ["object"]),
        ("ERROR something", "not_json", []),
        ({"EventId": "e"}, "not_a_decision", ["_multi"]),
        (decision(c={"_multi": []}), "not_a_decision", ["_multi"]),
        (decision(c={"_multi": [1]}), "not_a_decision", ["_multi"]),
        (decision(pdrop=1), "bad_pdrop", ["pdrop", "1"]),
        (decision(pdrop="x"), "bad_pdrop", ["pdrop", "'x'"]),
        (decision(_label_Action=4), "bad_action", ["_label_Action", "4", "1 to 3"]),
        (decision(_label_Action=0), "bad_action", ["_label_Action", "0"]),
        (decision(_label_Action=None), "bad_action", ["_label_Action"]),
        (decision(_label_probability=0), "bad_propensity", ["_label_probability", "0"]),
        (decision(_label_probability=None), "bad_propensity", ["_label_probability"]),
        (decision(_label_probability=1.2), "bad_propensity", ["1.2"]),
        (decision(_label_cost="dear"), "bad_cost", ["_label_cost", "dear"]),
        (decision(a=[1, 2]), "inconsistent", ["2 and 3"]),
        (decision(a=[1, 3, 3]), "inconsistent", ["a and p"]),
        (decision(Timestamp="noon"), "bad_timestamp", ["Timestamp", "noon"]),
    ],
)
def test_invalid_lines_are_skipped_and_counted_or_raised_when_strict(
    tmp_path: Path, line: dict[str, Any] | str, kind: str, words: list[str]
) -> None:
    found, dead, reasons = read(tmp_path, decision(), line)
    assert only(found).impression.request_id == "e1"
    assert dead == {kind: 1}
    for word in ["row 2", *words]:
        assert word in reasons[0]
    with pytest.raises(BadRecording, match="row 2"):
        read(tmp_path, decision(), line, strict=True)


def test_a_decision_of_a_sampled_log_has_a_higher_importance(tmp_path: Path) -> None:
    assert only(read(tmp_path, decision(pdrop=0.75))[0]).importance == 4.0


def test_the_event_id_has_two_names(tmp_path: Path) -> None:
    line = {key: value for key, value in decision().items() if key != "EventId"}
    assert only(read(tmp_path, line | {"event_id": "e2"})[0]).impression.request_id == "e2"
    assert only(read(tmp_path, line)[0]).impression.request_id == "1"


def test_logs_without_rankings_or_times_are_read_too(tmp_path: Path) -> None:
    line = {key: value for key, value in decision().items() if key not in ("a", "p", "Timestamp")}
    found, dead, _ = read(tmp_path, decision(), line)
    first, second = (one for one in found if isinstance(one, Decision))
    assert second.impression.propensities == (0.2,)
    assert second.impression.timestamp == first.impression.timestamp
    assert dead == {}


def test_an_action_without_a_name_is_known_by_its_features(tmp_path: Path) -> None:
    plain = [{"T": {"af": 3.0}}, {"T": {"af": 2.0}}, {"T": {"af": 1.0}}]
    shuffled = [plain[2], plain[0], plain[1]]
    moved = decision(c={"_multi": shuffled}, _label_Action=3, a=[3, 1, 2], p=[0.2, 0.7, 0.1])
    found, _, _ = read(tmp_path, decision(c={"_multi": plain}), moved)
    one, other = (one for one in found if isinstance(one, Decision))
    assert other.impression.items == one.impression.items
    assert len([one for one in found if isinstance(one, ItemUpdate)]) == 3


def test_an_action_that_is_offered_twice_is_two_candidates(tmp_path: Path) -> None:
    found, _, _ = read(tmp_path, decision(c={"_multi": [ACTIONS[0], ACTIONS[1], ACTIONS[1]]}))
    assert (only(found).impression.items, only(found).others) == (("blue",), ("red", "blue#2"))


def test_an_item_is_updated_when_it_has_changed(tmp_path: Path) -> None:
    repainted = [ACTIONS[0], {"_tag": "blue", "T": {"hue": "navy"}}, ACTIONS[2]]
    found, _, _ = read(tmp_path, decision(), decision(), decision(c={"_multi": repainted}))
    assert [type(one).__name__ for one in found] == [*3 * ["ItemUpdate"], *2 * ["Decision"], "ItemUpdate", "Decision"]
    assert found[5] == ItemUpdate(item="blue", attributes={"T.hue": "navy"})


def conditional(*outcomes: dict[str, Any], **context: Any) -> dict[str, Any]:
    return {"EventId": "s", "c": {"_multi": ACTIONS, "_slots": [{}, {}], **context}, "_outcomes": list(outcomes)}


def test_slots_are_positions(tmp_path: Path) -> None:
    line = conditional(
        {"_label_cost": -3, "_a": [2, 1, 0], "_p": [0.5, 0.25, 0.25]}, {"_label_cost": 0, "_a": [0, 1], "_p": [0.4, 0.6]}
    )
    one = only(read(tmp_path, line, strict=True)[0])
    assert one.impression.items == ("grey", "red")
    assert one.impression.propensities == (0.5, 0.4)
    assert (one.rewards, one.others) == ((3.0, 0.0), ("blue",))


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (conditional(), "not_a_decision"),
        (conditional({"_label_cost": 0, "_a": [3], "_p": [1.0]}), "bad_action"),
        (conditional({"_label_cost": 0, "_a": [], "_p": []}), "bad_action"),
        (conditional({"_a": [1], "_p": [1.0]}), "bad_cost"),
        (conditional({"_label_cost": 0, "_a": [1]}), "bad_propensity"),
        (conditional(*2 * [{"_label_cost": 0, "_a": [1], "_p": [1.0]}]), "bad_action"),
        (conditional({"_label_cost": 0, "_a": [1], "_p": [1.0]}, _slots=[{"_inc": [1]}]), "slates"),
        (conditional({"_label_cost": 0, "_a": [1], "_p": [1.0]}, _multi=[{"_slot_id": 0}, {"_slot_id": 1}]), "slates"),
    ],
)
def test_slots_that_cannot_be_read_are_counted(tmp_path: Path, line: dict[str, Any], kind: str) -> None:
    assert read(tmp_path, decision(), line)[1] == {kind: 1}


def test_compressed_and_empty_files(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "log.json.gz", "wt") as file:
        file.write(json.dumps(decision()) + "\n")
    assert len(list(open_decisions(tmp_path / "log.json.gz").read())) == 4
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(BadRecording, match="empty"):
        open_decisions(tmp_path / "empty.json")
    with pytest.raises(BadRecording, match=r"not one decision \(1 x not_json\)"):
        read(tmp_path, "no decision")


def test_missing_files_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecording, match="no such file"):
        open_decisions(tmp_path / "gone.json")
    with pytest.raises(BadRecording, match="a folder"):
        open_decisions(tmp_path)
    (tmp_path / "log.txt").write_text("x")
    with pytest.raises(BadRecording, match="dsjson"):
        open_decisions(tmp_path / "log.txt")
    with pytest.raises(BadRecording, match="unknown format 'vw'"):
        open_decisions(tmp_path / "log.txt", format="vw")
