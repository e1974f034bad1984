"""Checks that every learner must pass. A new learner's file is checked without being registered anywhere.

A learner class may declare ``checks_parameters: ClassVar[dict[str, object]]``, constructor keywords that make it small, and
``checks_exempt: ClassVar[dict[str, str]]``, the checks that it cannot pass, each with the reason in a sentence. An adapter
declares ``checks_ranker: ClassVar[str]``, the ranker that it is checked with.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

from learners.base import Adapter, Candidates, Choices, Exclusion, Learner, Policy, Ranker, Reranker, Retriever
from learners.contract.adaptation import check_adaptation
from learners.contract.answers import PLACES, Make, Outputs, check_answers, outputs, scored, taught, teach
from learners.contract.carried import check_carried
from learners.contract.equality import array_fields, digest_of, same_answers, same_follower, same_learner, tolerance_of
from learners.contract.extremes import check_extremes
from learners.contract.gradients import check_gradients
from learners.contract.grading import check_prefers_higher_rewards
from learners.contract.learning import check_learns
from learners.contract.small import bound
from learners.contract.worlds import batch_of, choices_of, cut, world
from memory.stateful import Stateful, digest
from streams.batch import Batch, Feedback, Requests

__all__ = ["check_learner", "checks_for", "outputs", "world"]

LARGEST_TOLERANCE = 1e-3
"""Of what a learner may declare: sums in another order differ by less, and a forgotten row by more."""


def check_serves_before_learning(make: Make) -> None:
    """A learner can serve before it has learned anything."""
    check_answers(make(), world(1))


def check_serving_changes_nothing(make: Make) -> None:
    """Serving changes neither the state nor the pending changes, and the same input gets the same output."""
    learner, twin = taught(make), taught(make)
    learner.take_changes()
    before = digest_of(learner)
    first = outputs(learner, world(1))
    tolerance = tolerance_of(learner)
    same_answers(first, outputs(learner, world(1)), "the same input got two different outputs", tolerance)
    for strangers in (world(2, first=500), cut(world(1), 0, 0)):
        outputs(learner, strangers)
    assert before is None or before == digest_of(learner), "serving changed the state"
    assert before is None or not learner.take_changes(), "serving left changes to ship"
    same_answers(outputs(twin, world(1)), outputs(learner, world(1)), "serving changed later answers", tolerance)


def check_inputs_are_left_alone(make: Make) -> None:
    """A learner does not keep its inputs, writes only to the fields it must fill, and does not return its own state."""
    learner, twin = make(), make()
    given, pristine = world(3), world(3)
    learner.learn(given)
    same_answers(array_fields(given), array_fields(pristine), "learn wrote to its input")
    batch = batch_of(pristine)
    learner.observe(batch)
    same_answers(array_fields(batch), array_fields(batch_of(pristine)), "observe wrote to its input")
    if isinstance(learner, Reranker) and isinstance(twin, Reranker) and learner.needs_evidence:
        _check_choices_are_left_alone(learner, twin, pristine)
    _spoil(array_fields(given))
    _spoil(array_fields(batch))
    twin.learn(pristine)
    twin.observe(batch_of(pristine))
    same_learner(learner, twin, "the learner keeps its input: writing to the input changed the learner; keep a copy")
    batch = batch_of(world(4))
    untouched = array_fields(batch_of(world(4)))
    exclude = Exclusion(batch.item.copy(), np.searchsorted(batch.request, np.arange(batch.user.size + 1)))
    if isinstance(learner, Reranker):
        learner.rerank(batch)
    elif isinstance(learner, Adapter):
        learner.adapt(batch)
    elif isinstance(learner, Retriever):
        found = learner.retrieve(batch, PLACES, exclude)
        assert np.array_equal(exclude.item, batch.item), "retrieve wrote to the exclusions"
        _spoil({field.name: getattr(found, field.name) for field in fields(found)})
        _spoil(scored(learner, batch))
    same_answers(array_fields(batch), untouched, "serving wrote to its input")
    if isinstance(learner, Ranker):
        learner.score(batch)
        for filled in ("score", "uncertainty", "hidden"):
            untouched.pop(filled)
        same_answers(
            {name: getattr(batch, name) for name in untouched},
            untouched,
            "score wrote to fields other than score, uncertainty and hidden",
        )
    _spoil(outputs(learner, world(4)))
    _spoil(array_fields(batch))
    same_learner(learner, twin, "the learner returns its own state: writing to an output changed the learner; return a copy")


def check_learning_changes_the_state(make: Make) -> None:
    """Learning changes the state, and the changes are sent to replicas."""
    assert digest(make().state_dict()) != digest(taught(make).state_dict()), "learning did not change the state"
    assert taught(make).take_changes(), "after learning, take_changes returned nothing"


def check_same_seed_same_learner(make: Make) -> None:
    """The same keywords and the same feedback give the same learner."""
    same_learner(taught(make), taught(make), "two learners with the same feedback differ; is a seed missing?")


def check_save_and_load(make: Make) -> None:
    """A loaded learner equals the saved one, now and after further learning. A saved state is a copy."""
    learner, other = taught(make), make()
    state = learner.state_dict()
    written = digest(state)
    other.learn(world(9, first=40))  # loading must replace all of this
    other.load_state_dict(state)
    same_learner(learner, other, "a loaded learner differs from the saved one; is there state outside of memory's stores?")
    teach(learner, world(6))
    teach(other, world(6))
    same_learner(learner, other, "a loaded learner learns differently; is there state outside of memory's stores?")
    assert digest(state) == written, "learning changed a saved state; state_dict must return a copy"


def check_followers_keep_up(make: Make) -> None:
    """A replica that applies all changes, but has no private state, answers like the original after every step."""
    leader, follower = make(), make()
    feedback, strangers = world(7), world(8, first=100)
    steps: list[Callable[[], None]] = [
        lambda: teach(leader, cut(feedback, 0, 100)),
        lambda: teach(leader, cut(feedback, 100, 240)),
        lambda: leader.forget(feedback.user[:20]),
        lambda: leader.remove(feedback.item[:20]),
        lambda: None,
        lambda: teach(leader, strangers),
        lambda: teach(leader, feedback),
    ]
    for step in steps:
        step()
        follower.apply_changes(leader.take_changes())
        complaint = "a replica differs from its original; is a changed row not marked, or do answers read private state?"
        same_follower(leader, follower, complaint, strangers)


def check_tolerance(make: Make) -> None:
    """A declared tolerance is small."""
    tolerance = make().tolerance
    assert 0 <= tolerance <= LARGEST_TOLERANCE, f"tolerance: {tolerance}; declare {LARGEST_TOLERANCE} at most, 0: none"


def check_strangers_and_empty_batches(make: Make) -> None:
    """A learner accepts unknown users and items, and batches without rows."""
    for learner in (make(), taught(make)):
        check_answers(learner, world(2, first=700))
        before = digest_of(learner)
        empty = cut(world(1), 0, 0)
        teach(learner, empty)
        learner.forget(empty.user)
        learner.remove(empty.item)
        assert before is None or before == digest_of(learner), "an empty batch changed the state"
        check_answers(learner, empty)
        learner.forget(np.array([12345, 0]))
        learner.remove(np.array([12345, 0]))
        teach(learner, world(2, first=700))
        check_answers(learner, world(2, first=700))


def check_memory_is_bounded(make: Make) -> None:
    """Memory does not grow with the length of the stream, even if all users and items are new."""
    learner = make()
    held, kept = [], []
    for part in range(11):
        teach(learner, world(part, first=1000 * part))
        outputs(learner, world(part, first=1000 * part))
        held.append(learner.nbytes)
        kept.append(_clutter(learner))
    assert len(set(held)) == 1, f"nbytes grew from {held[0]} to {held[-1]}; stores must have a capacity"
    assert kept[-1] <= kept[2], f"attributes outside of memory's stores grew from {kept[2]} to {kept[-1]} values"


def check_answers_after_learning(make: Make) -> None:
    """After learning, all outputs have the right shape and type, and are finite."""
    learner = taught(make)
    check_answers(learner, world(1))
    check_answers(learner, cut(world(1), 5, 6))


def check_forgetting_and_removing(make: Make) -> None:
    """Users can be forgotten and items removed. Removed items are not retrieved until they are learned again."""
    learner = taught(make)
    feedback = world(5)
    learner.forget(np.unique(feedback.user)[::2])
    learner.remove(np.unique(feedback.item)[::2])
    check_answers(learner, world(1))
    if isinstance(learner, Retriever):
        found = learner.retrieve(feedback, 100, Exclusion.none(feedback.user.size))
        assert not np.isin(found.item, np.unique(feedback.item)[::2]).any(), "a removed item was retrieved"
    teach(learner, feedback)
    check_answers(learner, world(1))


def check_retrieval(make: Make) -> None:
    """A request gets at most k candidates, all different and none excluded, best first, with the scores of `score`."""
    learner = taught(make)
    assert isinstance(learner, Retriever)
    feedback = world(5)
    for k in (0, 1, PLACES, 1000):
        start = np.searchsorted(feedback.request, np.arange(feedback.user.size + 1))
        for exclude in (Exclusion.none(feedback.user.size), Exclusion(feedback.item, start)):
            found = learner.retrieve(feedback, k, exclude)
            assert np.all(np.diff(found.request) >= 0), "candidates are not in the order of their requests"
            for b in range(feedback.user.size):
                mine = found.request == b
                items, score = found.item[mine], found.score[mine]
                assert items.size <= k, f"{items.size} candidates for k = {k}"
                assert np.unique(items).size == items.size, "an item was retrieved twice"
                assert not np.isin(items, exclude.item[exclude.start[b] : exclude.start[b + 1]]).any(), (
                    "an excluded item was retrieved"
                )
                bound = (
                    score
                    if found.uncertainty is None or not learner.optimism
                    else (score + learner.optimism * found.uncertainty[mine])
                )
                assert np.all(bound[1:] <= bound[:-1] + 1e-5), "candidates are not best first"
            if k == PLACES:
                _check_rescored(learner, feedback, found)
    found = learner.retrieve(feedback, PLACES, Exclusion.none(feedback.user.size))
    assert found.item.size, "nothing was retrieved after learning"


def check_documented(make: Make) -> None:
    """The docstring of the class describes every keyword and has references."""
    cls = type(make())
    text = inspect.getdoc(cls) or ""
    assert "References\n----------" in text, f"the docstring of {cls.__name__} has no References section; add one"
    for name in list(inspect.signature(cls.__init__).parameters)[1:]:
        assert f"{name} : " in text or f"{name}, " in text or f", {name} : " in text, (
            f"{name} is not described in the docstring of {cls.__name__}; add it"
        )


def check_policy(make: Callable[[], Policy]) -> None:
    """A policy fills up to k positions with different rows, uses only the given generator, and returns true propensities."""
    policy = make()
    score, uncertainty = np.tile(np.array([0.4, 0.6, 0.4], np.float32), 4), np.tile(np.array([0.2, 0.1, 0.2], np.float32), 4)
    given = {"score": score.copy(), "uncertainty": uncertainty.copy()}
    for n, k in ((12, 12), (12, 5), (3, 9), (3, 0), (0, 5), (1, 1)):
        one, same = (policy.select(score[:n], uncertainty[:n], k, np.random.default_rng(k)) for _ in range(2))
        assert np.array_equal(one.rows, same.rows), "the same generator gave another order"
        assert one.rows.dtype == np.int64 and one.propensities.dtype == np.float32, "rows are int64, propensities float32"
        assert one.rows.shape == one.propensities.shape == (min(n, k),), (
            f"{one.rows.shape} rows returned for k = {k} and {n} rows"
        )
        assert np.unique(one.rows).size == one.rows.size, "a row is at two positions"
    same_answers({"score": score, "uncertainty": uncertainty}, given, "a policy wrote to its input")
    rng, trials = np.random.default_rng(0), 2000
    seen: dict[tuple[int, ...], list[float]] = {}
    for _ in range(trials):
        one = policy.select(score[:3], uncertainty[:3], 2, rng)
        seen.setdefault(tuple(one.rows.tolist()), []).append(float(np.prod(one.propensities)))
    for order, told in seen.items():
        off = abs(len(told) / trials - told[0]) / np.sqrt(max(told[0] * (1 - told[0]), 1e-6) / trials)
        assert np.ptp(told) < 1e-6 and off < 5, f"{order} has propensity {told[0]} and was chosen {len(told)} times of {trials}"


_EVERY: list[Callable[[Make], None]] = [
    check_serves_before_learning,
    check_serving_changes_nothing,
    check_inputs_are_left_alone,
    check_learning_changes_the_state,
    check_same_seed_same_learner,
    check_save_and_load,
    check_followers_keep_up,
    check_tolerance,
    check_strangers_and_empty_batches,
    check_memory_is_bounded,
    check_answers_after_learning,
    check_forgetting_and_removing,
    check_extremes,
    check_carried,
    check_gradients,
    check_documented,
]


def check_exemptions(make: Make) -> None:
    """Every exemption names a check of the class, and gives a sentence as its reason."""
    cls = type(make())
    every = {check.__name__ for check in _every(cls)}
    for name, reason in getattr(cls, "checks_exempt", {}).items():
        assert name in every, f"checks_exempt: {name!r} is not a check of {cls.__name__}; remove it"
        assert re.fullmatch(r"[A-Z]\S*(\s+\S+){3,}\.", reason), (
            f"checks_exempt: the reason for {name}, {reason!r}, is not a sentence; write one that ends with a full stop"
        )


def checks_for(cls: type) -> list[Callable[[Any], None]]:
    """Return the checks of a class's role, without those it is exempt from."""
    if issubclass(cls, Policy):
        return [check_policy]
    exempt = getattr(cls, "checks_exempt", {})
    return [check_exemptions, *(check for check in _every(cls) if check.__name__ not in exempt)]


