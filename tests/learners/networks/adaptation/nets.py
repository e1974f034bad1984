"""Small classifiers with layer normalisations, whose changes are one flat vector: the net of the golden files, and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from learners.networks.adaptation.minimizer import EntropyMinimizer, Logits
from learners.networks.adaptation.slates import Slates


class Block(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(width)
        self.fc1 = torch.nn.Linear(width, 2 * width)
        self.fc2 = torch.nn.Linear(2 * width, width)


class Net(torch.nn.Module):
    """Residual blocks behind an embedding, a last normalisation, and a head with one logit a class."""

    def __init__(self, inputs: int, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(inputs, width)
        self.blocks = torch.nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, classes)

    def forward(self, x: Tensor, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the logits of inputs (B, inputs), with these parameters instead of its own if given."""
        values = dict(self.named_parameters()) if values is None else values

        def linear(name: str, x: Tensor) -> Tensor:
            return functional.linear(x, values[f"{name}.weight"], values[f"{name}.bias"])

        def norm(name: str, x: Tensor) -> Tensor:
            return functional.layer_norm(x, x.shape[-1:], values[f"{name}.weight"], values[f"{name}.bias"])

        x = linear("embed", x)
        for n in range(len(self.blocks)):
            inner = linear(f"blocks.{n}.fc1", norm(f"blocks.{n}.norm1", x)).relu()
            x = x + linear(f"blocks.{n}.fc2", inner)
        return linear("head", norm("norm", x))

    def lower(self) -> list[str]:
        """Scales and shifts of all normalisations but the last."""
        return [name for name, _ in self.named_parameters() if "norm1" in name]

    def every(self) -> list[str]:
        return [*self.lower(), "norm.weight", "norm.bias"]


def logits_of(net: Net, names: Sequence[str], x: Tensor) -> Logits:
    """The logits of a batch (B, inputs) of B slates, as a function of a flat change of the named parameters."""
    values = {name: parameter.detach() for name, parameter in net.named_parameters()}

    def logits(delta: Tensor) -> Tensor:
        parts = delta.split([values[name].numel() for name in names])
        changed = {name: values[name] + part.reshape(values[name].shape) for name, part in zip(names, parts, strict=True)}
        return net(x, values | changed).flatten()

    return logits


def slates_of(batch: int, classes: int) -> Slates:
    return Slates.of(np.repeat(np.arange(batch), classes), batch)


torch.set_num_threads(1)

CLASSES, INPUTS = 20, 32


class World:
    """Classes around random centres; a stream whose inputs are scaled and shifted, in two passes of blocks of one class each.

    The network is trained on the inputs as they are.

    Parameters
    ----------
    seed : int
    spread : float
        Standard deviation of the centres, in units of the noise. Fewer mistakes are corrected by adaptation if it is small.
    """

    def __init__(self, seed: int, spread: float, shift: float = 1.4, samples: int = 4000) -> None:
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        centres = spread * rng.normal(size=(CLASSES, INPUTS))

        def draw(label: np.ndarray) -> Tensor:
            return torch.from_numpy(centres[label] + rng.normal(size=(label.size, INPUTS))).float()

        self.net = Net(INPUTS, 64, 3, CLASSES)
        optimizer = torch.optim.Adam(self.net.parameters(), 2e-3)
        for _ in range(700):
            label = rng.integers(0, CLASSES, 128)
            optimizer.zero_grad()
            functional.cross_entropy(self.net(draw(label)), torch.from_numpy(label)).backward()
            optimizer.step()
        order = [np.full(samples // CLASSES // 2, each) for _ in range(2) for each in rng.permutation(CLASSES)]
        self.label = np.concatenate(order)
        scale = np.exp(0.25 * shift * rng.normal(size=INPUTS))
        moved = draw(self.label).numpy() * scale + 0.85 * shift * rng.normal(size=INPUTS)
        self.x = torch.from_numpy(moved).float()

    def run(self, minimizer: EntropyMinimizer | None, names: Sequence[str], batch: int, rate: float, threshold: float):
        """Return the classes predicted before each step, and the number of resets."""
        said, resets, slates = [], 0, slates_of(batch, CLASSES)
        for start in range(0, self.label.size, batch):
            logits = logits_of(self.net, names, self.x[start : start + batch])
            if minimizer is None:
                with torch.no_grad():
                    scored = self.net(self.x[start : start + batch])
            else:
                report = minimizer.step(logits, slates, rate=rate, threshold=threshold)
                scored, resets = report.logits, resets + bool(report.reset)
            said.append(scored.reshape(batch, CLASSES).argmax(1).numpy())
        return np.concatenate(said), resets


def accuracy(world: World, said: np.ndarray, last: float = 1.0) -> float:
    start = round(world.label.size * (1 - last))
    return float((said == world.label)[start:].mean())


def largest_share(said: np.ndarray) -> float:
    """Share of the most frequent class in the last quarter of the predictions."""
    return float(np.bincount(said[-said.size // 4 :]).max() / (said.size // 4))
