"""What the estimators share: parameters, the network for a table, its training and its best state.

Inputs are mapped from their range in the training data onto [-1, 1], the domain of the splines; new
inputs outside continue linearly.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from kanlib._checks import as_integer, as_list, as_number, check_option, shown
from kanlib.nn.jets import Jet
from kanlib.nn.networks import FIRST_LAYERS, KAN, First
from kanlib.objectives.mean_squared_error import MeanSquaredError
from kanlib.objectives.squares import Residual
from kanlib.training.gauss_newton import GaussNewton
from kanlib.training.multilevel import train_multilevel
from kanlib.training.optimizers import OptimizerFactory, lbfgs
from kanlib.training.schedule import Schedule
from kanlib.training.stagnation import Stagnation

OPTIMIZERS = ("gauss-newton", "lbfgs", "adam")
Loss = Callable[..., Tensor]
#: The diagonal of J^T J would hardly damp a coefficient that few rows of a table touch, and so let
#: it grow far beyond the others; the next row near its spline would pay for that.
NEWTON = GaussNewton(scaling="identity")
#: A fall of the validation loss by less than this share counts as none.
GAIN = 1e-3


class Fitting(BaseEstimator):
    """The parameters of the estimators and their fit, see their own descriptions."""

    def __init__(
        self,
        hidden: Sequence[int],
        *,
        n: int,
        r: int,
        first: First,
        schedule: Sequence[int],
        optimizer: str | OptimizerFactory,
        learning_rate: float,
        batch_size: int | None,
        early_stopping: bool,
        validation_fraction: float,
        patience: int,
        random_state: Any,
    ) -> None:
        self.hidden = hidden
        self.n = n
        self.r = r
        self.first = first
        self.schedule = schedule
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state

    def _train(
        self,
        x: np.ndarray,
        y: np.ndarray,
        outputs: int,
        loss: Loss,
        squares: bool,
        weights: np.ndarray | None,
        classes: np.ndarray | None = None,
    ) -> None:
        """Train a network on inputs (N, P) and targets with N rows; set ``model_`` and ``run_``.

        Args:
            x: inputs.
            y: targets, as the loss takes them.
            outputs: number of outputs of the network.
            loss: function from outputs, targets and ``reduction="none"`` to losses, (N, ...).
            squares: whether the loss is the squared error.
            weights: positive weights of the samples (N,), if they have some.
            classes: classes whose shares the data that are held out should have.
        """
        schedule = Schedule(self.schedule)
        batch_size = self.batch_size
        if batch_size is not None:
            batch_size = as_integer("batch_size", batch_size, minimum=1)
        optimizer = self._optimizer(squares)
        widths = [x.shape[1], *as_list("hidden", self.hidden, "widths"), outputs]
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        best = None
        if self._stops_early():
            parts = [x, y] if weights is None else [x, y, weights]
            x, held_x, y, held_y, *own = self._split(parts, classes, seed)
            weights, held_weights = own or (None, None)
            best = _Best(_Mean(loss, *_data(held_x, held_y, held_weights)))
            patience = as_integer("patience", self.patience, minimum=1)
            schedule = Schedule(schedule.epochs, Stagnation(patience, GAIN, validate=best))
        # gradients are wanted whatever the mode of the caller
        with (
            torch.inference_mode(False),
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "training diverged")  # told below
            torch.manual_seed(seed)
            data = _data(x, y, weights)
            model = self._network(widths, data[0])
            objective: Any = _Mean(loss, *data)
            batches = None
            if batch_size is not None:
                batches = DataLoader(TensorDataset(*data), batch_size, shuffle=True)
            elif squares:
                objective = MeanSquaredError(*data) if weights is None else _Squares(*data)
            run = train_multilevel(
                model,
                objective,
                schedule,
                optimizer=optimizer,
                batches=batches,
                progress=False,
            )
        if run.status == "interrupted":
            raise KeyboardInterrupt
        if run.status == "diverged":
            warnings.warn(run.message, ConvergenceWarning, stacklevel=3)
        if best is not None:
            best(run.model)
            run.model = best.model
        run.objective = None  # it holds the data
        self.run_, self.model_ = run, run.model
        self.n_iter_ = sum(level.epochs for level in run.levels)

    def _network(self, widths: list[int], x: Tensor) -> KAN:
        """Return the network, its splines on the range of the inputs."""
        check_option("first", self.first, FIRST_LAYERS)
        low, high = x.amin(0), x.amax(0)
        margin = torch.where(high > low, 0.0, 0.5 * low.abs().clamp(min=1.0))  # of a constant
        ends = torch.stack([low - margin, high + margin], dim=1).tolist()
        model = KAN(
            widths,
            n=self.n,
            r=self.r,
            domain=(-1.0, 1.0),
            first=self.first,
            input_domain=ends,
            dtype=torch.float64,
        )
        return model if self.first == "spline" or len(x) < 2 else model.calibrate_(x)

    def _optimizer(self, squares: bool) -> OptimizerFactory:
        chosen: OptimizerFactory
        if isinstance(self.optimizer, str):
            check_option("optimizer", self.optimizer, OPTIMIZERS)
            rate = as_number("learning_rate", self.learning_rate, above=0.0)
            adam = partial(torch.optim.Adam, lr=rate)
            named: dict[str, OptimizerFactory] = {
                "gauss-newton": NEWTON,
                "lbfgs": lbfgs,
                "adam": adam,
            }
            chosen = named[self.optimizer]
        else:
            chosen = self.optimizer
        newton = isinstance(chosen, GaussNewton)
        if newton and not squares:
            raise ValueError(
                "optimizer must not be Gauss-Newton for classes, whose cross-entropy is no sum of "
                f"squares, got {shown(self.optimizer)}: choose 'lbfgs' or 'adam'"
            )
        if self.batch_size is not None and (newton or chosen is lbfgs):
            raise ValueError(
                f"batch_size must be None for optimizer = {shown(self.optimizer)}, which compares "
                f"losses of the same data, got {shown(self.batch_size)}: leave it out, or choose "
                "'adam'"
            )
        return chosen

    def _stops_early(self) -> bool:
        if not isinstance(self.early_stopping, bool | np.bool_):
            raise TypeError(f"early_stopping must be True or False, got {self.early_stopping!r}")
        return bool(self.early_stopping)

    def _split(self, parts: list[np.ndarray], classes: Any, seed: int) -> list[np.ndarray]:
        """Return of each part of the data that to train with and that held out."""
        x = parts[0]
        share = as_number("validation_fraction", self.validation_fraction, above=0.0)
        held = math.ceil(share * len(x))
        if share >= 1 or held >= len(x):
            raise ValueError(
                f"validation_fraction must leave something to train with, got {share:g} of "
                f"{len(x)} samples: choose a smaller one, or early_stopping=False"
            )
        if classes is not None:
            counts = np.bincount(classes)
            if min(counts) < 2 or len(counts) > min(held, len(x) - held):
                classes = None  # too few for a share of each class
        found = train_test_split(*parts, test_size=held, random_state=seed, stratify=classes)
        return list(found)

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        """Return the outputs (N, Q) of the network at inputs (N, P)."""
        with torch.no_grad():
            return self.model_(_tensor(x)).numpy()


class _Mean:
    """The mean of a loss over data, or over batches, with the weights of samples if there are."""

    def __init__(self, loss: Loss, *data: Tensor) -> None:
        self.loss, self.data = loss, data

    def __call__(self, model: Callable[[Tensor], Tensor], batch: Any = None) -> Tensor:
        x, y, *weights = batch or self.data
        losses = self.loss(model(x), y, reduction="none")
        for weight in weights:
            losses = losses * weight.view(-1, *(1,) * (losses.ndim - 1))
        return losses.mean()


class _Squares(_Mean):
    """The same of squares, whose residuals have the roots of the weights."""

    def __init__(self, x: Tensor, y: Tensor, weights: Tensor) -> None:
        super().__init__(mse_loss, x, y, weights)
        self._jet, self._roots = Jet(x[None], directions=0), weights.sqrt()[:, None]

    def residuals(self) -> list[Residual]:
        """Return the residual, see :class:`kanlib.objectives.squares.SumOfSquares`."""
        data = [self.data[1], self._roots]
        return [Residual(lambda u, y, root: root * (u.value - y), [self._jet], data)]


class _Best:
    """A loss of held-out data that keeps a copy of the network with the least."""

    def __init__(self, objective: _Mean) -> None:
        self.objective, self.loss = objective, math.inf
        self.model: Any = None

    def __call__(self, model: KAN) -> float:
        with torch.no_grad():
            loss = float(self.objective(model))
        if self.model is None or loss < self.loss:
            self.loss, self.model = loss, copy.deepcopy(model)
        return loss


def _data(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> list[Tensor]:
    """Return data as tensors, the weights with a mean of one."""
    parts = [x, y] if weights is None else [x, y, weights / weights.mean()]
    return [*map(_tensor, parts)]


def weighted(sample_weight: Any, *parts: np.ndarray) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """Return the weights of samples, and the parts of the data that have some.

    Args:
        sample_weight: what the fit was given: weights (N,), one for all, or None.
        *parts: arrays of N rows, the inputs first.

    Raises:
        ValueError: if a weight is negative or not finite, or none is positive.
    """
    if sample_weight is None:
        return None, [*parts]
    weights = _check_sample_weight(
        sample_weight, parts[0], dtype=np.float64, ensure_non_negative=True
    )
    own = weights > 0
    if not own.any():
        raise ValueError("sample_weight must have a positive entry, got zeros only: leave it out")
    return weights[own], [part[own] for part in parts]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(array)  # a copy: scikit-learn hands out arrays that cannot be written
