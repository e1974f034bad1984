"""The towers learn preferences from ids, attributes and histories."""

from __future__ import annotations

import numpy as np

from learners.base import Learner
from learners.contract.worlds import cut, feedback_of, requests_of, world
from learners.features import Featurizer, Field, hash_ids
from learners.lookups import Catalogues, UserHistory
from learners.networks.columns import TowerColumns
from learners.networks.towers import FrozenTowers, Towers, TowerShape
from learners.retrievers.two_tower import TwoTower
from learners.schema import schema_of
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from streams.batch import Feedback, Ids

GROUPS = 4
FEATURIZER = Featurizer([Field(side="user", name="group"), Field(side="item", name="group")])
SHAPE = TowerShape(dim=8, hidden=8, bits=14, seed=0)


def catalogues(users: int, items: int) -> tuple[Catalogues, Ids, Ids]:
    """Catalogues of users and items with their group as attribute, and their ids."""
    featurizer = FEATURIZER
    made = Catalogues(Catalog(100, featurizer.user_columns), Catalog(100, featurizer.item_columns))
    names = [f"user {n}" for n in range(users)], [f"item {n}" for n in range(items)]
    for n, name in enumerate(names[0]):
        attributes = {"group": str(n % GROUPS)}
        made.users.put(int(hash_ids([name])[0]), name, attributes, *featurizer.encode_user(attributes))
    for n, name in enumerate(names[1]):
        attributes = {"group": str(n % GROUPS)}
        made.items.put(int(hash_ids([name])[0]), name, attributes, *featurizer.encode_item(attributes))
    return made, hash_ids(names[0]), hash_ids(names[1])


def bind(learner: Learner, known: Catalogues) -> None:
    """Bind a learner to the catalogues, with an empty history."""
    learner.bind(schema_of(FEATURIZER, 5), known, UserHistory(History(1, 1)))


def likes(rng: np.random.Generator, users: Ids, items: Ids, rows: int = 64) -> Feedback:
    """Feedback of users who like the items of their group."""
    user_numbers, item_numbers = rng.integers(0, users.size, rows), rng.integers(0, items.size, rows)
    return feedback_of(
        user=users[user_numbers],
        item=items[item_numbers],
        reward=(user_numbers % GROUPS == item_numbers % GROUPS).astype(float),
    )


def train(towers: Towers, columns: TowerColumns, users: Ids, items: Ids, steps: int = 200) -> None:
    rng = np.random.default_rng(0)
    for _ in range(steps):
        towers.learn(likes(rng, users, items), columns)


