"""The mixture against its formulas in plain numpy, a column that stops being right, and scores dealt out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learners.base import Choices
from learners.contract.checks import check_learner
from learners.contract.small import SCHEMA
from learners.lookups import Catalogues, UserHistory
from learners.rerankers.mixture import Mixture
from learners.schema import EvidenceColumn
from memory.keyed.catalog import Catalog
from memory.keyed.history import History
from streams.batch import Batch

COLUMNS = (EvidenceColumn("a.score", prior=1.0), EvidenceColumn("b.score", by_activity=True), EvidenceColumn("b.flag"))


def mixture(columns=COLUMNS, activity=None, **keywords):
    """A mixture of these columns, bound to a history in which user u has ``activity[u]`` interactions."""
    store = History(64, 20)
    for user, times in (activity or {}).items():
        store.append(
            np.full(times, user), np.arange(times) + 1, np.arange(times) * 1.0, np.ones(times, np.int32), np.ones(times, bool)
        )
    made = Mixture(**keywords)
    made.bind(replace(SCHEMA, evidence=columns), Catalogues(Catalog(8, 1), Catalog(8, 1)), UserHistory(store))
    return made


def batch(sizes, evidence, user=None, score=None):
    """Requests of these sizes."""
    rows, requests = int(np.sum(sizes)), len(sizes)
    made = Batch(
        user=np.arange(requests) + 1 if user is None else np.array(user, np.int64),
        timestamp=np.zeros(requests),
        history=np.zeros((requests, 5), np.int64),
        context=np.zeros((requests, 0), np.int64),
        context_values=np.zeros((requests, 0), np.float32),
        item=np.arange(rows) + 1,
        request=np.repeat(np.arange(requests), sizes),
        features=np.zeros((rows, 0), np.int64),
        values=np.zeros((rows, 0), np.float32),
        evidence=None if evidence is None else np.array(evidence, np.float32),
    )
    if score is not None:
        made.score = np.array(score, np.float32)
    return made


def random_choices(seed, count, rows, columns=3, **more):
    rng = np.random.default_rng(seed)
    given = batch([rows] * count, rng.normal(size=(rows * count, columns)), **more)
    return Choices(given, np.arange(count) * rows + rng.integers(0, rows, count), np.ones(count, np.float32))


def theta(made):
    return made.mixture["theta"].copy()


def by_hand(choices, activity, prior_strength=10.0, keep=0.999, head=50, rescue=0.1, largest=10.0):
    """The docstring's formulas: every product a column, every row in the softmax or not."""
    weights = np.array([1.0, 0.0, 0.0, 0.0])
    curvature = prior_strength * np.eye(4)
    inverse, logs, places = np.eye(4) / prior_strength, [], []
    for b in range(choices.chosen.size):
        rows = choices.batch.request == b
        x = choices.batch.evidence[rows].astype(float)
        x = np.column_stack((x, x[:, 1] * np.log(1 + activity.get(int(choices.batch.user[b]), 0)) / 5))
        chosen = int(choices.chosen[b] - np.flatnonzero(rows)[0])
        value = x @ weights
        place = int((value > value[chosen]).sum())
        places.append(place)
        among = np.argsort(-value)[:head] if place < head else np.arange(len(x))
        share = np.exp(value[among]) / np.exp(value[among]).sum()
        gradient = (share @ x[among] - x[chosen]) * (1 if place < head else rescue)
        logs.append(np.log(float(choices.reward[b])))
        age = keep ** np.arange(len(logs))[::-1]
        w = min(np.exp(logs[-1] - np.average(logs, weights=age)), largest)
        curvature = keep * curvature + w * np.outer(gradient, gradient) + (1 - keep) * prior_strength * np.eye(4)
        if b + 1 < 32 or (b + 1) % 32 == 0 or w * gradient @ inverse @ gradient > 1:
            inverse = np.linalg.inv(curvature)
        weights = weights - w * inverse @ gradient
    return weights, places


