"""Minimal learners of several roles that pass every contract check, as test doubles."""

from __future__ import annotations

import numpy as np

from learners.base import Candidates, Ranker, Reranker, Retriever
from learners.bounds import graded
from memory.arrays import Arrays
from memory.keyed.table import Column, Table


class GoodRanker(Ranker):
    """Mean reward of each item.

    Parameters
    ----------
    start : float
        Score of an unknown item.

    References
    ----------
    None needed.
    """

    def __init__(self, start: float = 0.5) -> None:
        self.start = start
        self.items = Table(16, total=Column(None), times=Column(None))
        self.seen = Arrays(times=np.zeros(1))

    def score(self, batch, delta=None):
        slots = self.items.find(batch.item)
        mean = self.items["total"][slots] / np.maximum(self.items["times"][slots], 1)
        batch.score[:] = np.where(slots >= 0, mean, self.start)

    def learn(self, feedback):
        for n in range(feedback.rows):
            slot = self.items.insert(feedback.item[n : n + 1])
            self.items["total"][slot] += feedback.reward[n]
            self.items["times"][slot] += 1
        if feedback.rows:
            self.seen["times"][0] += feedback.rows
            self.seen.mark()

    def remove(self, items):
        self.items.delete(items)


class GoodRetriever(Retriever):
    """Retrieves items by their total reward.

    References
    ----------
    None needed.
    """

    def __init__(self) -> None:
        self.items = Table(16, total=Column(None))

    def ranked(self):
        slots = self.items.slots()
        return slots[np.argsort(-self.items["total"][slots], kind="stable")]

    def retrieve(self, requests, k, exclude):
        item, request, score = [], [], []
        for b in range(requests.user.size):
            excluded = exclude.item[exclude.start[b] : exclude.start[b + 1]]
            best = [slot for slot in self.ranked() if self.items.keys[slot] not in excluded][:k]
            item += [self.items.keys[slot] for slot in best]
            request += [b] * len(best)
            score += [self.items["total"][slot] for slot in best]
        return Candidates(np.array(item, np.int64), np.array(request, np.int64), np.array(score, np.float32))

    def score(self, batch):
        slots = self.items.find(batch.item)
        return np.where(slots >= 0, self.items["total"][slots], 0).astype(np.float32)

    def learn(self, feedback):
        for n in range(feedback.rows):
            self.items["total"][self.items.insert(feedback.item[n : n + 1])] += feedback.reward[n]

    def remove(self, items):
        self.items.delete(items)


class SureRetriever(GoodRetriever):
    """Also returns an uncertainty, which is smaller for larger total rewards.

    References
    ----------
    None needed.
    """

    knows_uncertainty = True

    def retrieve(self, requests, k, exclude):
        found = super().retrieve(requests, k, exclude)
        found.uncertainty = 1 / (1 + np.abs(found.score))
        return found

    def uncertainty(self, batch):
        return 1 / (1 + np.abs(self.score(batch)))


class GoodReranker(Reranker):
    """Adds the weighted mean error of each item.

    References
    ----------
    None needed.
    """

    def __init__(self) -> None:
        self.items = Table(16, error=Column(None), times=Column(None))

    def rerank(self, batch):
        slots = self.items.find(batch.item)
        mean = self.items["error"][slots] / np.maximum(self.items["times"][slots], 1e-9)
        return np.where(slots >= 0, batch.score + mean, batch.score).astype(np.float32)

    def learn(self, feedback):
        label, weight, _ = graded(feedback.reward, feedback.weight)
        error = weight * (label - feedback.score)
        for n in range(feedback.rows):
            slot = self.items.insert(feedback.item[n : n + 1])
            self.items["error"][slot] += error[n]
            self.items["times"][slot] += weight[n]


class GoodMixer(Reranker):
    """Orders by a weighted sum of the evidence; a choice moves the weights along its likelihood, a softmax, times its reward.

    References
    ----------
    None needed.
    """

    needs_evidence = True

    def __init__(self) -> None:
        self.weights = Arrays(weight=np.zeros(2))

    def bind(self, schema, catalogues, history):
        self.weights["weight"][:] = [column.prior for column in schema.evidence]

    def rerank(self, batch):
        return (1 / (1 + np.exp(-self.mixed(batch)))).astype(np.float32)

    def mixed(self, batch):
        return np.clip(np.clip(np.nan_to_num(batch.evidence), -10, 10) @ self.weights["weight"], -9, 9)

    def choose(self, choices):
        for b in np.flatnonzero(choices.chosen >= 0):
            rows = np.flatnonzero(choices.batch.request == b)
            evidence = np.clip(np.nan_to_num(choices.batch.evidence[rows]), -10, 10)
            share = np.exp(evidence @ self.weights["weight"])
            own = evidence[rows == choices.chosen[b]][0]
            self.weights["weight"][:] += 0.03 * min(choices.reward[b], 10) * (own - share @ evidence / share.sum())
            self.weights.mark()
