from __future__ import annotations

import numpy as np
import pytest

from learners.contract.worlds import cut, feedback_of, numbers_of, world


def test_the_world_has_its_answer():
    feedback = world(3, rows=4000)
    who, what = np.unique(feedback.features[:, 2]), np.unique(feedback.features[:, 3])
    means = np.array(
        [[feedback.reward[(feedback.features[:, 2] == u) & (feedback.features[:, 3] == i)].mean() for i in what] for u in who]
    )
    assert sorted(means.max(axis=1).round(1)) == pytest.approx([0.8] * 4, abs=0.11)
    assert np.sort(means, axis=1)[:, :3].max() < 0.2
    assert all(np.array_equal(getattr(world(3), name), getattr(world(3), name)) for name in ("item", "reward", "hidden"))
    assert not np.isin(world(1, first=100).item, world(1).item).any()


def test_cut_keeps_rows_and_requests_together():
    feedback = world(1)
    part = cut(feedback, 50, 90)
    assert np.array_equal(part.item, feedback.item[50:90])
    assert np.array_equal(part.user[part.request], feedback.user[feedback.request[50:90]])
    part.item[:] = 0
    assert feedback.item.all()
    assert cut(feedback, 0, 0).rows == cut(feedback, 0, 0).user.size == 0


def test_feedback_of_has_a_request_for_each_row():
    one = feedback_of(user=[1, 2], item=[3, 4], reward=[1, 0])
    assert one.rows == one.score.size == one.user.size == 2
    assert one.request.tolist() == [0, 1]


def test_numbers_of_ids():
    feedback = world(1, users=12, items=12)
    user, item = numbers_of(feedback.user, feedback.item, 12)
    assert set(user.tolist()) == set(item.tolist()) == set(range(12))
    assert np.unique(np.stack((feedback.item, item)), axis=1).shape[1] == 12
    with pytest.raises(ValueError, match="is not in the world"):
        numbers_of(feedback.user, world(1, first=100).item, 12)


def test_the_chances_of_a_world_are_given():
    feedback = world(1, rows=4000, users=12, items=12, chance=lambda user, item: (user + item) % 5 / 4)
    user, item = numbers_of(feedback.user[feedback.request], feedback.item, 12)
    chance = (user + item) % 5 / 4
    assert [feedback.reward[chance == p].mean() for p in np.unique(chance)] == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.05)
