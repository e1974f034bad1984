"""Schema of the columns that learners receive."""

from __future__ import annotations

from learners.contract.small import SCHEMA
from learners.contract.worlds import world
from learners.features import Featurizer, Field
from learners.schema import FeatureColumn, schema_of


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
