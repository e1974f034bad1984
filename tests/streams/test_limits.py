from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streams.admission.limits import TextLimits
from streams.codec import BadEvent, decode, encode
from streams.events import Event, Forget, Impression, Interaction, ItemUpdate, UserUpdate
from streams.recorded import ColumnMap, open_recording

LIMITS = TextLimits(id=10, text=20, attributes=60, context=40)


def of_size(size: int, text: int = 20) -> dict[str, Any]:
    """Attributes of `size` bytes as JSON, in texts of up to `text` bytes."""
    found: dict[str, Any] = {}
    while (left := size - len(json.dumps(found, separators=(",", ":"), ensure_ascii=False))) > 0:
        name = f"{len(found)}"
        around = len(name) + 5 + (1 if found else 0)
        found[name] = "x" * min(text, left - around)
        if 0 < left - around - text < 7 + 1:  # leave room for a last entry
            found[name] = "x" * (text - 8)
    assert len(json.dumps(found, separators=(",", ":"))) == size
    return found


def refused(event: Event, limits: TextLimits = LIMITS) -> BadEvent:
    with pytest.raises(BadEvent) as caught:
        limits.check(event, len(encode(event)))
    assert caught.value.kind == "too_long"
    return caught.value


def admitted(event: Event, limits: TextLimits = LIMITS) -> None:
    limits.check(event, len(encode(event)))
    limits.check(event)


def test_the_defaults_are_those_of_the_documentation() -> None:
    limits = TextLimits()
    assert (limits.id, limits.text, limits.attributes, limits.context) == (256, 1024, 16_384, 4096)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda text: Interaction(user=text, item="i"), "user"),
        (lambda text: Interaction(user="u", item=text), "item"),
        (lambda text: Interaction(user="u", item="i", id=text), "id"),
        (lambda text: Interaction(user="u", item="i", request_id=text), "request_id"),
        (lambda text: Impression(request_id=text, user="u", items=("i",)), "request_id"),
        (lambda text: Impression(request_id="r", user=text, items=("i",)), "user"),
        (lambda text: Impression(request_id="r", user="u", items=("i", text)), "items[1]"),
        (lambda text: ItemUpdate(item=text), "item"),
        (lambda text: UserUpdate(user=text), "user"),
        (lambda text: Forget(user=text), "user"),
    ],
)
def test_an_id_has_at_most_as_many_characters_as_the_config_allows(make: Any, field: str) -> None:
    admitted(make("ä" * 10))
    error = refused(make("ä" * 11))
    assert error.field == field
    assert str(error) == (
        f'{field}: got "äääääääääää" of 11 characters; [limits] id = 10: shorten it, or raise id in [limits], at most to 256'
    )


def test_no_event_holds_an_id_of_more_than_256_characters() -> None:
    assert decode(encode(Interaction(user="u" * 256, item="i"))) == Interaction(user="u" * 256, item="i")
    with pytest.raises(BadEvent, match=r"user: got .*send at most 256 characters"):
        decode(b'{"type": "interaction", "user": "%s", "item": "i"}' % (b"u" * 257))


@pytest.mark.parametrize("field", ["source", "config"])
def test_the_texts_of_an_impression_have_a_limit(field: str) -> None:
    event = b'{"type": "impression", "request_id": "r", "user": "u", "items": ["i"], "%s": "%s"}'
    decode(event % (field.encode(), b"s" * 256))
    with pytest.raises(BadEvent, match=f"{field}: got .*send at most 256 characters"):
        decode(event % (field.encode(), b"s" * 257))


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda values: ItemUpdate(item="i", attributes=values), "attributes"),
        (lambda values: UserUpdate(user="u", attributes=values), "attributes"),
        (lambda values: Interaction(user="u", item="i", context=values), "context"),
        (lambda values: Impression(request_id="r", user="u", items=("i",), context=values), "context"),
    ],
)
def test_a_text_has_at_most_as_many_bytes_as_the_config_allows(make: Any, where: str) -> None:
    limits = TextLimits(text=20)
    admitted(make({"a": "é" * 10}), limits)
    admitted(make({"n" * 20: 1.0}), limits)
    error = refused(make({"a": "é" * 10 + "e"}), limits)
    assert error.field == f"{where}.a"
    assert str(error) == (
        f'{where}.a: got the text "éééééééééée" of 21 bytes; [limits] text = 20: shorten it, or raise text in [limits]'
    )
    assert refused(make({"n" * 21: 1.0}), limits).field == f"{where}.{'n' * 21}"


