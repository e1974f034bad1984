"""A simulated user with an interest and with satiation, of which everything is known: a world for world models.

The state is an interest z, a unit vector in R^6, and satiation h in R^6. Actions are 20 groups, unit vectors. The reward of
group a is ``sigmoid(4 z.a - 6 max(0, h.a) - 0.5)``; it draws the interest towards the group, and satiates.
"""

from __future__ import annotations

import numpy as np

from memory.arrays import Floats

SIZE, GROUPS = 6, 20
NOISE = 0.05


class User:
    """Rewards and states of users of one kind; a new user after each 20 steps."""

    def __init__(self, kind: int, seed: int) -> None:
        world = np.random.default_rng(100)
        self.groups = _unit(world.normal(size=(GROUPS, SIZE)))
        self._center = _unit(world.normal(size=(2, SIZE)))[kind]
        self._rng = np.random.default_rng(seed)
        self.steps = 0
        self._begin()

    def _begin(self) -> None:
        self.interest = _unit(self._center + 0.4 * self._rng.normal(size=SIZE))
        self.satiation = np.zeros(SIZE)

    @property
    def state(self) -> np.ndarray:
        return np.concatenate([self.interest, self.satiation])

    def chance(self, group: int) -> float:
        a = self.groups[group]
        return float(1.0 / (1.0 + np.exp(-(4.0 * self.interest @ a - 6.0 * max(0.0, self.satiation @ a) - 0.5))))

    def act(self, group: int) -> tuple[float, np.ndarray]:
        """Reward and change of state; then the next step begins, perhaps that of a new user."""
        a, before = self.groups[group], self.state
        reward = self.chance(group) + NOISE * self._rng.normal()
        self.satiation = 0.8 * self.satiation + 0.5 * reward * a
        self.interest = _unit(self.interest + 0.05 * reward * a)
        change = self.state - before
        self.steps += 1
        if self.steps % 20 == 0:
            self._begin()
        return reward, change

    def inputs(self, states: np.ndarray, groups: np.ndarray) -> Floats:
        """Inputs (n, 18) of unit variance, of states (n, 12) and groups (n,)."""
        z, h = states[:, :SIZE], states[:, SIZE:]
        parts = [z * np.sqrt(SIZE), h * 2.0, self.groups[groups] * np.sqrt(SIZE)]
        return np.concatenate(parts, axis=1).astype(np.float32)


def logged(kind: int, steps: int, seed: int) -> tuple[Floats, np.ndarray, np.ndarray]:
    """Inputs (steps, 18), rewards (steps, 1) and changes (steps, 12) of random actions."""
    user, rng = User(kind, seed), np.random.default_rng(seed + 1)
    x, reward, change = np.empty((steps, 3 * SIZE), np.float32), np.empty((steps, 1)), np.empty((steps, 2 * SIZE))
    for n in range(steps):
        group = int(rng.integers(GROUPS))
        x[n] = user.inputs(user.state[None], np.array([group]))[0]
        reward[n, 0], change[n] = user.act(group)
    return x, reward, change


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