@pytest.mark.parametrize("count", [1, 2, 31, 40, 200])
def test_newton_steps_are_those_made_by_hand(count):
    activity = {1: 3, 2: 12}
    choices = random_choices(count, count, 6, user=np.arange(count) % 3 + 1)
    choices.reward[:] = np.resize([1, 5, 0.2, 400], count)
    made = mixture(activity=activity, head=4, rescue=0.3)
    made.choose(choices)
    wanted, places = by_hand(choices, activity, head=4, rescue=0.3)
    assert theta(made) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    told = made.metrics()
    assert (told["learned"], told["rescued"]) == (count, sum(place >= 4 for place in places))
    assert count < 31 or 0 < told["rescued"] < count


def test_defaults_are_those_made_by_hand():
    choices = random_choices(1, 300, 80)
    made = mixture()
    made.choose(choices)
    assert theta(made) == pytest.approx(by_hand(choices, {})[0], rel=1e-9, abs=1e-12)
    assert made.metrics()["rescued"] > 10


def test_micro_batches_do_not_matter():
    choices = random_choices(2, 60, 7)
    at_once, one_by_one = mixture(), mixture()
    at_once.choose(choices)
    for b in range(60):
        rows = np.flatnonzero(choices.batch.request == b)
        part = batch([7], choices.batch.evidence[rows], user=choices.batch.user[b : b + 1])
        one_by_one.choose(Choices(part, choices.chosen[b : b + 1] - rows[0], choices.reward[b : b + 1]))
    assert np.array_equal(theta(at_once), theta(one_by_one))


def test_rewards_that_are_all_alike_weigh_nothing():
    one, seven = random_choices(3, 50, 6), random_choices(3, 50, 6)
    seven.reward[:] = 7
    made, other = mixture(), mixture()
    made.choose(one)
    other.choose(seven)
    assert theta(other) == pytest.approx(theta(made), rel=1e-9)


def chosen_by(column, seed, count):
    """Choices of people who choose with probability softmax(2 * one of two columns)."""
    choices = random_choices(seed, count, 10, columns=2)
    value = 2 * choices.batch.evidence[:, column].reshape(count, 10)
    value += np.random.default_rng(seed + 1).gumbel(size=value.shape)
    choices.chosen[:] = value.argmax(axis=1) + np.arange(count) * 10
    return choices


def test_it_learns_the_weights_of_choices_and_follows_when_they_change():
    columns = (EvidenceColumn("a.score", prior=1.0), EvidenceColumn("b.score"))
    follows, remembers = mixture(columns, keep=0.99), mixture(columns, keep=1.0)
    for made in (follows, remembers):
        made.choose(chosen_by(1, 1, 2000))
        assert theta(made) == pytest.approx([0, 2], abs=0.3)
        made.choose(chosen_by(0, 2, 800))
    assert theta(follows) == pytest.approx([2, 0], abs=0.3)
    assert theta(remembers)[0] < 1 < theta(remembers)[1]


def test_scores_are_dealt_out_in_the_order_of_the_mixture():
    evidence = np.zeros((8, 3))
    evidence[:, 0] = [5, 1, 3, 2, 0, 7, 7, 9]
    given = batch([1, 3, 4], evidence, score=[0.3, 0.9, 0.1, 0.5, 0.2, 0.4, 0.8, 0.6])
    dealt = mixture().rerank(given)
    # The second request: 3 before 2 before 1. The third: 9, then two of 7 as they stand, then 0.
    assert dealt.tolist() == np.float32([0.3, 0.1, 0.9, 0.5, 0.2, 0.6, 0.4, 0.8]).tolist()
    assert dealt.dtype == np.float32


def test_rows_of_equal_value_keep_their_order():
    evidence = np.zeros((200, 3))
    evidence[::2, 0] = 1
    dealt = mixture().rerank(batch([200], evidence, score=np.arange(200) / 200))
    assert np.argsort(-dealt).tolist() == [*range(0, 200, 2), *range(1, 200, 2)]


