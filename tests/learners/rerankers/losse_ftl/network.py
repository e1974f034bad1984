"""A small network that learns online, as the baseline of the world models."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Values = np.ndarray


class OnlineNetwork:
    """Two hidden layers of rectified units; one step of Adam for each row."""

    def __init__(self, inputs: int, outputs: int, learning_rate: float, hidden: int = 64, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        sizes = [inputs, hidden, hidden, outputs]
        self._weights = [rng.normal(0, np.sqrt(2 / a), (a, b)) for a, b in pairwise(sizes)]
        self._weights += [np.zeros(b) for b in sizes[1:]]
        self._mean = [np.zeros_like(w) for w in self._weights]
        self._square = [np.zeros_like(w) for w in self._weights]
        self._rate, self._steps = learning_rate, 0

    def predict(self, x: Values) -> Values:
        return self._layers(x)[-1]

    def learn(self, x: Values, target: Values) -> None:
        """One step on rows (n, inputs) with targets (n, outputs)."""
        layers = self._layers(x)
        slope = 2 * (layers[-1] - target) / len(x)
        gradients = [np.empty(0)] * 6
        for n in (2, 1, 0):
            gradients[n], gradients[3 + n] = layers[n].T @ slope, slope.sum(axis=0)
            slope = (slope @ self._weights[n].T) * (layers[n] > 0)
        self._steps += 1
        for n, gradient in enumerate(gradients):
            self._mean[n] += 0.1 * (gradient - self._mean[n])
            self._square[n] += 0.001 * (gradient**2 - self._square[n])
            mean, square = self._mean[n] / (1 - 0.9**self._steps), self._square[n] / (1 - 0.999**self._steps)
            self._weights[n] -= self._rate * mean / (np.sqrt(square) + 1e-8)

    def _layers(self, x: Values) -> list[Values]:
        layers = [x]
        for n in range(3):
            through = layers[-1] @ self._weights[n] + self._weights[3 + n]
            layers.append(np.maximum(through, 0) if n < 2 else through)
        return layers
