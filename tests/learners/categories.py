"""A simulated stream with known probabilities, and a base model that was trained before it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from learners.base import Reranker
from learners.contract.worlds import feedback_of
from streams.batch import Feedback

__all__ = ["HIDDEN", "Outcome", "base_scores", "run", "stream"]

CATEGORIES, NUMBERS, HIDDEN = 20, 2, 32
TRAINING, STREAM, SHIFT, BATCH = 80_000, 14_000, 4_000, 100


@dataclass
class Outcome:
    """Served scores, scores of the base model, and labels; (n,) each, in time order."""

    score: np.ndarray
    base: np.ndarray
    label: np.ndarray


def log_loss(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    score = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
    return -(label * np.log(score) + (1 - label) * np.log1p(-score))


def stream(seed: int, rows: int, effects: np.ndarray, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (one of 20 categories and two numbers) and labels. The category has the largest effect on the log-odds."""
    rng = np.random.default_rng(seed)
    category, numbers = rng.integers(0, CATEGORIES, rows), rng.normal(size=(rows, NUMBERS))
    odds = effects[category] + numbers @ np.linspace(-0.3, 0.3, NUMBERS) + bias - 1.0
    label = (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    return np.hstack([np.eye(CATEGORIES)[category], numbers]), label


@cache
def effects_of(seed: int) -> np.ndarray:
    return np.random.default_rng(100 + seed).normal(0, 1.0, CATEGORIES)


def shifted(seed: int, shift: str) -> tuple[np.ndarray, float]:
    """Return effects and bias after a shift: six effects change sign ("drift"), or clicks become more likely ("label")."""
    effects = effects_of(seed).copy()
    if shift == "drift":
        effects[np.argsort(-np.abs(effects))[:6]] *= -1
    return effects, 1.4 if shift == "label" else 0.0


@cache
def trained(seed: int) -> tuple[np.ndarray, ...]:
    """Train the base model, one layer of ReLU units and a logistic output, by plain SGD."""
    rng = np.random.default_rng(200 + seed)
    x, y = stream(seed, TRAINING, effects_of(seed))
    inner, offset = rng.normal(0, 0.4, (x.shape[1], HIDDEN)), np.full(HIDDEN, 0.3)
    outer, bias = rng.normal(0, 0.2, HIDDEN), 0.0
    for start in range(0, TRAINING, BATCH):
        rows, learning_rate = slice(start, start + BATCH), 0.5 * (1 - start / TRAINING)
        hidden = np.maximum(x[rows] @ inner + offset, 0)
        slope = (1 / (1 + np.exp(-(hidden @ outer + bias))) - y[rows]) / BATCH
        back = np.outer(slope, outer) * (hidden > 0)
        outer, bias = outer - learning_rate * (hidden.T @ slope), bias - learning_rate * slope.sum()
        inner, offset = inner - learning_rate * (x[rows].T @ back), offset - learning_rate * back.sum(axis=0)
    return inner, offset, outer, np.array(bias)


@cache
def base_scores(seed: int, shift: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hidden vectors, base scores and labels of a stream that shifts at row 4,000, unless ``shift="none"``."""
    effects, bias = shifted(seed, shift)
    before, after = stream(seed + 50, SHIFT, effects_of(seed)), stream(seed + 60, STREAM - SHIFT, effects, bias)
    x, label = np.concatenate([before[0], after[0]]), np.concatenate([before[1], after[1]])
    inner, offset, outer, at = trained(seed)
    hidden = np.maximum(x @ inner + offset, 0)
    return hidden.astype(np.float32), (1 / (1 + np.exp(-(hidden @ outer + at)))).astype(np.float32), label


@cache
def learning_scores(seed: int, shift: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Like `base_scores`, but the last layer of the base model learns from every batch, one batch later."""
    hidden, _, label = base_scores(seed, shift)
    _, _, outer, bias = trained(seed)
    base = np.empty(STREAM)
    for start in range(0, STREAM, BATCH):
        rows, known = slice(start, start + BATCH), slice(max(start - BATCH, 0), start)
        if start:
            slope = (1 / (1 + np.exp(-(hidden[known] @ outer + bias))) - label[known]) / BATCH
            outer, bias = outer - 0.5 * (hidden[known].T @ slope), bias - 0.5 * slope.sum()
        base[rows] = 1 / (1 + np.exp(-(hidden[rows] @ outer + bias)))
    return hidden, base.astype(np.float32), label


def rows_of(hidden: np.ndarray, base: np.ndarray, label: np.ndarray, first: int = 0) -> Feedback:
    n = len(base)
    numbers = np.arange(first, first + n)
    feedback = feedback_of(user=numbers + 1, item=numbers + 1, reward=label, timestamp=numbers)
    feedback.hidden, feedback.score, feedback.base = hidden, base.astype(np.float32), base.astype(np.float32)
    return feedback


def run(reranker: Reranker, seed: int, shift: str, delay: int = 1, learning: bool = False) -> Outcome:
    """Serve batches of 100. Labels arrive `delay` batches later. With `learning`, the base model learns, too."""
    hidden, base, label = (learning_scores if learning else base_scores)(seed, shift)
    parts = [slice(start, start + BATCH) for start in range(0, STREAM, BATCH)]
    served = []
    for n, part in enumerate(parts):
        served.append(reranker.rerank(rows_of(hidden[part], base[part], label[part], part.start)))
        if n >= delay:
            late = parts[n - delay]
            reranker.learn(rows_of(hidden[late], base[late], label[late], late.start))
    return Outcome(np.concatenate(served), base, label)
