"""Sharpness-aware, reliable entropy minimisation: the step of SAR, and of TENT as a special case.

References
----------
S. Niu et al., "Towards Stable Test-Time Adaptation in Dynamic Wild World", ICLR 2023 (SAR): algorithm 1, and the public code.
P. Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021: the two passes.
D. Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from learners.networks.adaptation.slates import Slates
from memory.arrays import Arrays
from memory.stateful import Stateful
from streams.batch import Bools

__all__ = ["PAPER", "Aim", "Ascent", "EntropyMinimizer", "FirstPass", "Logits", "Method", "Report"]

Logits = Callable[[Tensor], Tensor]
"""Function from a change of the parameters (D,) to the logits of all rows (N,), with gradients."""


class Method(NamedTuple):
    """How to minimise. The defaults mend the reference implementation where it fails; `PAPER` is what it does.

    Attributes
    ----------
    momentum : float
        Of the gradient step.
    radius : float
        Length rho of the step uphill before the second pass. With 0 both are the same.
    kl : float
        Weight of KL(source || adapted) in the loss.
    ema_decay : float
        Of the mean entropy after the first pass.
    min_entropy : float
        Mean entropy below which everything is reset, as a share of ln C, or in nats.
    in_nats : bool
        Whether `min_entropy` is in nats, whatever the sizes of the slates.
    clear_ema, clear_momentum : bool
        Whether a reset clears them. The reference keeps both: it goes on resetting, and then steps on towards the collapse.
    skip_empty : bool
        Whether a batch without any reliable slate changes nothing. In the reference, momentum moves the weights.
    check_finite : bool
        Whether a number that is not finite leads to a reset. In the reference, the weights become NaN for good.
    """

    momentum: float = 0.9
    radius: float = 0.05
    kl: float = 0.0
    ema_decay: float = 0.9
    min_entropy: float = 0.029
    in_nats: bool = False
    clear_ema: bool = True
    clear_momentum: bool = True
    skip_empty: bool = True
    check_finite: bool = True


PAPER = Method(
    min_entropy=0.2, in_nats=True, clear_ema=False, clear_momentum=False, skip_empty=False, check_finite=False
)  # fmt: skip
"""The public code: a fixed bound of 0.2 nats, and none of the remedies."""


class Aim(NamedTuple):
    """What a step minimises.

    Attributes
    ----------
    threshold : float
        A slate is reliable if its entropy is below this share of ln C.
    floor : float
        Entropies are not lowered below this share of ln C. 0: no floor.
    source : (N,) tensor or None
        Logits without the change, for `Method.kl`.
    """

    threshold: float
    floor: float = 0.0
    source: Tensor | None = None


class Ascent(NamedTuple):
    """Where the second pass of a step is.

    Attributes
    ----------
    change : (D,) float
        `Method.radius` uphill.
    reliable : (B,) bool
        Slates that were reliable in the first pass.
    finite : bool
        Whether all numbers of the first pass are, or need not be.
    """

    change: npt.NDArray[np.floating]
    reliable: Bools
    finite: bool = True


class FirstPass(NamedTuple):
    """What the first pass of a step found.

    Attributes
    ----------
    ascent : Ascent
    logits : (N,) tensor
    entropy : (B,) tensor
        Of each slate, in nats.
    gradient_norm : float
    """

    ascent: Ascent
    logits: Tensor
    entropy: Tensor
    gradient_norm: float


class Report(NamedTuple):
    """What a step did.

    Attributes
    ----------
    logits : (N,) tensor
        Of the first pass, before the step.
    entropy : (B,) tensor
        Of each slate in the first pass, in nats.
    first, second : (B,) bool
        Slates that were reliable in the first pass, and in both.
    gradient_norm : float
        Of the first pass.
    reset : str
        ``"non_finite"`` or ``"entropy"`` if the step ended in a reset, else empty.
    """

    logits: Tensor
    entropy: Tensor
    first: Bools
    second: Bools
    gradient_norm: float
    reset: str


class EntropyMinimizer(Stateful):
    """A change of D parameters, and the steps that lower the entropy of slates.

    Parameters
    ----------
    size : int
        Number D of parameters.
    method : Method
    dtype : numpy type
        Of the change. The logits may have another.

    Attributes
    ----------
    weights : Arrays
        ``delta`` (1, D): the change.
    progress : Arrays
        ``momentum`` (1, D), and ``ema`` (1,), NaN while there is none; private.

    Examples
    --------
    >>> import numpy as np, torch
    >>> slates, logits = Slates.of(np.array([0, 0]), 1), torch.tensor([1.0, 0.0])
    >>> minimizer = EntropyMinimizer(1, Method(radius=0.0))
    >>> report = minimizer.step(lambda delta: logits * (1 + delta), slates, rate=0.1, threshold=1.0)
    >>> bool(minimizer.delta[0] > 0)  # more certain
    True
    """

    def __init__(self, size: int, method: Method = Method(), dtype: type[np.floating] = np.float32) -> None:  # noqa: B008
        self.method = method
        self.weights = Arrays(delta=np.zeros((1, size), dtype))
        self.progress = Arrays(
            momentum=np.zeros((1, size), dtype), ema=np.full(1, np.nan), private=["momentum", "ema"]
        )  # fmt: skip

    @property
    def delta(self) -> np.ndarray[tuple[int], np.dtype[np.floating]]:
        """The live change, (D,)."""
        row: np.ndarray[tuple[int], np.dtype[np.floating]] = self.weights["delta"][0]
        return row

    def step(
        self,
        logits: Logits,
        slates: Slates,
        *,
        rate: float,
        threshold: float,
        floor: float = 0.0,
        source: Tensor | None = None,
    ) -> Report:
        """Do one step: find the gradient, go uphill by `Method.radius`, and descend by the gradient that is found there.

        Parameters
        ----------
        logits : callable from a (D,) tensor to a (N,) tensor
        slates : Slates
            Those of the N rows.
        rate : float
            Learning rate of this step. It should be proportional to the number of slates.
        threshold, floor, source
            See `Aim`.

        Returns
        -------
        Report
        """
        aim = Aim(threshold, floor, source)
        first = self.ascend(logits, slates, aim)
        second, reset = self.descend(first.ascent, logits, slates, aim, rate)
        return Report(first.logits, first.entropy, first.ascent.reliable, second, first.gradient_norm, reset)

    def ascend(self, logits: Logits, slates: Slates, aim: Aim) -> FirstPass:
        """Do the first half of `step`: it changes nothing."""
        at = torch.from_numpy(self.delta.copy()).to(slates.request.device)
        scored, entropy, reliable, gradient = self._pass(at, logits, slates, aim)
        norm = gradient.norm()
        up = at + self.method.radius * gradient / (norm + 1e-12)
        ascent = Ascent(up.cpu().numpy(), reliable.cpu().numpy(), self._finite(scored, gradient))
        return FirstPass(ascent, scored, entropy, norm.item())

    def descend(self, ascent: Ascent, logits: Logits, slates: Slates, aim: Aim, rate: float) -> tuple[Bools, str]:
        """Do the second half of `step`; return `Report.second` and `Report.reset`."""
        if not ascent.finite:
            return ascent.reliable, self._reset("non_finite")
        if self.method.skip_empty and not ascent.reliable.any():
            return ascent.reliable, ""
        change, among = (torch.from_numpy(array).to(slates.request.device) for array in (ascent.change, ascent.reliable))
        scored, entropy, reliable, gradient = self._pass(change, logits, slates, aim, among)
        second: Bools = reliable.cpu().numpy()
        if not self._finite(scored, gradient):
            return second, self._reset("non_finite")
        if self.method.skip_empty and not second.any():
            return second, ""
        mean = (entropy / (1.0 if self.method.in_nats else slates.largest))[reliable].mean().item()
        return second, self._descend(gradient, rate, mean)

    def clear(self) -> None:
        """Go back to no change at all, as if there had been no step."""
        self.delta[:] = 0
        self.progress["momentum"][:] = 0
        self.progress["ema"][:] = np.nan
        self._mark()

    def _pass(
        self, change: Tensor, logits: Logits, slates: Slates, aim: Aim, among: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return logits, entropies, which slates are reliable, and the gradient of their mean loss."""
        largest, at = slates.largest, change.detach().requires_grad_()
        scored = logits(at)
        shares = slates.log_shares(scored)
        entropy = slates.entropy(shares)
        kept = entropy.detach() < aim.threshold * largest
        kept = kept if among is None else kept & among
        if not kept.any():
            return scored.detach(), entropy.detach(), kept, torch.zeros_like(change)
        loss = torch.relu(entropy - aim.floor * largest) if aim.floor else entropy
        if aim.source is not None and self.method.kl:
            loss = loss + self.method.kl * slates.divergence(slates.log_shares(aim.source), shares)
        (gradient,) = torch.autograd.grad(loss[kept].mean(), at)
        return scored.detach(), entropy.detach(), kept, gradient

    def _descend(self, gradient: Tensor, rate: float, entropy: float) -> str:
        ema, momentum = self.progress["ema"], self.progress["momentum"][0]
        if not np.isnan(entropy):
            decay = self.method.ema_decay
            ema[0] = entropy if np.isnan(ema[0]) else decay * ema[0] + (1 - decay) * entropy
        momentum[:] = self.method.momentum * momentum + gradient.cpu().numpy()
        self.delta[:] -= rate * momentum
        self._mark()
        if self.method.check_finite and not np.isfinite(self.delta).all():
            return self._reset("non_finite")
        return self._reset("entropy") if ema[0] < self.method.min_entropy else ""

    def _reset(self, why: str) -> str:
        self.delta[:] = 0
        if self.method.clear_ema:
            self.progress["ema"][:] = np.nan
        if self.method.clear_momentum or why == "non_finite":
            self.progress["momentum"][:] = 0
        self._mark()
        return why

    def _finite(self, *tensors: Tensor) -> bool:
        return not self.method.check_finite or all(bool(tensor.isfinite().all()) for tensor in tensors)

    def _mark(self) -> None:
        self.weights.mark()
        self.progress.mark()