def check_learner(make: Callable[[], Learner | Policy]) -> None:
    """Run every check that applies.

    `make` returns a new learner or policy with the same keywords each time: ``lambda: MyRanker(factors=4)``, or for an adapter
    ``lambda: MyAdapter(bind_to_world(MyRanker()))``. The checks call `bind` first. Raises AssertionError with the problem.
    """
    for check in checks_for(type(make())):
        check(bound(make))


def _every(cls: type) -> list[Callable[[Make], None]]:
    """Return all checks of a class's role."""
    of_role: dict[type, list[Callable[[Make], None]]] = {
        Retriever: [check_retrieval, check_learns],
        Ranker: [check_learns, check_prefers_higher_rewards],
        Reranker: [check_learns, check_prefers_higher_rewards],
        Adapter: [check_adaptation],
    }
    return [*_EVERY, *(check for role, checks in of_role.items() if issubclass(cls, role) for check in checks)]


def _spoil(arrays: Outputs) -> None:
    for array in arrays.values():
        if array is not None and array.flags.writeable:
            array[...] = array.dtype.type(1)


def _check_choices_are_left_alone(learner: Reranker, twin: Reranker, feedback: Feedback) -> None:
    choices, pristine = choices_of(feedback), choices_of(feedback)
    learner.choose(choices)
    given = _arrays(choices)
    same_answers(given, _arrays(pristine), "choose wrote to its input")
    _spoil(given)
    twin.choose(pristine)


