from __future__ import annotations

import math

import numpy as np
import pytest

from learners.features import Featurizer, Field, hash_id, hash_ids
from memory.keyed.catalog import Catalog
from streams.batch import Requests

FIELDS = [
    Field(side="item", name="id"),
    Field(side="user", name="id"),
    Field(side="user", name="age", type="bucket", width=10),
    Field(side="item", name="genres", type="tags", max_tags=3),
    Field(side="item", name="price", type="number", mean=10, scale=2),
    Field(side="context", name="device"),
]


def requests(*users: str, context: tuple[np.ndarray, np.ndarray]) -> Requests:
    return Requests(
        user=hash_ids(users),
        timestamp=np.zeros(len(users)),
        history=np.zeros((len(users), 0), np.int64),
        context=context[0],
        context_values=context[1],
    )


def catalogs(featurizer: Featurizer) -> tuple[Catalog, Catalog]:
    users, items = Catalog(10, featurizer.user_columns), Catalog(10, featurizer.item_columns)
    users.put(hash_id("ann"), "ann", {}, *featurizer.encode_user({"age": 37.0}))
    items.put(hash_id("dune"), "dune", {}, *featurizer.encode_item({"genres": ["sf", "epic"], "price": 14.0}))
    return users, items


def test_hashes_never_change() -> None:
    assert hash_id("") == 0x2D06800538D394C2, "the published XXH3 value of the empty string"
    assert hash_id("freshet") == hash_ids(["freshet"])[0] == 1551681233661463283


def test_rows_hold_every_field_in_its_columns() -> None:
    featurizer = Featurizer(FIELDS, ["context.device * item.genres"])
    who = requests("ann", "bob", context=featurizer.encode_context([{"device": "tv"}, {}]))
    item = hash_ids(["dune", "solaris", "dune"])
    keys, values = featurizer.rows(who, np.array([0, 0, 1]), item, *catalogs(featurizer))
    names = ["user.id", "item.id", "user.age", *["item.genres"] * 3, "item.price", "context.device"]
    assert featurizer.names == (*names, *["context.device * item.genres"] * 3)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(
        values,
        [
            [1, 1, 1, half, half, 0, 2, 1, half, half, 0],
            [1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0],
            [1, 1, 0, half, half, 0, 2, 0, 0, 0, 0],
        ],
        rtol=1e-6,
    )
    assert ((keys != 0) == (values != 0)).all(), "a key is 0 exactly where the feature is absent"
    assert keys[0, 2] == hash_id("user.age=3")
    assert keys[0, 3] == hash_id("item.genres=sf")
    assert keys[0, 7] == hash_id("context.device=tv")
    assert len(set(keys[0][keys[0] != 0])) == (keys[0] != 0).sum(), "no two columns share a key"
    assert (keys[0, [1, 3, 4, 6]] == keys[2, [1, 3, 4, 6]]).all(), "the item's side does not depend on the user"


@pytest.mark.parametrize("value", [3, 3.0, "3"])
def test_a_category_does_not_depend_on_its_type(value: float | str) -> None:
    keys, values = Featurizer([Field(side="user", name="plan")]).encode_user({"plan": value})
    assert keys[0] == hash_id("user.plan=3")
    assert values[0] == 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("number", "cheap"),
        ("number", "1e308"),
        ("number", 1e39),
        ("number", "-inf"),
        ("bucket", "old"),
        ("number", ["x"]),
        ("category", ["x"]),
    ],
)
def test_a_value_that_does_not_fit_is_absent(kind: str, value: str | list[str]) -> None:
    keys, values = Featurizer([Field(side="item", name="x", type=kind)]).encode_item({"x": value})  # type: ignore[arg-type]
    assert keys.tolist() == [0]
    assert values.tolist() == [0]


@pytest.mark.parametrize(("value", "expected"), [(3e38, 1e6), (-3e38, -1e6), (12.0, 1.0), ("14", 2.0), (-0.0, -5.0)])
def test_a_number_with_a_scale_of_its_own_is_clipped(value: float | str, expected: float) -> None:
    featurizer = Featurizer([Field(side="item", name="x", type="number", mean=10, scale=2)])
    assert featurizer.encode_item({"x": value})[1].tolist() == [expected]


def test_a_number_with_half_a_scale_is_not_standardised() -> None:
    fields = [Field(side="item", name="x", type="number", mean=10), Field(side="item", name="y", type="number", scale=2)]
    featurizer = Featurizer(fields)
    assert featurizer.encode_item({"x": 12, "y": 12})[1].tolist() == [2.0, 6.0]
    assert featurizer.item_numbers == ()


def test_distinct_context_values_encode_as_each_row_does() -> None:
    featurizer = Featurizer(FIELDS)
    found = featurizer.encode_context_column("device", ["tv", "phone"])
    assert found is not None
    columns, keys, values = found
    rows = featurizer.encode_context([{"device": "phone"}, {}, {"device": "tv"}])
    assert (rows[0][:, columns] == keys[[1, -1, 0]]).all()
    assert (rows[1][:, columns] == values[[1, -1, 0]]).all()
    assert featurizer.encode_context_column("weather", ["rain"]) is None


def test_another_set_of_fields_has_another_schema() -> None:
    assert Featurizer(FIELDS).schema == Featurizer(FIELDS).schema
    assert Featurizer(FIELDS).schema != Featurizer(FIELDS[:-1]).schema
    assert Featurizer(FIELDS).schema != Featurizer(FIELDS, ["user.id * item.id"]).schema


@pytest.mark.parametrize("cross", ["user.id", "user.id * item.year", "user.id * item.id * user.age"])
def test_a_cross_of_unknown_fields_is_refused_by_name(cross: str) -> None:
    with pytest.raises(ValueError, match=r"crosses: .*user.id"):
        Featurizer(FIELDS, [cross])


def test_long_contexts_are_encoded_alike_and_not_cached() -> None:
    featurizer = Featurizer([Field(side="context", name="page", type="category")])
    short, long = {"page": "x" * 64}, {"page": "x" * 65}
    for context in (short, long, {"page": "x", **{f"n{n}": "y" for n in range(64)}}):
        keys, _ = featurizer.encode_context([context])
        again, _ = featurizer.encode_context([context])
        assert keys.tolist() == again.tolist() == [[hash_id(f"context.page={context['page']}")]]
    assert featurizer._encode_context.cache_info().currsize == 1
