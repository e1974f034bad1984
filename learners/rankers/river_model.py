"""Any classifier or regressor of river as a ranker.

References
----------
J. Montiel et al., "River: machine learning for streaming data in Python", JMLR 22 (2021).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from importlib import metadata
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from river import base

from learners.base import Ranker, WeightDelta
from learners.bounds import bounded, finite
from learners.registry import register
from memory.pickled_object import PickledObject
from streams.batch import Batch, Feedback

__all__ = ["RiverModel"]


@register("river_model")
class RiverModel(Ranker):
    """A model of river, asked and taught row by row.

    A classifier's score is its probability of True, the label being whether the reward is positive; a regressor's score is its
    prediction of the reward. A river model sets its own pace (10 to 100 microseconds a row, trees more) and its own size:
    `bits` bounds what is kept per feature, but trees and the like grow with the stream.

    Parameters
    ----------
    model : str
        Import path of a river class, such as ``river.linear_model.LogisticRegression``.
    parameters : dict
        Its keywords. A value ``{"class": path, ...}`` is built in the same way, also within lists; the key ``arguments`` holds
        a list of positional arguments. In TOML: ``parameters = { optimizer = { class = "river.optim.SGD", lr = 0.1 } }``, or
        ``model = "river.compose.Pipeline"`` with ``parameters = { arguments = [{ class = ... }, { class = ... }] }``.
    encoding : {"onehot", "columns"}
        What a row becomes. ``onehot``: ``{hashed key: value}`` for each column that is present (linear models).
        ``columns``: ``{"f0": key, "f1": key, ...}``, each key as text (trees and naive Bayes).
    numbers : tuple of int
        With ``columns``: places of the columns that are numbers, to be given by their value.
    bits : int
        Keys are cut to this many bits.

    References
    ----------
    See the module.
    """

    # A pickled model keeps the defaults of the river that made it, and another one may have others, or not read it at all.
    state_version: ClassVar[int | str] = f"1, river {metadata.version('river')}"
    digest_stable: ClassVar[bool] = False
    checks_exempt: ClassVar[dict[str, str]] = {"check_memory_is_bounded": "River decides how large a model grows."}

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
            raise ValueError(f"model: {model!r} is neither a classifier nor a regressor; name one that is")
        self.encoding, self.numbers, self.mask = encoding, frozenset(numbers), (1 << bits) - 1
        self._weighted = "w" in inspect.signature(built.learn_one).parameters
        self.model = PickledObject(built)

    def score(self, batch: Batch, delta: WeightDelta | None = None) -> None:
        """Fill ``batch.score`` with the model's probability or prediction; 0.5 while a classifier knows no class."""
        model = self.model.value
        if self._classifies:
            told = (model.predict_proba_one(x) for x in self._rows(batch))
            values = (probability.get(True, 0.0) if probability else 0.5 for probability in told)
        else:
            values = (model.predict_one(x) for x in self._rows(batch))
        batch.score = finite(np.fromiter(values, np.float64, batch.rows))

    def learn(self, feedback: Feedback) -> None:
        """Teach the rows in order; where the model takes no weights, rows count alike, and those of weight 0 are left out."""
        model = self.model.value
        labels = (feedback.reward > 0).tolist() if self._classifies else feedback.reward.tolist()
        for x, y, weight in zip(self._rows(feedback), labels, bounded(feedback.weight).tolist(), strict=True):
            if self._weighted:
                model.learn_one(x, y, w=weight)
            elif weight > 0:
                model.learn_one(x, y)

    def _rows(self, batch: Batch) -> Iterator[dict[Any, Any]]:
        keys = (batch.features & self.mask).tolist()
        # Linear models add values up; trees compare them, whatever their size.
        numbers = bounded(batch.values) if self.encoding == "onehot" else batch.values
        for present, row, values in zip((batch.features != 0).tolist(), keys, numbers.tolist(), strict=True):
            x: dict[Any, Any] = {}
            for place, there in enumerate(present):
                if not there:
                    continue
                if self.encoding == "onehot":
                    x[row[place]] = x.get(row[place], 0.0) + values[place]
                else:
                    x[f"f{place}"] = values[place] if place in self.numbers else str(row[place])
            yield x


def _build(described: Any, where: str) -> Any:
    """Build what ``{"class": path, ...}`` describes; other values are themselves."""
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
        raise ValueError(f'{where}: class {path!r} is not of river; give a path that begins with "river."')
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{where}: there is no {path} ({error}); look it up in river's API reference") from error
    # A module of river also holds what it imported from elsewhere.
    if not inspect.isclass(found) or not found.__module__.startswith("river."):
        raise ValueError(f"{where}: {path} is not a class of river; give one")
    return found
