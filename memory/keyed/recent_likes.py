"""The latest likes of all users, to draw popular items from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memory.arrays import Arrays, Floats, Ids
from memory.jit import njit
from memory.stateful import Stateful

__all__ = ["RecentLikes"]


class RecentLikes(Stateful):
    """Items of the latest likes. To draw one of them is to draw an item in proportion to its recent popularity.

    Parameters
    ----------
    capacity : int
        Likes that are remembered; the oldest leave.

    Examples
    --------
    >>> likes = RecentLikes(4)
    >>> likes.add(np.array([7, 7, 9]))
    >>> item, share = likes.draw(np.array([1, 2], np.uint64))
    >>> item.tolist(), share.astype(float).round(2).tolist()
    ([7, 9], [0.6700000166893005, 0.33000001311302185])
    """

    def __init__(self, capacity: int) -> None:
        self.ring = Arrays(item=np.zeros(capacity, np.int64), private=["item"])
        self.clock = Arrays(count=np.zeros(1, np.int64), private=["count"])

    def __len__(self) -> int:
        return min(int(self.clock["count"][0]), len(self.ring))

    def add(self, item: Ids) -> None:
        """Remember likes of items (N,), in order."""
        capacity, count = len(self.ring), int(self.clock["count"][0])
        last = item[-capacity:]
        at = (count + item.size - last.size + np.arange(last.size)) % capacity
        self.ring["item"][at] = last
        self.clock["count"][0] += item.size
        self.ring.mark(at)
        self.clock.mark()

    def draw(self, number: npt.NDArray[np.uint64]) -> tuple[Ids, Floats]:
        """Item for each random number (n,), and its share of the likes, (n,) float32. There must be a like."""
        known = self.ring["item"][: len(self)]
        item = known[(number % np.uint64(known.size)).astype(np.int64)]
        return item, _shares(item, known)


@njit(cache=True, nogil=True)
def _shares(item: Ids, known: Ids) -> Floats:
    share = np.empty(item.size, np.float32)
    for n in range(item.size):
        count = 0
        for other in known:
            count += other == item[n]
        share[n] = count / known.size
    return share