def _arrays(choices: Choices) -> Outputs:
    return {"chosen": choices.chosen, "choice's reward": choices.reward, **array_fields(choices.batch)}


def _check_rescored(learner: Retriever, feedback: Feedback, found: Candidates) -> None:
    none = np.zeros((found.item.size, 0))
    of_requests = {field.name: getattr(feedback, field.name) for field in fields(Requests)}
    batch = Batch(
        **of_requests,
        item=found.item,
        request=found.request,
        features=none.astype(np.int64),
        values=none.astype(np.float32),
    )
    told = scored(learner, batch)
    assert np.allclose(told["score"], found.score, rtol=1e-4, atol=1e-5), (
        "score and retrieve return different scores for the same rows"
    )
    assert (found.uncertainty is not None) == learner.knows_uncertainty, (
        "knows_uncertainty does not match what retrieve returns"
    )
    assert found.uncertainty is None or np.allclose(told["uncertainty"], found.uncertainty, rtol=1e-4, atol=1e-5), (
        "uncertainty and retrieve return different standard errors for the same rows"
    )


def _clutter(value: object, depth: int = 4) -> int:
    """Count the values that an object holds in containers and arrays outside of memory's stores."""
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, dict):
        return len(value) + sum(_clutter(inner, depth - 1) for inner in value.values() if depth)
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) + sum(_clutter(inner, depth - 1) for inner in value if depth)
    if isinstance(value, Stateful) and type(value).stores is not Stateful.stores:
        return 0
    return sum(_clutter(inner, depth - 1) for inner in getattr(value, "__dict__", {}).values() if depth)