def test_activity_decides_where_its_product_has_a_weight():
    made = mixture(activity={2: 100})
    made.mixture["theta"][:] = [1, 0, 0, 2]
    evidence = [[1, 0, 0], [0, 1, 0]] * 2
    dealt = made.rerank(batch([2, 2], evidence, user=[1, 2], score=[0.1, 0.9] * 2))
    assert dealt.tolist() == np.float32([0.9, 0.1, 0.1, 0.9]).tolist()


def test_without_evidence_scores_are_copied():
    given = batch([1, 1], None, score=[0.3, 0.9])
    dealt = mixture().rerank(given)
    assert dealt.tolist() == given.score.tolist() and not np.shares_memory(dealt, given.score)


def test_evidence_of_a_retriever_that_failed_counts_as_none():
    given = [[np.nan, 2, 0], [np.nan, 1, 0], [np.nan, 3, 0]]
    made, other = mixture(), mixture()
    for one, evidence in ((made, given), (other, np.nan_to_num(given))):
        one.choose(Choices(batch([3], evidence), np.array([2]), np.ones(1, np.float32)))
    assert np.array_equal(theta(made), theta(other)) and theta(made)[1] > 0
    assert np.isnan(given[0][0])
    assert made.rerank(batch([3], given, score=[0.1, 0.2, 0.3])).tolist() == np.float32([0.2, 0.1, 0.3]).tolist()


def test_choices_that_teach_nothing_are_counted():
    choices = random_choices(4, 6, 4)
    choices.chosen[:2] = -1
    choices.reward[2:5] = [0, np.inf, np.nan]
    made, one = mixture(), batch([1], [[1, 2, 3]])
    made.choose(Choices(one, np.array([0]), np.ones(1, np.float32)))
    assert not made.take_changes()
    made.choose(choices)
    other = mixture()
    last = batch([4], choices.batch.evidence[20:], user=[6])
    other.choose(Choices(last, choices.chosen[5:] - 20, choices.reward[5:]))
    assert np.array_equal(theta(made), theta(other))
    told = made.metrics()
    assert (told["learned"], told["missed"], told["left_out"]) == (1, 3, 3)
    assert told["top_10_share"] == 1.0


def test_no_step_overshoots_however_old_the_inverse_is():
    made = mixture(head=4)
    choices = random_choices(5, 40, 6)
    choices.batch.evidence[:, 2] = 0
    made.choose(choices)
    absurd = batch([2], [[0, 0, -100], [0, 0, 100]])
    made.choose(Choices(absurd, np.array([1]), np.ones(1, np.float32)))
    # A step by the inverse of before, which knows nothing of this column, would be 10.
    assert 0 < theta(made)[2] < 0.02


def test_followers_get_the_weights_alone():
    made = mixture()
    made.choose(random_choices(6, 5, 6))
    assert sorted(made.take_changes()) == ["mixture.rows", "mixture.theta"]


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="add a retriever"):
        mixture(())
    with pytest.raises(ValueError, match="2 columns where the schema has 3"):
        mixture().rerank(batch([2], np.zeros((2, 2))))
    with pytest.raises(ValueError, match="choices without any"):
        mixture().choose(Choices(batch([2], None), np.zeros(1, np.int64), np.ones(1, np.float32)))


@pytest.mark.parametrize("keywords", [{"keep": 1.0}, {"rescue": 0.0, "head": 2}, {"prior_strength": 0.1, "keep": 0.9}])
def test_other_settings_pass_the_contract(keywords):
    check_learner(lambda: Mixture(**keywords))


def test_a_request_without_evidence_keeps_its_scores():
    made = mixture()
    given = batch([2, 3], [[np.nan] * 3] * 2 + [[0, 0, 0], [2, 0, 0], [1, 0, 0]], score=[0.3, 0.9, 0.5, 0.4, 0.2])
    assert made.rerank(given).tolist() == pytest.approx([0.3, 0.9, 0.2, 0.5, 0.4])
