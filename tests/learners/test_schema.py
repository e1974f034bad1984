"""Schema of the columns that learners receive."""

from __future__ import annotations

import pytest

from learners.contract.small import SCHEMA
from learners.contract.worlds import world
from learners.features import Featurizer, Field
from learners.schema import FeatureColumn, Schema, schema_of


def test_columns_are_those_of_the_rows_in_order():
    featurizer = Featurizer(
        [
            Field(side="user", name="id"),
            Field(side="item", name="id"),
            Field(side="user", name="age", type="number"),
            Field(side="item", name="tags", type="tags", max_tags=2),
            Field(side="context", name="hour", type="bucket"),
        ],
        ["user.id * item.tags"],
    )
    schema = schema_of(featurizer, 7)
    age, tags = FeatureColumn("user.age", "user", "number"), FeatureColumn("item.tags", "item", "tags")
    hour, cross = FeatureColumn("context.hour", "context", "bucket"), FeatureColumn("user.id * item.tags", "cross", "cross")
    ids = FeatureColumn("user.id", "user", "category"), FeatureColumn("item.id", "item", "category")
    assert schema.features == (*ids, age, tags, tags, hour, cross, cross)
    assert (schema.users, schema.items, schema.context) == ((age,), (tags, tags), (hour,))
    assert len(schema.features) == featurizer.columns
    assert len(schema.users) == featurizer.user_columns
    assert len(schema.items) == featurizer.item_columns
    assert len(schema.context) == featurizer.context_columns
    assert schema.history == 7


def test_the_schema_of_the_contract_is_that_of_its_world():
    feedback = world(1)
    assert len(SCHEMA.features) == feedback.features.shape[1]
    assert len(SCHEMA.context) == feedback.context.shape[1]
    assert SCHEMA.history == feedback.history.shape[1]


def test_crosses_are_pairs_of_columns():
    columns = [
        FeatureColumn("user.id", "user", "category"),
        FeatureColumn("item.id", "item", "category"),
        FeatureColumn("item.price", "item", "number"),
        FeatureColumn("item.tags", "item", "tags"),
        FeatureColumn("item.tags", "item", "tags"),
        FeatureColumn("user.id * item.id", "cross", "cross"),
    ]
    schema = Schema(tuple(columns), (), (), (), 0)

    def pairs(*crosses: str) -> list[tuple[int, int]]:
        return [tuple(pair) for pair in schema.pairs(crosses).tolist()]

    assert pairs() == []
    assert pairs("user.id * item.tags") == pairs("item.tags*user.id") == [(0, 3), (0, 4)]
    # A side has all of its columns but the numbers, which must be named.
    assert pairs("user * item") == [(0, 1), (0, 3), (0, 4)]
    assert pairs("user * item.price") == [(0, 2)]
    # Each pair once, and no column with itself.
    assert pairs("item.tags * item.tags") == [(3, 4)]
    assert pairs("user * item", "user.id * item.id") == pairs("user * item")
    # A side may have no columns.
    assert pairs("user * context") == []


@pytest.mark.parametrize("cross", ["user.id", "user.id * item.id * item.id", "user.id * item.brand", "", "user.id * item.*"])
def test_what_is_no_cross_is_refused(cross: str):
    schema = Schema((FeatureColumn("user.id", "user", "category"), FeatureColumn("item.id", "item", "category")), (), (), (), 0)
    with pytest.raises(ValueError, match=r"is no cross.*one of user, item, context, item.id, user.id"):
        schema.pairs([cross])
