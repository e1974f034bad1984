"""Freshet's rankers as classifiers of River: in its pipelines, metrics and evaluations."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from river import base

from freshet.plain_features import FeatureRanker

__all__ = ["RiverClassifier"]


class RiverClassifier(base.Classifier):
    """A ranker of Freshet as a binary classifier of River.

    Numbers are standardised, other values are categories; features may be missing, and new ones may come.

    Parameters
    ----------
    ranker
        ``fm``, ``fm_mixture``, ``deep``, ``dsl`` (with a ``budget`` and an ``item_budget`` of 1) or ``river_model``; or the
        path of a module with a ranker of your own.
    keywords
        Keys of the ranker's config section, such as ``{"factors": 8}``.

    Raises
    ------
    ConfigError
        For a ranker that needs users and items, or a wrong keyword.

    Examples
    --------
    >>> from river import datasets, evaluate, metrics
    >>> model = RiverClassifier("fm", {"factors": 4, "bits": 12})
    >>> bool(evaluate.progressive_val_score(datasets.Phishing(), model, metrics.ROCAUC()).get() > 0.9)
    True
    """

    def __init__(self, ranker: str = "fm", keywords: dict[str, Any] | None = None) -> None:
        self.ranker = ranker
        self.keywords = keywords
        self._model = FeatureRanker(ranker, keywords)

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {"ranker": "fm", "keywords": {"factors": 4, "bits": 10}}

    @property
    def _multiclass(self) -> bool:
        return False

    def learn_one(self, x: dict[Hashable, Any], y: bool | str | int, w: float = 1.0) -> None:
        """Learn one row.

        Parameters
        ----------
        x
            Features by name.
        y
            True or False, or 1 or 0.
        w
            Weight of the row.

        Raises
        ------
        ValueError
            For another label.
        """
        if y not in (0, 1):
            raise ValueError(f"y: {y!r} is not True or False; this is a binary classifier")
        self._model.learn([x], [float(y)], w)

    def predict_proba_one(self, x: dict[Hashable, Any], **kwargs: Any) -> dict[bool | str | int, float]:
        """Return the probabilities of False and True."""
        positive = float(self._model.score([x])[0])
        return {False: 1.0 - positive, True: positive}
