from __future__ import annotations

import numpy as np
import pytest

from service.monitoring.quality import Window, auc, gain, grouped_auc, impression_auc, log_loss, losses, top_reward


def brute_force(score: np.ndarray, positive: np.ndarray) -> float:
    wins = [(p > n) + 0.5 * (p == n) for p in score[positive] for n in score[~positive]]
    return float(np.mean(wins))


def test_auc_of_known_orders() -> None:
    label = np.array([True, False, True, False])
    assert auc(np.array([4, 1, 3, 2], np.float32), label) == 1.0
    assert auc(np.array([1, 4, 2, 3], np.float32), label) == 0.0
    assert auc(np.zeros(4, np.float32), label) == 0.5
    assert np.isnan(auc(np.zeros(2, np.float32), np.array([True, True])))
    assert np.isnan(auc(np.empty(0, np.float32), np.empty(0, np.bool_)))


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_every_pair_with_ties_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, positive = rng.integers(0, 8, 60).astype(np.float32), rng.random(60) < 0.3
    assert auc(score, positive) == pytest.approx(brute_force(score, positive))


def test_grouped_auc_weighs_users_by_rows_and_leaves_out_single_classes() -> None:
    rng = np.random.default_rng(0)
    user, score, positive = rng.integers(0, 5, 200), rng.random(200).astype(np.float32), rng.random(200) < 0.4
    user = np.append(user, [99, 99])
    score, positive = np.append(score, [0.1, 0.9]).astype(np.float32), np.append(positive, [True, True])
    own = [brute_force(score[user == u], positive[user == u]) for u in range(5)]
    rows = [(user == u).sum() for u in range(5)]
    assert grouped_auc(user, score, positive) == pytest.approx(np.average(own, weights=rows))


def test_log_loss_is_finite_at_the_ends() -> None:
    loss = log_loss(np.array([0.5, 1.0, 0.0], np.float32), np.array([1.0, 0.0, 0.0], np.float32))
    np.testing.assert_allclose(loss, [np.log(2), -np.log(1e-7), 0], atol=1e-6)


def add(window: Window, score: np.ndarray, label: np.ndarray, first: int = 0) -> None:
    window.add(score, label, np.full(score.size, -1), first)


def test_the_impression_auc_counts_each_impression_once() -> None:
    impression = np.array([0, 0, 0, 0, 1, 1, 2, 2, -1, -1])
    score = np.array([4, 3, 2, 1, 1, 2, 5, 6, 9, 1], np.float32)
    positive = np.array([1, 0, 0, 1, 1, 0, 0, 0, 0, 1], np.bool_)
    assert impression_auc(impression, score, positive) == (0.5 + 0.0) / 2
    assert np.isnan(impression_auc(impression[6:], score[6:], positive[6:]))


def test_a_window_holds_the_last_rows_only() -> None:
    window = Window(4)
    assert np.isnan(window.auc())
    add(window, np.array([9, 9, 9], np.float32), np.array([0, 0, 0], np.float32))
    add(window, np.array([0.9, 0.1, 0.8, 0.2], np.float32), np.array([1, 0, 1, 0], np.float32), first=3)
    assert window.rows == 4
    assert window.auc() == 1.0
    add(window, np.arange(10, dtype=np.float32), np.array([0, 1] * 5, np.float32), first=7)
    assert window.auc() == brute_force(np.array([6, 7, 8, 9.0]), np.array([False, True, False, True]))


def test_gain_is_the_difference_of_losses_with_the_margin_of_its_runs() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        label = (rng.random(1000) < 0.3).astype(np.float32)
        true, wrong = np.full(1000, 0.3, np.float32), np.full(1000, 0.5, np.float32)
        mean, margin = gain(true, wrong, label)
        assert mean == pytest.approx((log_loss(wrong, label) - log_loss(true, label)).mean())
        expected = 0.3 * np.log(0.3 / 0.5) + 0.7 * np.log(0.7 / 0.5)
        inside.append(abs(mean - expected) < margin)
    assert 0.88 < np.mean(inside) < 0.99
    assert gain(true, true, label) == (0, 0)
    assert np.isnan(gain(true[:99], true[:99], label[:99])[1])
    assert np.isnan(gain(true[:0], true[:0], label[:0])).all()


def test_gain_of_windows_is_that_of_the_rows_they_hold() -> None:
    rng = np.random.default_rng(0)
    one, base = Window(500), Window(500)
    score, other = rng.uniform(0.1, 0.9, 700).astype(np.float32), rng.uniform(0.1, 0.9, 700).astype(np.float32)
    label = (rng.random(700) < 0.5).astype(np.float32)
    add(one, score, label)
    add(base, other, label)
    assert one.gain(base)[0] == pytest.approx(gain(score[-500:], other[-500:], label[-500:])[0])


def test_losses_have_the_labels_and_weights_of_graded_rewards() -> None:
    loss, weight = losses(np.array([0.8, 0.8, 0.8], np.float32), np.array([5.0, 1.0, -2.0], np.float32))
    assert loss.tolist() == pytest.approx([-np.log(0.8), -np.log(0.8), -np.log(0.2)])
    assert weight.tolist() == [5.0, 1.0, 3.0]


def test_a_gain_weighs_rows_by_their_rewards() -> None:
    score, base = np.array([0.8, 0.2] * 100, np.float32), np.full(200, 0.5, np.float32)
    mean, margin = gain(score, base, np.array([3.0, 1.0] * 100, np.float32))
    assert mean == pytest.approx((3 * np.log(0.8 / 0.5) + np.log(0.2 / 0.5)) / 4)
    assert margin == pytest.approx(0, abs=1e-9)


def test_the_reward_of_the_first_item_by_score() -> None:
    number = np.array([-1, 3, 3, 3, 7, 7, 9, -1])
    score = np.array([9.0, 0.1, 0.5, 0.2, 0.4, 0.4, 0.1, 9.0], np.float32)
    reward = np.array([100.0, 1.0, 5.0, 0.0, 3.0, 0.0, -2.0, 100.0], np.float32)
    assert top_reward(number, score, reward) == pytest.approx((5.0 + 1.5 - 2.0) / 3), "rows that tie share their place"
    assert np.isnan(top_reward(np.full(2, -1), score[:2], reward[:2]))
