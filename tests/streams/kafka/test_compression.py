"""Records that other producers compress are read as they are installed, without another package."""

from __future__ import annotations

from base64 import b64decode

import pytest
from kafka.record import MemoryRecords

from streams.codec import decode
from streams.events import Interaction
from tests.broker import Broker
from tests.streams.kafka.topics import OpenLog, numbered, read_on

CODECS = ["gzip", "snappy", "lz4", "zstd"]

JVM = {
    "gzip": (
        "AAAAAAAAAAAAAACrAAAAAAJs+wvDAAEAAAACAAABoiFQwsgAAAGiIVDDYAAAAAAAAAfaAAAAAAAAAAAAAx+LCAAAAAAAAP9bwsjA"
        "wMA4jbFaqaSyIFXJSikzryS1KDG5JDM/T0lHqbQ4tQgoWGoIZGeWpOaCFIDZKUBWelVmgS6Il52ZB+In52QmZyvVMixjZNjAxETY"
        "UCMkQ41QDDXCYSgLYUONkQw1RjHUGNNQAI8kQ7T+AAAA"
    ),
    "snappy": (
        "AAAAAAAAAAAAAADTAAAAAAKkm5SiAAIAAAACAAABoiFQ+fIAAAGiIVD6wgAAAAAAAAfbAAAAAAAAAAAAA4JTTkFQUFkAAAAAAQAA"
        "AAEAAACOhAK4qAEAAAABmgF7InR5cGUiOiJpbnRlcmFjdGlvbiIsInVzZXIiOiJ1MSIsIml0ZW0BIQUMKGQiOiJzbmFwcHktARAI"
        "a2luARI0Y2xpY2sifQCqAQCgAwKGVwAEMiIZVwUMAGQZVwEQTlcAAASGVwAEMyIZVwUMAGQZVwEQOGtpbmQiOiJjbGljayJ9AA=="
    ),
    "lz4": (
        "AAAAAAAAAAAAAADIAAAAAAJjem5qAAMAAAACAAABoiFRDrIAAAGiIVEPQQAAAAAAAAfcAAAAAAAAAAAAAwQiTRhgQIKIAAAA8CCi"
        "AQAAAAGUAXsidHlwZSI6ImludGVyYWN0aW9uIiwidXNlciI6InUxIiwiaXRlbSEAAQwAgGQiOiJsejQtDQAwa2luDwDvY2xpY2si"
        "fQCkAQCeAgJUAA8XMlQAAQwAAEUAAFQAAA0AD1QAAR8EVAAPFzNUAAEMAARUAAANAAZUAFBjayJ9AAAAAAA="
    ),
    "zstd": (
        "AAAAAAAAAAAAAACtAAAAAALbFnayAAQAAAACAAABoiFRLlQAAAGiIVEvPQAAAAAAAAfdAAAAAAAAAAAAAyi1L/0AWIQDAKJFFSCw"
        "J40BDANNB3mtDQsiiVtvQ3yU14aZ8wjfAhnurREpA8sSUBQE8LBz2GImKSGNq6XM6ESg1kmMKx0v5Oro5Blv0nlGL4NuGjS5S8fz"
        "gNgVxzgzu0YLAMALKAAXgHHAYaAKUAANIL7Cgr/5VaABAAA="
    ),
}
"""A batch of three records each, as `kafka-console-producer.sh --compression-codec` of Apache Kafka 4.4.0 wrote it."""


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_records_are_read(broker: Broker, open_log: OpenLog, codec: str) -> None:
    topic = broker.topic()
    records = numbered(300, size=1000)
    open_log(broker.servers, topic, options={"compression_type": codec}).append(records)
    found = read_on(open_log(broker.servers, topic, readonly=True), {0: 0})
    assert [record.value for record in found] == [value for _, value in records]


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_jvm_producer_compressed_is_read(codec: str) -> None:
    batch = MemoryRecords(b64decode(JVM[codec])).next_batch()
    values = [decode(record.value) for record in batch]
    assert values == [Interaction(user=f"u{n}", item=f"i{n}", id=f"{codec}-{n}", kind="click") for n in (1, 2, 3)]
