"""Regression by a Kolmogorov-Arnold network, as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn import functional as F

from kanlib.estimators.fitting import Fitting, weighted
from kanlib.nn.networks import First
from kanlib.training.optimizers import OptimizerFactory

__all__ = ["KANRegressor"]

#: A standard deviation of targets, relative to their mean, that is only rounding.
ROUNDING = 1e-14


class KANRegressor(RegressorMixin, Fitting):
    """A Kolmogorov-Arnold network for regression, trained over levels of its grid.

    It minimises the mean squared error of the targets, each of which is shifted and scaled to mean
    zero and variance one. Inputs are mapped from their range onto the domain of the splines. All is
    computed in float64.

    Args:
        hidden: widths of the hidden layers.
        n: intervals of the splines on the coarsest level; each further level has twice as many.
        r: order of the splines (4 is cubic).
        first: "spline", "affine" or "linear", the kind of the first layer; the latter two need a
            hidden layer.
        schedule: epochs on each level, see :class:`kanlib.training.schedule.Schedule`.
        optimizer: "gauss-newton", "lbfgs", "adam", or what
            :func:`kanlib.training.multilevel.train_multilevel` takes. "gauss-newton" damps all
            coefficients alike, ``GaussNewton(scaling="identity")``, so that one that few rows
            touch does not grow far beyond the others.
        learning_rate: that of "adam".
        batch_size: size of the batches; by default an epoch is one step with all data.
        early_stopping: hold out data, end levels where their loss no longer falls, and return the
            network with the least.
        validation_fraction: share of the data that is held out.
        patience: epochs without a fall that end a level.
        random_state: seed or ``RandomState`` of the start, the batches and what is held out.

    Attributes:
        model_: the network, a :class:`kanlib.nn.networks.KAN`; its outputs are the scaled targets.
        run_: the :class:`kanlib.training.runs.Run`: history and levels. After early
            stopping its loss is that of the last network, ``model_`` the best one.
        n_features_in_: number of inputs.
        n_iter_: epochs done.
        shift_: what is added to the scaled outputs, (Q,).
        scale_: by what the outputs are multiplied, (Q,).

    Raises:
        TypeError: in ``fit``, if a parameter is of the wrong type.
        ValueError: in ``fit``, if a parameter is out of range or data are not finite, or
            the variance of targets is not.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.random((200, 2))
        >>> y = np.sin(8 * x[:, 0]) * x[:, 1]
        >>> KANRegressor(random_state=0).fit(x, y).score(x, y) > 0.999
        True
    """

    def __init__(
        self,
        hidden: Sequence[int] = (5,),
        *,
        n: int = 4,
        r: int = 4,
        first: First = "spline",
        schedule: Sequence[int] = (20, 10),
        optimizer: str | OptimizerFactory = "gauss-newton",
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> KANRegressor:
        """Train a network.

        Args:
            X: inputs (N, P).
            y: targets (N,) or (N, Q).
            sample_weight: weights (N,), at least zero: a sample of weight two counts as two.

        Returns:
            This estimator.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        y = np.asarray(y, dtype=np.float64)
        self._flat = y.ndim == 1
        weights, (X, columns) = weighted(sample_weight, X, y.reshape(len(y), -1))
        with np.errstate(over="ignore", invalid="ignore"):
            self.shift_ = np.average(columns, axis=0, weights=weights)
            squares = np.square(columns - self.shift_)
            spread = np.sqrt(np.average(squares, axis=0, weights=weights))
        if not np.isfinite(spread).all():
            raise ValueError(
                "y must have a finite variance in float64, got values up to "
                f"{np.abs(columns).max():.1e}: give it in other units"
            )
        self.scale_ = np.where(spread > ROUNDING * np.abs(self.shift_), spread, 1.0)
        scaled = (columns - self.shift_) / self.scale_
        self._train(X, scaled, columns.shape[1], F.mse_loss, True, weights)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predictions, in the shape of the targets.

        Args:
            X: inputs (N, P).
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        y = self._outputs(X) * self.scale_ + self.shift_
        return y[:, 0] if self._flat else y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