def test_a_tag_is_a_text() -> None:
    limits = TextLimits(text=20)
    admitted(ItemUpdate(item="i", attributes={"tags": ["x" * 20, "y" * 20]}), limits)
    assert refused(ItemUpdate(item="i", attributes={"tags": ["x", "y" * 21]}), limits).field == "attributes.tags[1]"


def test_attributes_and_contexts_have_a_limit_as_a_whole() -> None:
    admitted(ItemUpdate(item="i", attributes=of_size(60)))
    admitted(Interaction(user="u", item="i", context=of_size(40)))
    error = refused(ItemUpdate(item="i", attributes=of_size(61)))
    assert error.field == "attributes"
    assert "of 61 bytes; [limits] attributes = 60: send less, or raise attributes in [limits]" in str(error)
    assert "of 41 bytes; [limits] context = 40" in str(refused(Interaction(user="u", item="i", context=of_size(41))))


def test_a_long_value_and_a_long_name_are_shortened_in_the_error() -> None:
    error = refused(ItemUpdate(item="i", attributes={"n" * 5000: "x" * 5000}), TextLimits())
    assert len(str(error)) < 400 and len(error.field) <= 80
    with pytest.raises(BadEvent) as caught:
        decode(b'{"type": "item", "item": "i", "%s": 1}' % (b"n" * 1_000_000))
    assert len(str(caught.value)) < 400 and len(caught.value.field) <= 80


def test_a_short_event_is_not_looked_at_whatever_its_numbers_grow_to() -> None:
    # 1e15 takes 4 bytes in the event and 18 as JSON writes it again.
    limits = TextLimits(context=400)
    data = b'{"type":"interaction","user":"u","item":"i","context":{"a":1e15,"b":1e15}}'
    limits.check(decode(data), len(data))
    many = b'{"type":"interaction","user":"u","item":"i","context":{%s}}' % b",".join(b'"%d":1e15' % n for n in range(20))
    with pytest.raises(BadEvent, match="context"):
        limits.check(decode(many), len(many))


def test_a_native_event_in_a_file_is_a_bad_row_when_it_is_too_long(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    events = [UserUpdate(user="u", attributes={"a": "x" * size}) for size in (20, 21)] + [Forget(user="u" * 11)]
    file.write_bytes(b"\n".join(map(encode, events)))
    recording = open_recording(file, limits=LIMITS)
    assert list(recording.events()) == events[:1]
    assert dict(recording.dead.counts) == {"too_long": 2}
    assert recording.dead.read()[0].reason.startswith("row 2: attributes.a: got the text")


def test_a_row_of_a_table_is_bad_when_its_texts_are_too_long(tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    rows = [
        ("u", "i", "x" * 16, "y"),  # {"device":"","page":""} and 17 characters: 40 bytes
        ("u", "i", "x" * 21, "y"),
        ("u" * 11, "i", "x", "y"),
        ("u", "i", "x" * 17, "y"),
        ("v", "i", "x", "y"),
    ]
    file.write_text("user,item,device,page\n" + "".join(",".join(row) + "\n" for row in rows))
    columns = ColumnMap(timestamp=None, context=("device", "page"))
    recording = open_recording(file, columns=columns, limits=LIMITS)
    (block,) = recording.events()
    assert block.user.texts() == ["u", "v"]  # type: ignore[union-attr]
    assert dict(recording.dead.counts) == {"too_long": 2, "no_user": 1}
    reasons = [letter.reason for letter in recording.dead.read()]
    assert any(reason.startswith("row 3: context.device: got the text") for reason in reasons)
    assert any(reason.startswith("row 5: context: got") for reason in reasons)


def test_a_side_file_has_the_same_limits(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("user,item\nu,a\nu,b\nu,c\n")
    (tmp_path / "items.csv").write_text(f"item,title,maker\na,{'t' * 20},m\nb,{'t' * 21},m\nc,{'t' * 20},{'m' * 20}\n")
    wide = TextLimits(text=20, attributes=63)
    recording = open_recording(
        tmp_path / "clicks.csv", columns=ColumnMap(timestamp=None), items=tmp_path / "items.csv", limits=wide
    )
    items = [event.item for event in recording.events() if isinstance(event, ItemUpdate)]
    assert items == ["a", "c"]  # {"title":"","maker":""} and 40 characters: 62 bytes
    tight = open_recording(
        tmp_path / "clicks.csv",
        columns=ColumnMap(timestamp=None),
        items=tmp_path / "items.csv",
        limits=TextLimits(text=20, attributes=61),
    )
    assert [event.item for event in tight.events() if isinstance(event, ItemUpdate)] == ["a"]
