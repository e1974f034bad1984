"""What every learner must do, whatever it learns: the checks that a new file is put through without being named anywhere.

A learner class may declare ``checks_parameters: ClassVar[dict[str, object]]``, constructor keywords that make it small, and
``checks_exempt: ClassVar[dict[str, str]]``, checks that cannot hold for it and why, in a sentence. An adapter declares
``checks_ranker: ClassVar[str]``, the ranker that it is checked with.
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
from learners.contract.learning import check_learns
from learners.contract.small import bound
from learners.contract.worlds import batch_of, choices_of, cut, world
from memory.pickled_object import trusting
from memory.stateful import Stateful, digest
from streams.batch import Batch, Feedback, Requests

__all__ = ["check_learner", "checks_for", "outputs", "world"]

LARGEST_TOLERANCE = 1e-3
"""Of what a learner may declare: sums in another order differ by less, and a forgotten row by more."""


def check_serves_before_learning(make: Make) -> None:
    """A learner that knows nothing answers all the same."""
    check_answers(make(), world(1))


def check_serving_changes_nothing(make: Make) -> None:
    """Answering leaves the state, and what is to be shipped, as they were; the same question gets the same answer."""
    learner, twin = taught(make), taught(make)
    learner.take_changes()
    before = digest_of(learner)
    first = outputs(learner, world(1))
    tolerance = tolerance_of(learner)
    same_answers(first, outputs(learner, world(1)), "the same question was answered differently", tolerance)
    for strangers in (world(2, first=500), cut(world(1), 0, 0)):
        outputs(learner, strangers)
    assert before is None or before == digest_of(learner), "serving changed the state"
    assert before is None or not learner.take_changes(), "serving left changes to ship"
    same_answers(outputs(twin, world(1)), outputs(learner, world(1)), "serving changed later answers", tolerance)


def check_inputs_are_left_alone(make: Make) -> None:
    """What is given is neither written to (but for the fields to be filled) nor kept, and what is returned is not the state."""
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
    same_learner(learner, twin, "a learner kept its input: writing to it afterwards changed the learner")
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
            {name: getattr(batch, name) for name in untouched}, untouched, "score wrote to fields that are not its own"
        )
    _spoil(outputs(learner, world(4)))
    _spoil(array_fields(batch))
    same_learner(learner, twin, "a learner returned its own state: writing to an answer changed the learner")


def check_learning_changes_the_state(make: Make) -> None:
    """Learning leaves its mark, in the state and in what is shipped."""
    assert digest(make().state_dict()) != digest(taught(make).state_dict()), "learning left the state as it was"
    assert taught(make).take_changes(), "learning left nothing to ship"


def check_same_seed_same_learner(make: Make) -> None:
    """The same constructor and the same feedback give the same learner."""
    same_learner(taught(make), taught(make), "two learners that were taught the same differ; is a seed missing?")


def check_save_and_load(make: Make) -> None:
    """A loaded learner is the saved one, answers like it and goes on like it; a state is a copy."""
    learner, other = taught(make), make()
    state = learner.state_dict()
    written = digest(state)
    other.learn(world(9, first=40))  # all of this must be gone after loading
    with trusting():
        other.load_state_dict(state)
    same_learner(learner, other, "a loaded learner differs from the saved one; is there state outside of memory's stores?")
    teach(learner, world(6))
    teach(other, world(6))
    same_learner(learner, other, "a loaded learner goes on differently; is there state outside of memory's stores?")
    assert digest(state) == written, "a saved state changed when learning went on: state_dict must copy"


def check_followers_keep_up(make: Make) -> None:
    """A fresh twin that applies all changes answers alike, at every step and through removals, without what is private."""
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
        with trusting():
            follower.apply_changes(leader.take_changes())
        complaint = "a follower differs from its leader; is a changed row not marked, or is something private read by answers?"
        same_follower(leader, follower, complaint, strangers)


def check_tolerance(make: Make) -> None:
    """What may differ on a GPU is small."""
    tolerance = make().tolerance
    assert 0 <= tolerance <= LARGEST_TOLERANCE, f"tolerance: {tolerance}; declare {LARGEST_TOLERANCE} at most, 0: none"


def check_strangers_and_empty_batches(make: Make) -> None:
    """Unknown users and items, and no rows at all, are ordinary input."""
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
    """Ten times the stream, of ever new users and items, takes no more memory."""
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
    """Shapes, types and finite numbers, once there is something to answer from."""
    learner = taught(make)
    check_answers(learner, world(1))
    check_answers(learner, cut(world(1), 5, 6))


def check_forgetting_and_removing(make: Make) -> None:
    """Users can be forgotten and items removed; removed items are not retrieved, and may come back by being learned again."""
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
    """Candidates are new to the request, different, at most k, best first, and scored as `score` scores them."""
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
                assert items.size <= k, f"{items.size} candidates where {k} were asked for"
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
    """The class says what it is and where it comes from, and every keyword is described."""
    cls = type(make())
    text = inspect.getdoc(cls) or ""
    assert "References\n----------" in text, f"the docstring of {cls.__name__} has no References section"
    for name in list(inspect.signature(cls.__init__).parameters)[1:]:
        assert f"{name} : " in text or f"{name}, " in text or f", {name} : " in text, (
            f"{name} is not described in {cls.__name__}"
        )


def check_policy(make: Callable[[], Policy]) -> None:
    """A policy puts different rows at at most k places, by the given generator alone, with the probabilities that it says."""
    policy = make()
    score, uncertainty = np.tile(np.array([0.4, 0.6, 0.4], np.float32), 4), np.tile(np.array([0.2, 0.1, 0.2], np.float32), 4)
    given = {"score": score.copy(), "uncertainty": uncertainty.copy()}
    for n, k in ((12, 12), (12, 5), (3, 9), (3, 0), (0, 5), (1, 1)):
        one, same = (policy.select(score[:n], uncertainty[:n], k, np.random.default_rng(k)) for _ in range(2))
        assert np.array_equal(one.rows, same.rows), "the same generator gave another order"
        assert one.rows.dtype == np.int64 and one.propensities.dtype == np.float32, "rows are int64, propensities float32"
        assert one.rows.shape == one.propensities.shape == (min(n, k),), f"{one.rows.shape} rows for {k} places and {n} rows"
        assert np.unique(one.rows).size == one.rows.size, "a row was put at two places"
    same_answers({"score": score, "uncertainty": uncertainty}, given, "a policy wrote to its input")
    rng, trials = np.random.default_rng(0), 2000
    seen: dict[tuple[int, ...], list[float]] = {}
    for _ in range(trials):
        one = policy.select(score[:3], uncertainty[:3], 2, rng)
        seen.setdefault(tuple(one.rows.tolist()), []).append(float(np.prod(one.propensities)))
    for order, told in seen.items():
        off = abs(len(told) / trials - told[0]) / np.sqrt(max(told[0] * (1 - told[0]), 1e-6) / trials)
        assert np.ptp(told) < 1e-6 and off < 5, f"propensity {told[0]} of {order}, which came {len(told)} times of {trials}"


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
    check_documented,
]


def check_exemptions(make: Make) -> None:
    """Every exemption names a check, and its reason is a sentence."""
    cls = type(make())
    every = {check.__name__ for check in _every(cls)}
    for name, reason in getattr(cls, "checks_exempt", {}).items():
        assert name in every, f"checks_exempt: {name!r} is no check of {cls.__name__}; remove it"
        assert re.fullmatch(r"[A-Z]\S*(\s+\S+){3,}\.", reason), (
            f"checks_exempt: {reason!r}, the reason for {name}, is no sentence; write one that ends with a full stop"
        )


def checks_for(cls: type) -> list[Callable[[Any], None]]:
    """Checks that a class must pass, by its role, less those it is exempt from."""
    if issubclass(cls, Policy):
        return [check_policy]
    exempt = getattr(cls, "checks_exempt", {})
    return [check_exemptions, *(check for check in _every(cls) if check.__name__ not in exempt)]


def check_learner(make: Callable[[], Learner | Policy]) -> None:
    """Run every check that applies.

    `make` makes a new learner (or policy) each time, always alike: ``lambda: MyRanker(factors=4)``; of an adapter,
    ``lambda: MyAdapter(bind_to_world(MyRanker()))``. It is bound before anything else is called. Raises AssertionError, saying
    what is wrong.
    """
    for check in checks_for(type(make())):
        check(bound(make))


def _every(cls: type) -> list[Callable[[Make], None]]:
    """Checks that a class of this role can be put through."""
    of_role: dict[type, list[Callable[[Make], None]]] = {
        Retriever: [check_retrieval, check_learns],
        Ranker: [check_learns],
        Reranker: [check_learns],
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
    assert np.allclose(told["score"], found.score, rtol=1e-4, atol=1e-5), "score and retrieve score the same rows differently"
    assert (found.uncertainty is not None) == learner.knows_uncertainty, "knows_uncertainty and retrieve do not agree"
    assert found.uncertainty is None or np.allclose(told["uncertainty"], found.uncertainty, rtol=1e-4, atol=1e-5), (
        "uncertainty and retrieve give the same rows different standard errors"
    )


def _clutter(value: object, depth: int = 4) -> int:
    """Count what an object holds in plain containers and arrays, outside of memory's stores."""
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, dict):
        return len(value) + sum(_clutter(inner, depth - 1) for inner in value.values() if depth)
    if isinstance(value, list | tuple | set | frozenset):
        return len(value) + sum(_clutter(inner, depth - 1) for inner in value if depth)
    if isinstance(value, Stateful) and type(value).stores is not Stateful.stores:
        return 0
    return sum(_clutter(inner, depth - 1) for inner in getattr(value, "__dict__", {}).values() if depth)
