"""Classification by a Kolmogorov-Arnold network, as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn import functional as F

from kanlib.estimators.fitting import Fitting, weighted
from kanlib.nn.networks import First
from kanlib.training.optimizers import OptimizerFactory

__all__ = ["KANClassifier"]


class KANClassifier(ClassifierMixin, Fitting):
    """A Kolmogorov-Arnold network for classification, trained over levels of its grid.

    The network has one output for each class, whose softmax are the probabilities; it minimises
    their cross-entropy. Inputs are mapped from their range onto the domain of the splines. All is
    computed in float64.

    Args:
        hidden: widths of the hidden layers.
        n: intervals of the splines on the coarsest level; each further level has twice as many.
        r: order of the splines (4 is cubic).
        first: "spline", "affine" or "linear", the kind of the first layer; the latter two need a
            hidden layer.
        schedule: epochs on each level, see :class:`kanlib.training.schedule.Schedule`.
        optimizer: "lbfgs", "adam", or what
            :func:`kanlib.training.multilevel.train_multilevel` takes.
        learning_rate: that of "adam".
        batch_size: size of the batches; by default an epoch is one step with all data.
        early_stopping: hold out data, end levels where their loss no longer falls, and return the
            network with the least.
        validation_fraction: share of the data that is held out, of each class the same where there
            are enough.
        patience: epochs without a fall that end a level.
        random_state: seed or ``RandomState`` of the start, the batches and what is held out.

    Attributes:
        classes_: the classes, sorted.
        model_: the network, a :class:`kanlib.nn.networks.KAN`; its outputs are logits.
        run_: the :class:`kanlib.training.runs.Run`: history and levels. After early
            stopping its loss is that of the last network, ``model_`` the best one.
        n_features_in_: number of inputs.
        n_iter_: epochs done.

    Raises:
        TypeError: in ``fit``, if a parameter is of the wrong type.
        ValueError: in ``fit``, if a parameter is out of range, data are not finite or targets are
            not classes.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.random((200, 2))
        >>> y = np.where(x[:, 0] > x[:, 1] ** 2, "above", "below")
        >>> KANClassifier(random_state=0).fit(x, y).score(x, y) > 0.99
        True
    """

    def __init__(
        self,
        hidden: Sequence[int] = (5,),
        *,
        n: int = 4,
        r: int = 4,
        first: First = "spline",
        schedule: Sequence[int] = (5, 5),
        optimizer: str | OptimizerFactory = "lbfgs",
        learning_rate: float = 1e-3,
        batch_size: int | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 5,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            hidden,
            n=n,
            r=r,
            first=first,
            schedule=schedule,
            optimizer=optimizer,
            learning_rate=learning_rate,
            batch_size=batch_size,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            patience=patience,
            random_state=random_state,
        )

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> KANClassifier:
        """Train a network.

        Args:
            X: inputs (N, P).
            y: classes (N,).
            sample_weight: weights (N,), at least zero: a sample of weight two counts as two.

        Returns:
            This estimator.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        weights, (X, codes) = weighted(sample_weight, X, codes)
        self._train(X, codes, len(self.classes_), F.cross_entropy, False, weights, codes)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities (N, K) of the classes.

        Args:
            X: inputs (N, P).
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return torch.softmax(torch.tensor(self._outputs(X)), dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the most likely classes (N,).

        Args:
            X: inputs (N, P).
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]
