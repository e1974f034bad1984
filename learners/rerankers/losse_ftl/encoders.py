"""Fixed features of a world model's inputs: locality-sensitive sparse encoding, and random Fourier features.

References
----------
Z. Liu et al., "Locality Sensitive Sparse Encoding for Learning World Models Online", ICLR 2024, arXiv 2401.13034: the sparse
encoding.
A. Rahimi, B. Recht, "Random Features for Large-Scale Kernel Machines", NIPS 2007: random Fourier features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memory.arrays import Floats, Ids
from memory.jit import njit

__all__ = ["FourierEncoder", "SparseEncoder"]

Values = npt.NDArray[np.float64]


class SparseEncoder:
    """Encodes an input as its places in several grids, each over a random projection of the input.

    A grid has ``bins + 1`` vertices per axis. An input is in one cell of each grid; its active features are the vertices of
    these cells, with the weights of multilinear interpolation. So a grid's values sum to 1, inputs that share cells share
    weights, and inputs that are far apart share none.

    Parameters
    ----------
    projection : (S, grids * axes) float64
        Column a * grids + g is axis a of grid g.
    axes : int
        Axes of a grid.
    bins : int
        Cells per axis.
    gain : float
        Factor of the projection. Inputs of unit variance spread over the cells if it is about 1.

    Attributes
    ----------
    features, active : int
        Number D of features, and number K of those that are active for an input.
    """

    def __init__(self, projection: Values, axes: int, bins: int, gain: float = 1.0) -> None:
        self._projection = np.ascontiguousarray(projection * gain)
        self._axes, self._bins = axes, bins
        grids = projection.shape[1] // axes
        self.features, self.active = grids * (bins + 1) ** axes, grids * 2**axes

    @classmethod
    def random(cls, inputs: int, grids: int, axes: int, bins: int, gain: float, seed: int) -> SparseEncoder:
        """Make an encoder with a projection drawn from a normal distribution cut at 2, divided by the root of the inputs."""
        rng = np.random.default_rng(seed)
        drawn = rng.normal(size=(inputs, grids * axes))
        while (outside := np.abs(drawn) > 2.0).any():
            drawn[outside] = rng.normal(size=int(np.count_nonzero(outside)))
        return cls(drawn / np.sqrt(inputs), axes, bins, gain)

    def encode(self, x: Values) -> tuple[Ids, Values]:
        """Encode inputs (n, S). Returns active features (n, K) int64, ascending, and their values (n, K) float64."""
        index, value = np.empty((len(x), self.active), np.int64), np.empty((len(x), self.active))
        _encode(np.ascontiguousarray(x), self._projection, self._axes, self._bins, index, value)
        return index, value


class FourierEncoder:
    """Encodes an input as cosines of random projections, whose products approximate a Gaussian kernel; and the input itself.

    The input is among the features, so that what is linear need not be approximated by waves.

    Parameters
    ----------
    inputs : int
        Length S of an input.
    waves : int
        Number of cosines.
    gain : float
        Frequencies have the standard deviation ``gain / sqrt(S)``: the larger, the finer.
    seed : int
        Seed of the projections.

    Attributes
    ----------
    features : int
        Number D of features: one for each wave and each input, and a constant.
    """

    def __init__(self, inputs: int, waves: int, gain: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._frequency = rng.normal(0.0, gain / np.sqrt(inputs), (inputs, waves)).astype(np.float32)
        self._phase = rng.uniform(0.0, 2.0 * np.pi, waves).astype(np.float32)
        self._height, self._slope = np.float32(np.sqrt(2.0 / waves)), np.float32(0.3 / np.sqrt(inputs))
        self.features = waves + inputs + 1

    def encode(self, x: Floats) -> Floats:
        """Encode inputs (n, S) float32 as features (n, D) float32."""
        waves = self._phase.size
        made = np.empty((len(x), self.features), np.float32)
        angle = x @ self._frequency
        angle += self._phase
        np.cos(angle, out=angle)
        np.multiply(angle, self._height, out=made[:, :waves])
        np.multiply(x, self._slope, out=made[:, waves:-1])
        made[:, -1] = 1.0
        return made


# Compiled part.


@njit(cache=True, nogil=True)
def _encode(x, projection, axes, bins, index, value):  # type: ignore[no-untyped-def]
    grids = projection.shape[1] // axes
    corners = 1 << axes
    per_grid = 1
    for _ in range(axes):
        per_grid *= bins + 1
    along = np.empty(projection.shape[1])
    for n in range(x.shape[0]):
        along[:] = 0.0
        for s in range(x.shape[1]):
            for c in range(along.size):
                along[c] += x[n, s] * projection[s, c]
        for g in range(grids):
            for corner in range(corners):
                at, part = 0, 1.0
                for a in range(axes):
                    place = bins / (1.0 + np.exp(-along[a * grids + g]))
                    # A sigmoid of exactly 1 is the last cell's far edge, not a cell outside of the grid.
                    cell = min(int(place), bins - 1)
                    upper = (corner >> (axes - 1 - a)) & 1
                    part *= place - cell if upper else 1.0 - (place - cell)
                    at = at * (bins + 1) + cell + upper
                index[n, g * corners + corner] = g * per_grid + at
                value[n, g * corners + corner] = part
