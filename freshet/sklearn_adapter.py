"""Freshet's rankers as classifiers of scikit-learn: in its pipelines, searches and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from freshet.frames import MissingPackage
from freshet.plain_features import FeatureRanker

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise MissingPackage("scikit-learn", "SklearnClassifier") from error

if TYPE_CHECKING:
    from sklearn.utils import Tags

__all__ = ["SklearnClassifier"]

Array = npt.NDArray[Any]


class SklearnClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A ranker of Freshet as a binary classifier of scikit-learn.

    Columns of numbers are standardised by the rows learned so far, others are categories. NaN and None are absent. Rows are
    learned in order, in micro-batches.

    Parameters
    ----------
    ranker : str
        ``fm``, ``fm_mixture``, ``deep``, ``dsl`` (with a ``budget`` and an ``item_budget`` of 1) or ``river_model``; or the
        path of a module with a ranker of your own.
    keywords : dict or None
        Keys of the ranker's config section, such as ``{"factors": 8}``.
    batch_rows : int
        Rows of a micro-batch.
    epochs : int
        Passes of `fit` over its rows. `partial_fit` makes one.

    Attributes
    ----------
    classes_ : (2,) array
        The labels; the second one is the positive one.
    n_features_in_ : int
        Number of columns.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(400, 3))
    >>> y = np.where(X[:, 0] + X[:, 1] > 0, "yes", "no")
    >>> model = SklearnClassifier("fm", {"factors": 4, "bits": 10}).partial_fit(X[:300], y[:300])
    >>> model.classes_.tolist(), bool(model.score(X[300:], y[300:]) > 0.8)
    (['no', 'yes'], True)
    """

    classes_: Array
    model_: FeatureRanker
    numeric_: list[bool]

    def __init__(
        self, ranker: str = "fm", keywords: dict[str, Any] | None = None, batch_rows: int = 64, epochs: int = 1
    ) -> None:
        self.ranker = ranker
        self.keywords = keywords
        self.batch_rows = batch_rows
        self.epochs = epochs

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Forget everything, and learn these rows in `epochs` passes.

        Parameters
        ----------
        X : (N, columns) array or data frame
        y : (N,) array
            At most two different labels.
        sample_weight : (N,) array or None
            Weights multiply the losses.

        Returns
        -------
        SklearnClassifier
            Itself.
        """
        for name in ("classes_", "model_", "numeric_"):
            self.__dict__.pop(name, None)
        return self._learn(X, y, None, sample_weight, self.epochs)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:  # noqa: N803
        """Learn these rows in one pass, beside what was learned before. Parameters as for `fit`.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : (2,) array or None
            The labels; needed in the first call if its rows have only one of them.

        Returns
        -------
        SklearnClassifier
            Itself.
        """
        return self._learn(X, y, classes, sample_weight, 1)

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """Return the probabilities of the labels, (N, 2), in the order of ``classes_``."""
        check_is_fitted(self)
        positive = self.model_.score_table(self._table(X)).astype(np.float64)
        if len(self.classes_) == 1:
            return np.ones((positive.size, 1))
        return np.stack([1.0 - positive, positive], axis=1)

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Return the likelier label of each row, (N,)."""
        probabilities = self.predict_proba(X)
        chosen: Array = self.classes_[probabilities.argmax(axis=1)]
        return chosen

    def _learn(self, X: Any, y: Any, classes: Any, sample_weight: Any, passes: int) -> Self:  # noqa: N803
        for name, value in (("batch_rows", self.batch_rows), ("epochs", self.epochs)):
            if value < 1:
                raise ValueError(f"{name}: {value} is less than 1; give a whole number above 0")
        first = not hasattr(self, "classes_")
        X, y = validate_data(  # noqa: N806
            self, X, y, reset=first, dtype=None, ensure_all_finite="allow-nan"
        )
        check_classification_targets(y)
        labels = np.unique(y if classes is None else classes)
        if first and len(labels) > 2:
            raise ValueError(f"Only binary classification is supported. The type of the target is {type_of_target(y)}.")
        classes_: Array = labels if first else self.classes_
        unknown = np.setdiff1d(y, classes_)
        if unknown.size:
            raise ValueError(
                f"y: {unknown.tolist()[0]!r} is not one of {classes_.tolist()}; give all labels as classes in the first call"
            )
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        if first:
            self.model_ = FeatureRanker(self.ranker, self.keywords)
            self.numeric_ = [_is_numeric(column) for column in X.T]
            self.classes_ = classes_
        table = self._columns(X)
        label = (y == classes_[-1]).astype(np.float32)
        for _ in range(passes):
            for start in range(0, len(label), self.batch_rows):
                rows = slice(start, start + self.batch_rows)
                part = {name: column[rows] for name, column in table.items()}
                self.model_.learn_table(part, label[rows], 1.0 if weight is None else weight[rows])
        return self

    def _table(self, X: Any) -> dict[str, Array]:  # noqa: N803
        return self._columns(validate_data(self, X, reset=False, dtype=None, ensure_all_finite="allow-nan"))

    def _columns(self, X: Array) -> dict[str, Array]:  # noqa: N803
        return {
            f"{n}": column.astype(np.float64) if numeric else _categories(column)
            for n, (column, numeric) in enumerate(zip(X.T, self.numeric_, strict=True))
        }


def _is_numeric(column: Array) -> bool:
    if column.dtype.kind in "fiu":
        return True
    return column.dtype.kind == "O" and all(
        one is None or (isinstance(one, int | float | np.number) and not isinstance(one, bool)) for one in column.tolist()
    )


def _categories(column: Array) -> Array:
    """Categories as objects; a missing one is None."""
    found = np.empty(column.size, object)
    for n, one in enumerate(column.tolist()):
        if not isinstance(one, str | int | float | bool | None):
            raise TypeError(f"X: argument must be a string or a number, not {type(one).__name__}")
        found[n] = None if one is None or one != one else one
    return found
