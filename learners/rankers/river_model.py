"""Ranker that wraps any classifier or regressor of River.

References
----------
J. Montiel et al., "River: machine learning for streaming data in Python", JMLR 22 (2021).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from river import base

from learners.base import Ranker, WeightDelta
from learners.bounds import bounded, finite, graded
from learners.registry import register
from memory.python_object import PythonObject
from streams.batch import Batch, Feedback

__all__ = ["RiverModel"]


@register("river_model")
class RiverModel(Ranker):
    """Wraps a River model, which predicts and learns row by row.

    A classifier learns whether the reward is positive, and its score is the probability of True, whose odds grow with rewards
    above 1: labels and weights are those of `learners.bounds.graded`. A label between 0 and 1 is learned as True and as False,
    weighted with its share. A regressor learns the reward, however large, and its score is its prediction.

    A model that takes no weights learns a row as often as its weight says, rounded, and at least once if it is not 0. Then a
    label between 0 and 1 counts as True.

    Speed and memory depend on the model: 10 to 100 microseconds per row, and more for trees. `bits` limits the number of
    features, but models such as trees grow with the stream.

    Parameters
    ----------
    model : str
        Import path of a River class, such as ``river.linear_model.LogisticRegression``.
    parameters : dict
        Keywords of the class. A value ``{"class": path, ...}`` is built in the same way, also within lists. The key
        ``arguments`` holds a list of positional arguments. In TOML:
        ``parameters = { optimizer = { class = "river.optim.SGD", lr = 0.1 } }``, or ``model = "river.compose.Pipeline"`` with
        ``parameters = { arguments = [{ class = ... }, { class = ... }] }``.
    encoding : {"onehot", "columns"}
        Encoding of a row. ``onehot``: ``{hashed key: value}`` for all present columns (for linear models).
        ``columns``: ``{"f0": key, "f1": key, ...}`` with keys as text (for trees and naive Bayes).
    numbers : tuple of int
        For ``columns``: indices of the numeric columns, which are passed by their value instead of their key.
    bits : int
        Keys are truncated to this many bits.

    References
    ----------
    See the module.
    """

    # A saved model keeps the defaults of its River version. Another version may have other defaults, or fail to read it.
    # Version 1 of this learner took all positive rewards of a classifier for alike, version 2 pickled the model.
    state_version: ClassVar[int | str] = f"3, river {metadata.version('river')}"
    digest_stable: ClassVar[bool] = False
    checks_exempt: ClassVar[dict[str, str]] = {"check_memory_is_bounded": "River models may grow with the stream."}

    def __init__(
        self,
        model: str = "river.linear_model.LogisticRegression",
        parameters: dict[str, Any] | None = None,
        encoding: Literal["onehot", "columns"] = "onehot",
        numbers: tuple[int, ...] = (),
        bits: Annotated[int, Field(ge=1, le=62)] = 22,
    ) -> None:
        built = _build({**(parameters or {}), "class": model}, "model")
        self._classifies = isinstance(built, base.Classifier)
        if not self._classifies and not isinstance(built, base.Regressor):
            raise ValueError(f"model: {model!r} is neither a classifier nor a regressor; give the path of one")
        self.encoding, self.numbers, self.mask = encoding, frozenset(numbers), (1 << bits) - 1
        self._weighted = "w" in inspect.signature(built.learn_one).parameters
        try:
            self.model = PythonObject(built, ["river"])
        except ValueError as error:
            raise ValueError(f"model: {error}") from error
        self._capped = 0

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``batch.score`` with the model's probability or prediction. A classifier that has seen no class gives 0.5."""
        model = self.model.value
        if self._classifies:
            predictions = (model.predict_proba_one(x) for x in self._rows(batch))
            values = (probability.get(True, 0.0) if probability else 0.5 for probability in predictions)
        else:
            values = (model.predict_one(x) for x in self._rows(batch))
        batch.score = finite(np.fromiter(values, np.float64, batch.rows))

    def learn(self, feedback: Feedback) -> None:
        """Learn the rows in order."""
        label, weights = feedback.reward, bounded(feedback.weight)
        if self._classifies:
            label, weights, capped = graded(feedback.reward, feedback.weight)
            self._capped += capped
        model = self.model.value
        for x, y, weight in zip(self._rows(feedback), label.tolist(), weights.tolist(), strict=True):
            if self._weighted:
                for target, share in self._targets(y):
                    model.learn_one(x, target, w=weight * share)
            elif weight > 0:
                for _ in range(max(round(weight), 1)):
                    model.learn_one(x, y > 0 if self._classifies else y)

    def metrics(self) -> Mapping[str, float]:
        """Return ``capped``, the rows whose weight was limited; see `learners.bounds.graded`. Always 0 for a regressor."""
        return {"capped": float(self._capped)}

    def _targets(self, label: float) -> list[tuple[bool | float, float]]:
        """Targets of a row, each with its share of the row's weight."""
        if not self._classifies:
            return [(label, 1.0)]
        return [(label > 0, 1.0)] if label in (0.0, 1.0) else [(True, label), (False, 1.0 - label)]

    def _rows(self, batch: Batch) -> Iterator[dict[Any, Any]]:
        keys = (batch.features & self.mask).tolist()
        # Linear models sum values, so these are clipped. Trees only compare them.
        numbers = bounded(batch.values) if self.encoding == "onehot" else batch.values
        for present, row, values in zip((batch.features != 0).tolist(), keys, numbers.tolist(), strict=True):
            x: dict[Any, Any] = {}
            for column, is_present in enumerate(present):
                if not is_present:
                    continue
                if self.encoding == "onehot":
                    x[row[column]] = x.get(row[column], 0.0) + values[column]
                else:
                    x[f"f{column}"] = values[column] if column in self.numbers else str(row[column])
            yield x


def _build(described: Any, where: str) -> Any:
    """Build the object that ``{"class": path, ...}`` describes. Other values are returned unchanged."""
    if isinstance(described, list):
        return [_build(inner, where) for inner in described]
    if not isinstance(described, dict):
        return described
    if "class" not in described:
        return {key: _build(inner, f"{where}.{key}") for key, inner in described.items()}
    path = described["class"]
    cls = _find(path, where)
    inner = {key: _build(value, f"{where}.{key}") for key, value in described.items() if key not in ("class", "arguments")}
    try:
        return cls(*_build(described.get("arguments", []), f"{where}.arguments"), **inner)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {path} cannot be built ({error}); its keywords are {inspect.signature(cls)}") from error


def _find(path: Any, where: str) -> type:
    if not isinstance(path, str) or not path.startswith("river."):
        raise ValueError(f'{where}: class {path!r} is not a River class; give a path that begins with "river."')
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{where}: {path} does not exist ({error}); look it up in River's API reference") from error
    # River's modules also contain names that they import from other packages.
    if not inspect.isclass(found) or not found.__module__.startswith("river."):
        raise ValueError(f"{where}: {path} is not a River class; give the path of one")
    return found
