"""Learning in two parts: gradients of rows, which one process computes, and the step with them, which all processes make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from memory.stateful import State
from streams.batch import Feedback

__all__ = ["SharesGradients"]


class SharesGradients(ABC):
    """A learner whose gradients cost much more than its steps.

    In sharded training, the owner of rows computes `gradients_of` them, with the state before the round. All processes then
    call `learn` with these as ``feedback.gradients[name]``, in the same order. So all have the same state.
    """

    shares_gradients: ClassVar[bool] = True
    """False: every process computes the gradients itself, from the state at that point."""

    @abstractmethod
    def gradients_of(self, feedback: Feedback) -> State:
        """Return what `learn` needs of these rows beside them. It changes nothing.

        ``learn`` of at most one step's rows leads to the same state with it and without, to the bit.
        """
