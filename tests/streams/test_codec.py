from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.codec import BadEvent, decode, encode, partition_key
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, Tick, UserUpdate

ids = st.text(min_size=1, max_size=30)
numbers = st.floats(allow_nan=False, allow_infinity=False)
times = st.floats(0, 1e11)
scalars = st.text(max_size=20) | numbers | st.booleans()
contexts = st.dictionaries(st.text(max_size=10), scalars, max_size=3)
attributes = st.dictionaries(st.text(max_size=10), scalars | st.lists(st.text(max_size=10), max_size=3), max_size=3)
events = st.one_of(
    st.builds(
        Impression,
        request_id=ids,
        user=ids,
        items=st.lists(ids, min_size=1, max_size=4).map(tuple),
        features=st.binary(max_size=40),
        scores=st.lists(numbers, max_size=4).map(tuple),
        propensities=st.lists(numbers, max_size=4).map(tuple),
        source=st.text(max_size=10),
        version=st.integers(0, 2**53),
        context=contexts,
        timestamp=times,
    ),
    st.builds(
        Interaction,
        user=ids,
        item=ids,
        id=st.text(max_size=20),
        request_id=st.none() | ids,
        kind=ids,
        value=numbers,
        context=contexts,
        timestamp=times,
    ),
    st.builds(ItemUpdate, item=ids, attributes=attributes, deleted=st.booleans(), timestamp=times),
    st.builds(UserUpdate, user=ids, attributes=attributes, deleted=st.booleans(), timestamp=times),
    st.builds(Forget, user=ids, timestamp=times),
    st.builds(Tick, timestamp=times),
)


@given(events)
def test_round_trip(event: Event) -> None:
    assert decode(encode(event)) == event


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_whatever_comes_in_is_an_event_or_a_bad_event(data: bytes | str) -> None:
    with pytest.raises(BadEvent) as caught:
        decode(data)
    assert caught.value.kind in ("not_json", "not_an_event")


@settings(max_examples=200)
@given(events, st.data())
def test_a_mangled_event_is_still_an_event_or_a_bad_event(event: Event, data: st.DataObject) -> None:
    encoded = bytearray(encode(event))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(encoded))
    except BadEvent as error:
        assert str(error).count(": ") >= 1


INTERACTION = {"type": "interaction", "user": "u", "item": "i"}


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"value": "x"}, "value", 'value: got "x"; send a number'),
        ({"user": 7}, "user", "user: got 7; send text in quotes"),
        ({"user": ""}, "user", 'user: got ""; send at least 1 character'),
        ({"user": "u" * 257}, "user", "send at most 256 characters"),
        ({"usr": "u"}, "usr", "usr: not a field of interaction; did you mean user?"),
        ({"qqq": 1}, "qqq", "it can be user, item, id"),
        ({"type": "interactions"}, "type", 'type: got "interactions"; did you mean interaction?'),
        ({"type": None}, "type", "it can be impression, interaction"),
        ({"context": {"page": "a", "device": [1]}}, "context.device", "context.device: got [1]"),
        ({"timestamp": -1}, "timestamp", "timestamp: got -1; send Unix seconds as a number >= 0.0"),
        ({"timestamp": 1.7e12}, "timestamp", "send Unix seconds as a number <= 100000000000.0"),
        ({"item": None}, "item", "item: got null; send text in quotes"),
    ],
)
def test_a_bad_event_names_field_value_and_remedy(change: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(BadEvent) as caught:
        decode(json.dumps(INTERACTION | change))
    assert caught.value.field == field
    assert message in str(caught.value)
    assert caught.value.kind == "not_an_event"


def test_the_offending_entry_of_a_list_is_named() -> None:
    with pytest.raises(BadEvent, match=r'^items\[1\]: got ""; send at least 1 character$'):
        decode(b'{"type":"impression","request_id":"r","user":"u","items":["a",""]}')


def test_a_missing_field_is_named() -> None:
    with pytest.raises(BadEvent, match=r"^item: missing; every event of type interaction needs it$"):
        decode(b'{"type":"interaction","user":"u"}')
    with pytest.raises(BadEvent, match=r"^type: missing; send one of impression, interaction"):
        decode(b"{}")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"type":"tick"} x', b'{"type":"forget","user":"\xff"}'])
def test_invalid_json_and_invalid_events_have_different_kinds(data: bytes) -> None:
    with pytest.raises(BadEvent) as caught:
        decode(data)
    assert caught.value.kind == "not_json"
    assert "send one JSON object" in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinities_are_refused_when_decoding(number: str) -> None:
    with pytest.raises(BadEvent, match="send finite numbers"):
        decode('{"type":"interaction","user":"u","item":"i","value":' + number + "}")


def test_a_number_out_of_range_is_refused() -> None:
    with pytest.raises(BadEvent, match=r"^value: out of range; send a finite number$"):
        decode(b'{"type":"interaction","user":"u","item":"i","value":1e999}')


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinities_are_refused_when_encoding(number: float) -> None:
    with pytest.raises(BadEvent, match=r"^value: not a finite number"):
        encode(Interaction(user="u", item="null", value=number))
    with pytest.raises(BadEvent, match=r"^scores\[1\]: not a finite number"):
        encode(Impression(request_id="r", user="u", items=("a", "b"), scores=(1.0, number)))


def test_invalid_unicode_is_refused_when_encoding() -> None:
    with pytest.raises(BadEvent, match="not valid Unicode"):
        encode(Interaction(user="u\ud800", item="i"))


def test_an_unknown_field_beside_deep_nesting_is_refused_and_not_a_crash() -> None:
    with pytest.raises(BadEvent):
        decode(b'{"type":"tick","foo":' + b"[" * 100_000)


def test_events_of_a_user_share_a_key() -> None:
    of_user: list[Event] = [
        Impression(request_id="r", user="ü", items=("i",)),
        Interaction(user="ü", item="i"),
        UserUpdate(user="ü"),
        Forget(user="ü"),
    ]
    assert {partition_key(event) for event in of_user} == {"ü".encode()}
    assert {partition_key(event) for event in (ItemUpdate(item="i"), Tick())} == {b""}
