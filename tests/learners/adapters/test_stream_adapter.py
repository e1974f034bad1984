"""StreamAdapter's states, and when they are used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learners.adapters.stream_adapter import StreamAdapter
from learners.base import LowRank
from learners.contract.small import bind_to_world, small
from learners.contract.worlds import batch_of, cut, feedback_of
from learners.networks.sequence.absorbing import states_before
from learners.networks.sequence.candidates import SoftmaxItems
from learners.networks.sequence.slab import chunks_before
from learners.rankers.deep import Deep
from learners.rankers.sequential import Sequential
from learners.retrievers.next_item import NextItem
from memory.stateful import digest

CHUNK = 2
RETRIEVER = {"items": 32, "users": 16, "length": 40, "width": 8, "chunk": CHUNK, "chunks": 2, "every": 10_000, "dropout": 0.0}
ADAPTER = {"users": 16, "rank": 3, "every": 10_000, "chunks": 4, "evidence": 0, "joint": False}


def likes(events, seed=0, users=3):
    """Likes of some users in turn, with the history of each."""
    rng = np.random.default_rng(seed)
    user, item = np.arange(events) % users, rng.integers(0, 20, events)
    feedback = feedback_of(user=user + 1, item=item + 101, reward=np.ones(events), timestamp=1e9 + np.arange(events))
    for n in range(events):
        mine = np.flatnonzero(user[:n] == user[n])[::-1][:5]
        feedback.history[n, : mine.size] = item[mine] + 101
        feedback.history_time[n, : mine.size] = feedback.timestamp[mine]
    return feedback


def made(**keywords):
    """A retriever, and an adapter of its ranker whose map is no longer zero."""
    retriever = NextItem(**RETRIEVER)
    adapter = StreamAdapter(Sequential(retriever), **ADAPTER | keywords)
    with torch.no_grad():
        for name, parameter in adapter.context.network.module.named_parameters():
            if name.endswith("shared"):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return retriever, adapter


def fed(feedback, step, **keywords):
    retriever, adapter = made(**keywords)
    for start in range(0, feedback.rows, step):
        part = cut(feedback, start, min(start + step, feedback.rows))
        retriever.learn(part)
        adapter.learn(part)
    return retriever, adapter


def after(events, users=3):
    """The next requests of the users after so many likes."""
    return batch_of(cut(likes(events + users, users=users), events, events + users))


def test_chunks_before_the_window():
    assert chunks_before(np.array([0, 1, 4, 5, 6, 7, 8, 9]), CHUNK).tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def test_a_state_absorbed_chunk_by_chunk_equals_one_that_is_computed_anew():
    feedback = likes(90)
    _, one = fed(feedback, 3)
    _, other = fed(feedback, 90)
    assert one.metrics()["anew"] == other.metrics()["anew"] == 3
    for name in ("vectors", "fresh", "chunks"):
        ours, theirs = (adapter.slab.states[name][adapter.slab.states.find(np.array([1, 2, 3]))] for adapter in (one, other))
        assert np.allclose(ours, theirs, atol=1e-6)
    assert one.slab.states["chunks"].max() == 13
    _, aged = fed(feedback, 3, age=1, every=30)
    assert aged.metrics()["anew"] > 3


def test_a_state_equals_the_one_that_lessons_learn_with():
    retriever, adapter = fed(likes(60), 3)  # 20 likes each
    model = retriever.model
    slot = model.sequences.index.find(np.array([1, 2, 3]))
    item = model.slots(model.sequences.rings["item"][slot, :20])
    chunks = 9
    slots = np.concatenate([np.full((3, CHUNK), -1), item[:, : chunks * CHUNK]], axis=1)
    time = np.zeros((3, slots.shape[1] + 1))
    time[:, CHUNK:] = model.sequences.rings["timestamp"][slot, : chunks * CHUNK + 1]
    following = item[:, 1 : chunks * CHUNK + 1].reshape(3, chunks, CHUNK)
    softmax = SoftmaxItems(np.arange(20), np.zeros(20, np.float32))
    with torch.no_grad():
        lesson = model.read(slots, time, following, softmax)
        states = states_before(model, adapter.context.network.module, lesson.events, lesson.known, chunks)
    last = states.vectors.reshape(3, chunks, -1)[:, -1].numpy()
    # The last window of the lesson is of chunks 7 and 8: its state has the chunks up to 6.
    _, short = fed(likes(3 * 18), 3)
    assert short.slab.states["chunks"][short.slab.states.find(np.array([1, 2, 3]))].tolist() == [7, 7, 7]
    ours = short.slab.states["vectors"][short.slab.states.find(np.array([1, 2, 3]))]
    assert np.allclose(ours, last, atol=1e-6)


def test_a_request_gets_the_state_of_its_own_moment_or_none():
    feedback = likes(63)
    _, adapter = fed(feedback, 3)
    delta = adapter.adapt(after(63))
    assert set(delta) == set(adapter.changes)
    change = delta["blocks.0.down.weight"]
    assert isinstance(change, LowRank) and change.u.shape == (3, 8, 3) and change.v.shape == (3, 32, 3)
    assert change.u.any(axis=(1, 2)).all()
    old = batch_of(cut(feedback, 30, 33))
    assert adapter.adapt(old) == {}, "the state has chunks that were liked after this request"
    ahead = after(66)
    assert adapter.adapt(ahead)["blocks.0.down.weight"].u.any(), "one like more, and the same chunks"


def test_a_young_user_gets_no_change_and_an_older_one_beside_it_does():
    _, adapter = fed(likes(60), 3)
    batch = after(60)
    batch.user[0], batch.history[0] = 77, 0
    change = adapter.adapt(batch)["blocks.1.down.weight"]
    assert change.u.any(axis=(1, 2)).tolist() == [False, True, True]
    plain, adapted = after(60), after(60)
    adapted.user[0], adapted.history[0] = plain.user[0], plain.history[0] = 77, 0
    adapter.ranker.score(plain)
    adapter.ranker.score(adapted, adapter.adapt(batch))
    assert (plain.score == adapted.score).tolist() == [True, False, False]


def test_strength_0_is_the_ranker():
    retriever, adapter = fed(likes(60), 3, alpha=0.0, joint=True)
    assert adapter.adapt(after(60)) == {}
    assert retriever.model.companion is None


def test_confidence_grows_with_the_chunks():
    ratios = []
    for events in (21, 60):
        _, young = fed(likes(events), 3)
        _, young_sure = fed(likes(events), 3, confidence=False)
        batch = after(events)
        ratios.append(
            np.abs(young.adapt(batch)["blocks.0.down.weight"].u).sum()
            / np.abs(young_sure.adapt(batch)["blocks.0.down.weight"].u).sum()
        )
    assert 0 < ratios[0] < ratios[1] < 1


@pytest.mark.parametrize(("gain", "opened"), [(0.1, True), (-0.1, False), (0.0, False)])
def test_the_gate_is_open_while_likes_gain(gain, opened):
    _, adapter = fed(likes(60), 3, evidence=20, keep=0.9)
    adapter.gate["weight"][:], adapter.gate["gain"][:] = 0, 0
    adapter._count(np.zeros(10, np.int64), np.full(10, gain))
    assert adapter.metrics()["open_below_32"] == 0, "too little evidence"
    adapter._evidence = 5
    assert adapter.metrics()["open_below_32"] == opened
    assert adapter.metrics()["open_from_128"] == 0
    assert bool(adapter.adapt(after(60))) == opened
    assert adapter.metrics()["gain_below_32"] == pytest.approx(gain)
    adapter._count(np.zeros(40, np.int64), np.full(40, -gain))
    assert adapter.metrics()["gain_below_32"] == pytest.approx(-gain, rel=0.05)


def test_forgetting_a_user_deletes_the_state():
    _, adapter = fed(likes(60), 3)
    adapter.forget(np.array([1]))
    assert adapter.adapt(after(60))["blocks.0.down.weight"].u.any(axis=(1, 2)).tolist() == [False, True, True]


def test_memory_of_a_user_does_not_grow_with_the_history():
    _, short = fed(likes(60), 3)
    _, long = fed(likes(600), 30)
    assert short.nbytes == long.nbytes
    assert long.slab.states["vectors"][0].nbytes == 4 * 2 * 3 * 8


def test_the_ranker_is_not_changed_and_the_model_learns_with_the_changes_if_joint():
    retriever, adapter = made(joint=True)
    assert retriever.model.companion is not None
    retriever.learn(likes(60))
    before = digest(retriever.state_dict())
    adapter.learn(likes(60))
    assert digest(retriever.state_dict()) == before
    apart = NextItem(**RETRIEVER)
    apart.learn(likes(60))
    lessons = []
    for learner in (retriever, apart):
        lesson = learner.model.lesson(np.random.default_rng(0), 8)
        learner.model.step(lesson, np.random.default_rng(0), 0.01)
        lessons.append(digest(learner.state_dict()))
    assert lessons[0] != lessons[1]


def test_other_rankers_are_refused():
    ranker = bind_to_world(Deep())
    with pytest.raises(ValueError, match="ranker: Deep has no window of likes; choose sequential"):
        StreamAdapter(ranker)
    assert isinstance(small(StreamAdapter.__mro__[1], "stream_adapter").ranker, Sequential)
