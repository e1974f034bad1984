"""What processes tell each other arrives as it was, and repeated or empty parts are not sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.sharding.building import Deferred
from service.sharding.messages import Array, Rows, decode, encode
from tests.service.sharding.test_trainer import MakeConfig, filled
from tests.sharded import Together, trainer


def sent(array: Array) -> tuple[Array, int]:
    """An array after its way to another process, and the bytes of the message."""
    encoded = encode({"it": array})
    received: Array = decode(memoryview(encoded), dict[str, Array])["it"]
    return received, len(encoded)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32, np.float64])
def test_an_array_of_mostly_zeros_is_short_and_arrives_to_the_bit(dtype: Any) -> None:
    array = np.zeros((300, 11), dtype)
    array[:, 1] = np.arange(300) - 7
    if array.dtype.kind == "f":
        array[3, 4], array[5, 6], array[7, 8] = -0.0, np.nan, np.inf
    received, size = sent(array)
    assert received.dtype == array.dtype and received.shape == array.shape and received.tobytes() == array.tobytes()
    assert received.flags.writeable and received.flags.aligned
    assert size < array.nbytes / 2


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5000.0),
        np.zeros((0, 3), np.float32),
        np.zeros((), np.int64),
        np.zeros(9000, np.bool_),
        np.array(["a", "bc"] * 4000),
    ],
    ids=["full", "empty", "number", "flags", "texts"],
)
def test_other_arrays_arrive_as_they_are(array: Array) -> None:
    received, size = sent(array)
    assert received.dtype == array.dtype and received.shape == array.shape and received.tobytes() == array.tobytes()
    assert size >= array.nbytes


def test_who_is_met_twice_is_sent_once_in_the_order_of_the_last_time() -> None:
    effects, keys = Deferred(), np.array([5, 9, 5, 2, 9, 7])
    effects.meet(keys, ["five", "nine", "five", "two", "nine", "seven"], keys[:0], [])
    ((met,), _) = effects.take()
    assert met.user.tolist() == [5, 2, 9, 7] and met.users == ["five", "two", "nine", "seven"]
    assert met.item.size == 0 and met.items == []


@pytest.mark.parametrize(("rerankers", "with_hidden"), [({}, False), ({"reloop2": {"capacity": 200}}, True)])
def test_hidden_vectors_are_sent_only_to_who_learns_from_them(
    rerankers: dict[str, Any], with_hidden: bool, make_config: MakeConfig, tmp_path: Path
) -> None:
    made = trainer(make_config(rerankers=rerankers), filled(), Together(1).peer(0))
    made.restore()
    entries = [entry for noted in made._read().values() for entry in made._rows.build(noted)]
    learned = [entry.feedback for entry in entries if isinstance(entry, Rows) and entry.feedback is not None]
    assert learned and all((rows.hidden is not None) == with_hidden for rows in learned)