def test_vectors_have_unit_length_and_are_similar_for_liked_items() -> None:
    users, items = hash_ids([f"u{n}" for n in range(20)]), hash_ids([f"i{n}" for n in range(12)])
    towers, columns = Towers(SHAPE, 0.1, 0.2), TowerColumns()
    train(towers, columns, users, items)
    of_users, of_items = towers.users(columns.users(requests_of(users))), towers.items(columns.items(items))
    np.testing.assert_allclose(np.linalg.norm(of_users, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(of_items, axis=1), 1, atol=1e-5)
    same = np.arange(20)[:, None] % GROUPS == np.arange(12) % GROUPS
    cosine = of_users @ of_items.T
    assert cosine[same].min() > cosine[~same].max()


def test_attributes_place_a_new_item() -> None:
    known, users, items = catalogues(20, 24)
    towers, columns = Towers(SHAPE, 0.1, 0.2), TowerColumns()
    columns.catalogues = known
    train(towers, columns, users, items[:12])
    new = towers.items(columns.items(items[12:]))
    cosine = towers.users(columns.users(requests_of(users))) @ new.T
    same = np.arange(20)[:, None] % GROUPS == np.arange(12, 24) % GROUPS
    assert cosine[same].min() > cosine[~same].max()
    # And so does a new user.
    stranger = requests_of(hash_ids(["nobody"]))
    known.users.put(int(stranger.user[0]), "nobody", {}, *(column[0] for column in encoded(known, users[2:3])))
    cosines = (towers.users(columns.users(stranger)) @ towers.items(columns.items(items[:12])).T)[0]
    assert np.arange(12)[np.argsort(-cosines)[:3]].tolist() and (np.argsort(-cosines)[:3] % GROUPS == 2).all()


def encoded(known: Catalogues, users: Ids) -> tuple[np.ndarray, np.ndarray]:
    features, values = known.users.encoded
    return features[known.users.find(users)], values[known.users.find(users)]


def test_popular_items_are_not_penalized() -> None:
    """An item that is liked ten times as often is more similar, though it is a negative ten times as often: logQ correction."""
    rng = np.random.default_rng(1)
    items, users = hash_ids(["often", "seldom", *(f"other {n}" for n in range(30))]), hash_ids([f"u{n}" for n in range(40)])
    gaps = {}
    for corrected in (True, False):
        towers, columns = Towers(SHAPE, 0.05, 0.2), TowerColumns()
        if not corrected:
            towers._batch_probability = lambda rows: np.ones(rows.size, np.float32)  # type: ignore[method-assign]
        for step in range(150):
            item_numbers = rng.integers(2, items.size, 32)
            item_numbers[:4] = 0
            if step % 10 == 0:
                item_numbers[4:8] = 1
            user_numbers = rng.integers(0, users.size, 32)
            towers.learn(
                feedback_of(user=users[user_numbers], item=items[item_numbers], reward=(rng.random(32) < 0.3).astype(float)),
                columns,
            )
        cosine = towers.users(columns.users(requests_of(users))) @ towers.items(columns.items(items)).T
        gaps[corrected] = cosine[:, 0].mean() - cosine[:, 1].mean()

    assert gaps[True] > gaps[False] + 0.1


def test_a_frozen_copy_does_not_change() -> None:
    towers, frozen, columns = Towers(SHAPE, 0.1, 0.1), FrozenTowers(SHAPE), TowerColumns()
    users, items = hash_ids([f"u{n}" for n in range(20)]), hash_ids([f"i{n}" for n in range(12)])
    train(towers, columns, users, items, 5)
    frozen.freeze(towers)
    then = towers.users(columns.users(requests_of(users)))
    train(towers, columns, users, items, 5)
    assert np.array_equal(frozen.users(columns.users(requests_of(users))), then)
    assert not np.allclose(towers.users(columns.users(requests_of(users))), then)
    frozen.take_changes()
    frozen.freeze(towers)
    moved = frozen.take_changes()["weights.table.rows"].size
    assert 0 < moved < 1 << SHAPE.bits, "only changed rows are shipped"


def test_vectors_are_those_of_the_module_that_learns() -> None:
    towers, loaded, columns = Towers(SHAPE, 0.1, 0.1), Towers(SHAPE, 0.1, 0.1), TowerColumns()
    users, items = hash_ids([f"u{n}" for n in range(20)]), hash_ids([f"i{n}" for n in range(12)])
    untrained = towers.items(columns.items(items))
    train(towers, columns, users, items, 20)
    loaded.load_state_dict(towers.state_dict())
    for each in (towers, loaded):
        by_side = each.users(columns.users(requests_of(users))), each.items(columns.items(items))
        for side, given in enumerate((columns.users(requests_of(users)), columns.items(items))):
            expected = each.weights.module(side, given).detach().numpy()
            np.testing.assert_allclose(by_side[side], expected, rtol=0, atol=1e-6)
    assert not np.allclose(by_side[1], untrained)
    nobody = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32)
    assert np.isfinite(towers.items(nobody)).all()


def test_a_forgotten_user_is_unknown() -> None:
    users, items = hash_ids([f"u{n}" for n in range(20)]), hash_ids([f"i{n}" for n in range(12)])
    retriever = TwoTower(dim=8, hidden=8, bits=12)
    rng = np.random.default_rng(0)
    for _ in range(20):
        retriever.learn(likes(rng, users, items))
    retriever.forget(users[:1])
    nobody = retriever.users(requests_of([0]))
    assert np.array_equal(retriever.users(requests_of(users[:1])), nobody)
    assert not np.allclose(retriever.users(requests_of(users[1:2])), nobody)


def test_retrieval_returns_items_of_the_users_group_first() -> None:
    known, users, items = catalogues(20, 24)
    retriever = TwoTower(dim=8, hidden=8, bits=12)
    bind(retriever, known)
    retriever.add(items)
    rng = np.random.default_rng(0)
    for _ in range(60):
        retriever.learn(likes(rng, users, items[:12]))
    from learners.base import Exclusion

    found = retriever.retrieve(requests_of(users), 6, Exclusion.none(users.size))
    group = {int(item): n % GROUPS for n, item in enumerate(items)}
    assert [group[int(item)] for item in found.item] == [n % GROUPS for n in range(20) for _ in range(6)]
    retriever.remove(items[:12])
    found = retriever.retrieve(requests_of(users), 24, Exclusion.none(users.size))
    assert set(found.item.tolist()) == set(items[12:].tolist())


def test_batches_without_a_positive_or_a_negative_change_nothing() -> None:
    towers, columns = Towers(SHAPE, 0.1, 0.2), TowerColumns()
    nothing_liked = cut(world(1), 0, 20)
    nothing_liked.reward[:] = 0
    towers.learn(nothing_liked, columns)
    towers.learn(feedback_of(user=[5], item=[6], reward=[1.0]), columns)
    assert towers.take_changes() == {}, "no positive row, or no negative item"
