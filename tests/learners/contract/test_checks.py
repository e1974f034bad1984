"""Each contract check catches a learner with one planted fault."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import Adapter, Candidates, Exclusion
from learners.contract import checks
from learners.contract.adaptation import check_adaptation
from learners.contract.worlds import world
from learners.policies.greedy import Greedy
from memory.arrays import Arrays
from tests.adaptable import Linear
from tests.learners.honest import GoodRanker, GoodReranker, GoodRetriever, SureRetriever


class GoodAdapter(Adapter):
    """Counts the rows that were shown.

    References
    ----------
    None needed.
    """

    changes = ("scale",)

    def __init__(self) -> None:
        super().__init__(Linear())
        self.shown = Arrays(times=np.zeros(3, np.float32))

    def adapt(self, batch):
        return {"scale": self.shown["times"].copy()}

    def observe(self, batch):
        if batch.rows:
            self.shown["times"][:] += batch.rows
            self.shown.mark()


GOOD = [GoodRanker, GoodRetriever, SureRetriever, GoodReranker, GoodAdapter]


@pytest.mark.parametrize("cls", GOOD)
def test_good_learners_pass(cls):
    checks.check_learner(cls)


def planted(cls, **methods):
    """Return a subclass of a good learner with faulty methods. Each receives the good method as its first argument."""

    def bind(name, method):
        return lambda self, *given: method(getattr(cls, name).__get__(self), self, *given)

    documented = {"__doc__": cls.__doc__, "__init__": cls.__init__}
    return type("Bad", (cls,), documented | {name: bind(name, method) for name, method in methods.items()})


def writes_to_rewards(good, self, feedback):
    good(feedback)
    feedback.reward[:] = 0


def writes_to_what_was_shown(good, self, batch):
    batch.item[:] = 1


def keeps_its_input(good, self, feedback):
    good(feedback)
    self._feedback = feedback


def uses_what_it_kept(good, self, batch):
    good(batch)
    if hasattr(self, "_feedback"):
        batch.score += self._feedback.reward[:1].sum()


def returns_its_state(good, self, batch):
    good(batch)
    batch.hidden = np.broadcast_to(self.items["total"][:1], (1, 1))[: batch.rows]
    if batch.rows == world(4).rows:
        batch.score = self.items["total"]


def writes_to_requests(good, self, batch):
    good(batch)
    batch.history[:] = 0


def keeps_a_list(good, self, feedback):
    good(feedback)
    self.__dict__.setdefault("mine", []).append(1.0)


def scores_by_its_list(good, self, batch):
    good(batch)
    batch.score += len(getattr(self, "mine", []))


def counts_questions(good, self, batch):
    good(batch)
    self.seen["times"][0] += 1


def answers_at_random(good, self, batch):
    good(batch)
    batch.score += np.random.default_rng().random()


def starts_at_random(good, self):
    good()
    self.seen["times"][:] = np.random.default_rng().random()


def forgets_to_mark(good, self, feedback):
    good(feedback)
    self.items.dirty[:] = False


def grows(good, self, feedback):
    good(feedback)
    self.more = Arrays(times=np.zeros(len(self.__dict__.get("more", Arrays(times=np.zeros(1)))) + 1))


def returns_nan(good, self, batch):
    good(batch)
    batch.score[: batch.rows // 2] = np.nan


def returns_doubles(good, self, batch):
    good(batch)
    batch.score = batch.score.astype(np.float64)


def returns_too_few(good, self, batch):
    good(batch)
    batch.score = batch.score[:-1]


def fails_on_nothing(good, self, batch):
    good(batch)
    batch.score[0] += 0


def learns_nothing(good, self, feedback):
    pass


def fails_at_once(good, self, batch):
    assert len(self.items), "nothing learned yet"
    good(batch)


def ignores_exclusions(good, self, requests, k, exclude):
    return good(requests, k, Exclusion.none(requests.user.size))


def retrieves_twice(good, self, requests, k, exclude):
    found = good(requests, k // 2, exclude)
    return Candidates(*(np.repeat(array, 2) for array in (found.item, found.request, found.score)))


def retrieves_too_many(good, self, requests, k, exclude):
    return good(requests, k + 1, exclude)


def retrieves_worst_first(good, self, requests, k, exclude):
    found = good(requests, k, exclude)
    found.score *= -1
    return found


def scores_otherwise(good, self, batch):
    return good(batch) + 1


def returns_no_scores(good, self, batch):
    batch.score[:] = good(batch)


def overwrites_scores(good, self, batch):
    batch.score[:] = good(batch)
    return batch.score.copy()


def returns_what_it_was_given(good, self, batch):
    return batch.score


def is_surer_than_it_said(good, self, batch):
    return good(batch) / 2


def tells_no_errors(good, self, requests, k, exclude):
    found = good(requests, k, exclude)
    found.uncertainty = None
    return found


def keeps_removed_items(good, self, items):
    pass


def writes_to_scores(good, self, batch):
    reranked = good(batch)
    batch.score[:] = reranked
    return reranked


def returns_the_parameter(good, self, batch):
    return {"scale": self.shown["times"]}


def adapts_nothing(good, self, batch):
    return {}


def adapts_the_ranker(good, self, batch):
    good(batch)
    self.ranker.parameters["scale"][:] += 1


def adapts_what_it_did_not_declare(good, self, batch):
    return good(batch) | {"weight": np.zeros((3, 2), np.float32)}


def adapts_another_shape(good, self, batch):
    return {"scale": np.zeros((batch.user.size, 3), np.float32)}


def adapts_to_infinity(good, self, batch):
    return {"scale": np.full(3, np.inf, np.float32)}


BAD = [
    (GoodRanker, {"learn": writes_to_rewards}, checks.check_inputs_are_left_alone, "learn wrote to its input"),
    (GoodRanker, {"observe": writes_to_what_was_shown}, checks.check_inputs_are_left_alone, "observe wrote to its input"),
    (GoodRanker, {"learn": keeps_its_input, "score": uses_what_it_kept}, checks.check_inputs_are_left_alone, "keeps its input"),
    (GoodRanker, {"score": returns_its_state}, checks.check_inputs_are_left_alone, "returns its own state"),
    (GoodRanker, {"score": writes_to_requests}, checks.check_inputs_are_left_alone, "wrote to fields other than score"),
    (GoodReranker, {"rerank": writes_to_scores}, checks.check_inputs_are_left_alone, "serving wrote to its input"),
    (GoodAdapter, {"adapt": returns_the_parameter}, checks.check_inputs_are_left_alone, "returns its own state"),
    (GoodAdapter, {"adapt": adapts_nothing}, check_adaptation, "changes no score"),
    (GoodAdapter, {"observe": adapts_the_ranker}, check_adaptation, "changed the ranker's state"),
    (GoodAdapter, {"adapt": adapts_what_it_did_not_declare}, checks.check_answers_after_learning, "does not declare it"),
    (GoodAdapter, {"adapt": adapts_another_shape}, checks.check_answers_after_learning, "has shape"),
    (GoodAdapter, {"adapt": adapts_to_infinity}, checks.check_answers_after_learning, "NaN or infinity"),
    (GoodRanker, {"learn": keeps_a_list, "score": scores_by_its_list}, checks.check_save_and_load, "a loaded learner differs"),
    (GoodRanker, {"learn": keeps_a_list, "score": scores_by_its_list}, checks.check_followers_keep_up, "a replica differs"),
    (GoodRanker, {"learn": keeps_a_list}, checks.check_memory_is_bounded, "attributes outside of memory's stores grew"),
    (GoodRanker, {"learn": grows}, checks.check_memory_is_bounded, "nbytes grew"),
    (GoodRanker, {"score": counts_questions}, checks.check_serving_changes_nothing, "serving changed the state"),
    (GoodRanker, {"score": answers_at_random}, checks.check_serving_changes_nothing, "two different outputs"),
    (GoodRanker, {"__init__": starts_at_random}, checks.check_same_seed_same_learner, "is a seed missing"),
    (GoodRanker, {"learn": forgets_to_mark}, checks.check_followers_keep_up, "is a changed row not marked"),
    (GoodRanker, {"score": returns_nan}, checks.check_answers_after_learning, "score has NaN"),
    (GoodRanker, {"score": returns_doubles}, checks.check_answers_after_learning, "score is float64, not float32"),
    (GoodRanker, {"score": returns_too_few}, checks.check_answers_after_learning, "score has shape"),
    (GoodRanker, {"score": fails_on_nothing}, checks.check_strangers_and_empty_batches, "out of bounds"),
    (GoodRanker, {"score": fails_at_once}, checks.check_serves_before_learning, "nothing learned yet"),
    (GoodRanker, {"learn": learns_nothing}, checks.check_learning_changes_the_state, "did not change the state"),
    (GoodRetriever, {"retrieve": ignores_exclusions}, checks.check_retrieval, "an excluded item was retrieved"),
    (GoodRetriever, {"retrieve": retrieves_twice}, checks.check_retrieval, "an item was retrieved twice"),
    (GoodRetriever, {"retrieve": retrieves_too_many}, checks.check_retrieval, "candidates for k"),
    (GoodRetriever, {"retrieve": retrieves_worst_first}, checks.check_retrieval, "not best first"),
    (GoodRetriever, {"score": scores_otherwise}, checks.check_retrieval, "different scores for the same rows"),
    (GoodRetriever, {"score": returns_no_scores}, checks.check_serves_before_learning, "score returned NoneType"),
    (GoodRetriever, {"score": overwrites_scores}, checks.check_inputs_are_left_alone, "serving wrote to its input"),
    (GoodRetriever, {"score": returns_what_it_was_given}, checks.check_inputs_are_left_alone, "serving wrote to its input"),
    (SureRetriever, {"uncertainty": is_surer_than_it_said}, checks.check_retrieval, "different standard errors"),
    (SureRetriever, {"retrieve": tells_no_errors}, checks.check_retrieval, "knows_uncertainty does not match"),
    (GoodRetriever, {"learn": learns_nothing}, checks.check_retrieval, "nothing was retrieved"),
    (GoodRetriever, {"remove": keeps_removed_items}, checks.check_forgetting_and_removing, "a removed item was retrieved"),
]


NAMES = ["-".join(method.__name__ for method in methods.values()) + check.__name__[5:] for _, methods, check, _ in BAD]


@pytest.mark.parametrize(("cls", "methods", "check", "complaint"), BAD, ids=NAMES)
def test_planted_faults_are_caught(cls, methods, check, complaint):
    with pytest.raises((AssertionError, IndexError, ValueError), match=complaint):
        check(planted(cls, **methods))
    assert check in checks.checks_for(cls)


class Bragging(Greedy):
    """Returns wrong propensities."""

    def select(self, score, uncertainty, k, rng):
        ranking = super().select(score, uncertainty, k, rng)
        ranking.propensities[:] = 1
        return ranking


class Careless(Greedy):
    """Puts the first row at every position."""

    def select(self, score, uncertainty, k, rng):
        ranking = super().select(score, uncertainty, k, rng)
        ranking.rows[:] = ranking.rows[:1]
        return ranking


class Fickle(Greedy):
    """Ignores the given random generator."""

    def select(self, score, uncertainty, k, rng):
        return super().select(score, uncertainty, k, np.random.default_rng())


@pytest.mark.parametrize(
    ("cls", "complaint"), [(Bragging, "propensity"), (Careless, "at two positions"), (Fickle, "the same generator")]
)
def test_bad_policies_are_caught(cls, complaint):
    with pytest.raises(AssertionError, match=complaint):
        checks.check_policy(cls)
    checks.check_policy(Greedy)


def test_documentation_is_required():
    class Silent(GoodReranker):
        """Has no references."""

    class Terse(GoodRanker):
        """Does not describe its keyword.

        References
        ----------
        None.
        """

    with pytest.raises(AssertionError, match="no References section"):
        checks.check_documented(Silent)
    with pytest.raises(AssertionError, match="start is not described"):
        checks.check_documented(Terse)


def test_exemptions():
    exempt = type("Exempt", (GoodRanker,), {"checks_exempt": {"check_documented": "It is only a test."}})
    assert checks.check_documented not in checks.checks_for(exempt)
    assert checks.check_documented in checks.checks_for(GoodRanker)
    checks.check_exemptions(exempt)


@pytest.mark.parametrize(
    ("exempt", "complaint"),
    [
        ({"check_learns": ""}, "the reason for check_learns, '', is not a sentence"),
        ({"check_learns": "slow"}, "is not a sentence"),
        ({"check_learns": "it is one of the slower learners"}, "is not a sentence"),
        ({"check_retrieval": "It retrieves nothing at all."}, "'check_retrieval' is not a check of Exempt"),
        ({"check_exemptions": "It wants no such questions."}, "'check_exemptions' is not a check of Exempt"),
    ],
)
def test_exemptions_need_a_check_and_a_reason(exempt, complaint):
    cls = type("Exempt", (GoodRanker,), {"checks_exempt": exempt})
    with pytest.raises(AssertionError, match=complaint):
        checks.check_exemptions(cls)
    assert checks.check_exemptions in checks.checks_for(cls)


class Unbound(GoodRanker):
    __doc__ = GoodRanker.__doc__

    def bind(self, schema, catalogues, history):
        assert not hasattr(self, "columns"), "bound twice"
        self.columns = [column.name for column in schema.features]
        self.users = catalogues.users.find(world(5).user)
        self.history = history

    def score(self, batch, delta=None):
        assert len(self.columns) == batch.features.shape[1]
        assert (self.users >= 0).all()
        assert self.history.recent(batch.user, 3)[0].shape == (batch.user.size, 3)
        super().score(batch)


def test_learners_are_bound_before_anything_else():
    checks.check_learner(Unbound)


def test_learners_without_stable_bytes_are_compared_by_their_answers():
    class Unstable(GoodRanker):
        __doc__ = GoodRanker.__doc__
        digest_stable = False

        def __init__(self, start: float = 0.5) -> None:
            super().__init__(start)
            self.seen["times"][:] = np.random.default_rng().random()

    checks.check_learner(Unstable)
