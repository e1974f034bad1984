"""Quality of scores: AUC, log loss, gain, reward of the first item, and sliding windows of them.

Rewards are graded as for the rankers: the log loss has the labels and row weights of `learners.bounds.graded`. So it is the
loss that a logistic ranker minimises, and with rewards from 0 to 1 all rows count equally. AUC tells positive rewards from
others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from learners.bounds import graded
from memory.jit import njit
from streams.batch import Bools, Floats, Ids

__all__ = ["Window", "auc", "gain", "grouped_auc", "impression_auc", "log_loss", "losses", "top_reward"]

_Doubles = npt.NDArray[np.float64]

BLOCKS = 50
"""Blocks of rows for the confidence interval of a gain: neighbouring rows are not independent samples."""


def auc(score: Floats, positive: Bools) -> float:
    """Area under the ROC curve: probability that a positive row scores above a negative one; ties count half.

    Parameters
    ----------
    score : (n,) float32
    positive : (n,) bool

    Returns
    -------
    float
        NaN when there is only one class.
    """
    packed = _packed(score, positive)
    packed.sort()
    return float(_auc_of_sorted(packed))


def grouped_auc(group: Ids, score: Floats, positive: Bools) -> float:
    """Mean AUC of the groups, weighted by their rows; groups with one class are left out (gAUC).

    Parameters
    ----------
    group : (n,) int64
        For example the user of each row.
    score : (n,) float32
    positive : (n,) bool

    Returns
    -------
    float
        NaN when no group has both classes.
    """
    return _grouped(group, score, positive, by_rows=True)


def impression_auc(impression: Ids, score: Floats, positive: Bools) -> float:
    """Mean AUC of the impressions, unweighted; impressions with one class are left out.

    Parameters
    ----------
    impression : (n,) int64
        Number of each row's impression. Rows without one, -1, are left out.
    score : (n,) float32
    positive : (n,) bool

    Returns
    -------
    float
        NaN when no impression has both classes.

    References
    ----------
    F. Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020, section 5.1: the AUC of its leaderboard.
    """
    ranked = impression >= 0
    return _grouped(impression[ranked], score[ranked], positive[ranked], by_rows=False)


def log_loss(score: Floats, label: Floats) -> _Doubles:
    """Logistic loss of each row, (n,) float64, with probabilities kept within 1e-7 of 0 and 1."""
    p = np.clip(score.astype(np.float64), 1e-7, 1.0 - 1e-7)
    return -(label * np.log(p) + (1.0 - label) * np.log1p(-p))


def losses(score: Floats, reward: Floats) -> tuple[_Doubles, Floats]:
    """Log loss of each row, (n,), and its weight, (n,), both from its graded reward."""
    label, weight, _ = graded(reward, np.ones_like(reward))
    return log_loss(score, label), weight


def top_reward(impression: Ids, score: Floats, reward: Floats) -> float:
    """Mean over the impressions of the reward of the row with the highest score; of rows that tie, their mean reward.

    Parameters
    ----------
    impression : (n,) int64
        Number of each row's impression, whose rows are next to each other. Rows without one, -1, are left out.
    score, reward : (n,) float32

    Returns
    -------
    float
        NaN without impressions.
    """
    ranked = impression >= 0
    number, score, reward = impression[ranked], score[ranked], reward[ranked]
    if not number.size:
        return float("nan")
    start = np.flatnonzero(np.diff(number, prepend=-1))
    best = np.repeat(np.maximum.reduceat(score, start), np.diff(start, append=number.size))
    top = (score == best).astype(np.float64)
    return float((np.add.reduceat(top * reward, start) / np.add.reduceat(top, start)).mean())


def gain(score: Floats, base: Floats, reward: Floats) -> tuple[float, float]:
    """Mean log loss of `base` minus that of `score`, on the same rows (n,) in order of time.

    Returns
    -------
    mean : float
        NaN without rows.
    margin : float
        Half the width of the 95 % confidence interval, from the means of 50 blocks; NaN with fewer than 100 rows.
    """
    if not score.size:
        return float("nan"), float("nan")
    (loss, weight), (base_loss, _) = losses(score, reward), losses(base, reward)
    difference = (base_loss - loss) * (weight / weight.mean(dtype=np.float64))
    length = score.size // BLOCKS
    if length < 2:
        return float(difference.mean()), float("nan")
    means = difference[: length * BLOCKS].reshape(BLOCKS, length).mean(axis=1)
    return float(difference.mean()), float(1.96 * means.std(ddof=1) / np.sqrt(BLOCKS))


class Window:
    """The last `length` rows of scores and rewards.

    Parameters
    ----------
    length : int
        Rows kept.
    """

    def __init__(self, length: int) -> None:
        self._score, self._reward = np.zeros(length, np.float32), np.zeros(length, np.float32)
        self._impression, self._number = np.full(length, -1), np.full(length, -1)
        self._count = 0

    def add(self, score: Floats, reward: Floats, impression: Ids | None, first: int) -> None:
        """Append rows; they replace the oldest.

        Parameters
        ----------
        score, reward : (n,) float32
        impression : (n,) int64 or None
            Number of each row's impression; None for rows without one.
        first : int
            Number of the first row; the other rows have consecutive numbers.
        """
        length = self._score.size
        skipped = max(score.size - length, 0)
        start, rows = self._count % max(length, 1), score.size - skipped
        # A slice, where the rows do not wrap around: several times faster.
        slots = slice(start, start + rows) if start + rows <= length else (start + np.arange(rows)) % length
        self._score[slots], self._reward[slots] = score[skipped:], reward[skipped:]
        self._impression[slots] = -1 if impression is None else impression[skipped:]
        self._number[slots] = first + np.arange(skipped, score.size)
        self._count += score.size - skipped

    def revise(self, number: int, reward: float) -> None:
        """Replace the reward of the row with this number, if the window holds it."""
        self._reward[self._number == number] = reward

    def copy(self) -> Window:
        """Return an independent copy."""
        copied = Window(0)
        copied._score, copied._reward, copied._count = self._score.copy(), self._reward.copy(), self._count
        copied._impression, copied._number = self._impression.copy(), self._number.copy()
        return copied

    @property
    def rows(self) -> int:
        """Number of rows held."""
        return min(self._count, self._score.size)

    def auc(self) -> float:
        """AUC of the rows held, see `auc`."""
        return auc(self._score[: self.rows], self._reward[: self.rows] > 0)

    def impression_auc(self) -> float:
        """Mean AUC of the impressions held, see `impression_auc`."""
        rows = slice(self.rows)
        return impression_auc(self._impression[rows], self._score[rows], self._reward[rows] > 0)

    def log_loss(self) -> float:
        """Mean logistic loss of the rows held; NaN when there are none."""
        loss, weight = losses(self._score[: self.rows], self._reward[: self.rows])
        return float(np.average(loss, weights=weight)) if self.rows else float("nan")

    def gain(self, base: Window) -> tuple[float, float]:
        """`gain` over the scores of `base`, on the rows that both hold."""
        _, mine, its = np.intersect1d(
            self._number[: self.rows], base._number[: base.rows], assume_unique=True, return_indices=True
        )
        return gain(self._score[mine], base._score[its], self._reward[mine])


def _grouped(group: Ids, score: Floats, positive: Bools, *, by_rows: bool) -> float:
    groups, code = np.unique(group, return_inverse=True)
    packed = _packed(score, positive) + (code << 33)
    packed.sort()
    return float(_grouped_auc_of_sorted(packed, np.searchsorted(packed >> 33, np.arange(groups.size + 1)), by_rows))


def _packed(score: Floats, positive: Bools) -> Ids:
    """Pack score and label of each row into a 33-bit integer that sorts by score: faster than an argsort."""
    bits = (score.astype(np.float32) + np.float32(0.0)).view(np.int32)  # -0 becomes 0, with which it ties
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) + 2**31
    return (ordered << 1) | positive


@njit(cache=True, nogil=True)
def _auc_of_sorted(packed):  # type: ignore[no-untyped-def]
    positives = negatives = pairs = 0.0
    start = 0
    for end in range(1, packed.size + 1):
        if end == packed.size or packed[end] >> 1 != packed[start] >> 1:
            tied = 0.0
            for n in range(start, end):
                tied += packed[n] & 1
            lower = end - start - tied
            pairs += tied * (negatives + 0.5 * lower)
            positives += tied
            negatives += lower
            start = end
    return pairs / (positives * negatives) if positives * negatives > 0.0 else np.nan


@njit(cache=True, nogil=True)
def _grouped_auc_of_sorted(packed, start, by_rows):  # type: ignore[no-untyped-def]
    total = weight = 0.0
    for group in range(start.size - 1):
        rows = start[group + 1] - start[group]
        group_auc = _auc_of_sorted(packed[start[group] : start[group + 1]])
        if not np.isnan(group_auc):
            counts = rows if by_rows else 1
            total += group_auc * counts
            weight += counts
    return total / weight if weight > 0.0 else np.nan
