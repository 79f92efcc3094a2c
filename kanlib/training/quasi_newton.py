"""Quasi-Newton methods that keep a dense inverse Hessian: BFGS and self-scaled Broyden.

With the step s, the change y of the gradient and the inverse Hessian H, both updates are of
Broyden's family, scaled by tau,

    H+ = (H - H y y^T H / y^T H y + phi y^T H y v v^T) / tau + s s^T / y^T s,
    v = s / y^T s - H y / y^T H y.

BFGS has phi = tau = 1. Self-scaled Broyden chooses both anew in each step, so that the eigenvalues
of H follow those of a Hessian that changes (Al-Baali, *Comput. Optim. Appl.* 9, 1998; for
physics-informed networks Urban, Stefanou and Pons, *J. Comput. Phys.* 523, 2025). A step costs
O(p^2) for p parameters beside its evaluations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from kanlib._checks import as_integer, check_option
from kanlib.objectives.mean_squared_error import evaluated
from kanlib.objectives.unknowns import trained
from kanlib.training.runs import EndOfLevel

__all__ = ["QuasiNewton"]

UPDATES = ("bfgs", "ssbroyden")
#: Constants of sufficient decrease and of curvature in Wolfe's conditions.
DECREASE, CURVATURE = 1e-4, 0.9


@dataclass(frozen=True)
class QuasiNewton:
    """BFGS and self-scaled Broyden for ``train(..., optimizer=QuasiNewton())``; needs SciPy.

    Steps satisfy the strong conditions of Wolfe as far as the line search finds such. One epoch is
    as many iterations as ``iterations`` says, all at the points that the objective has at its
    start. On every level, and where no step can be found, the inverse Hessian starts from a
    multiple of the identity.

    Args:
        update: "ssbroyden" or "bfgs".
        iterations: iterations an epoch.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of range.

    Examples:
        >>> from kanlib import KAN, MeanSquaredError, train
        >>> x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
        >>> model = KAN([1, 1], n=8, dtype=torch.float64)
        >>> objective = MeanSquaredError(x, torch.sin(6 * x))
        >>> train(model, objective, 5, optimizer=QuasiNewton(), progress=False).loss < 1e-6
        True
    """

    update: str = "ssbroyden"
    iterations: int = 20

    def __post_init__(self) -> None:
        check_option("update", self.update, UPDATES)
        as_integer("iterations", self.iterations, minimum=1)

    def bind(self, model: nn.Module, objective: Any) -> DenseQuasiNewton:
        """Return the optimizer of a model."""
        return DenseQuasiNewton(self, model, objective)


class DenseQuasiNewton:
    """The optimizer of one model, see :class:`QuasiNewton`.

    Attributes:
        inverse: the inverse Hessian (p, p).
        param_groups: all that it trains, as those of a torch optimizer.
        rate: length of the last step, in units of the quasi-Newton step.
        evaluations: evaluations of the loss and its gradient so far.
        terms: the loss before the last epoch, by the names of its terms.
    """

    def __init__(
        self, options: QuasiNewton, model: nn.Module, objective: Callable[[Any], Tensor]
    ) -> None:
        self.options, self.model, self.objective = options, model, objective
        self.parameters = [p for p in trained(model, objective) if p.requires_grad]
        self.param_groups = [{"params": self.parameters}]
        start = parameters_to_vector(self.parameters).detach()
        self.inverse = torch.eye(len(start), dtype=start.dtype, device=start.device)
        self.learned, self.rate, self.evaluations = False, 1.0, 0
        self.terms: dict[str, float] = {}
        self._terms: dict[str, Tensor] = {}
        self._line_search = _line_search()
        self.defaults = asdict(options)

    def __repr__(self) -> str:
        return repr(self.options)

    def step(self) -> float:
        """Do the iterations of one epoch; return the loss before them.

        Raises:
            EndOfLevel: if no step lowers the loss.
        """
        x = parameters_to_vector(self.parameters).detach()
        start, gradient = self._evaluate(x)
        self.terms = {name: float(term.detach()) for name, term in self._terms.items()}
        loss, done = start, 0
        while done < self.options.iterations and math.isfinite(loss):
            found = self._search(x, loss, gradient)
            if found is None:
                break
            after, loss, slope = found
            self._learn(after - x, slope - gradient, gradient)
            x, gradient, done = after, slope, done + 1
        self._place(x)
        # Other points may let it go on.
        if not done and math.isfinite(start) and not getattr(self.objective, "moves", False):
            norm = float(gradient.norm())
            raise EndOfLevel(
                f"no quasi-Newton step lowers the loss {start:.6g} (gradient {norm:.3g})"
            )
        return start

    def _place(self, x: Tensor) -> None:
        sizes = [p.numel() for p in self.parameters]
        with torch.no_grad():
            for p, part in zip(self.parameters, x.split(sizes), strict=True):
                p.copy_(part.view_as(p))

    def _evaluate(self, x: Tensor) -> tuple[float, Tensor]:
        """Return the loss and its gradient with the parameters x, which the model then has."""
        self._place(x)
        self.evaluations += 1
        with torch.enable_grad():
            loss, self._terms = evaluated(self.objective, self.model)
            slopes = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return float(loss.detach()), parameters_to_vector(slopes).detach()

    def _search(
        self, x: Tensor, loss: float, gradient: Tensor
    ) -> tuple[Tensor, float, Tensor] | None:
        """Return where a step ends, the loss and the gradient there, or None if there is none."""
        found = self._along(-(self.inverse @ gradient), x, loss, gradient)
        if found is None and self.learned:
            self.inverse = torch.eye(len(x), dtype=x.dtype, device=x.device)
            self.learned = False
            found = self._along(-gradient, x, loss, gradient)
        return found

    def _along(
        self, direction: Tensor, x: Tensor, loss: float, gradient: Tensor
    ) -> tuple[Tensor, float, Tensor] | None:
        """Return the end of a step in a direction by the conditions of Wolfe, if there is one."""
        slope = float(gradient @ direction)
        if not slope < 0:
            return None
        known = {0.0: (loss, gradient)}

        def at(length: float) -> tuple[float, Tensor]:
            if length not in known:
                value, there = self._evaluate(x + length * direction)
                known[length] = math.inf if math.isnan(value) else value, there
            return known[length]

        before = None if self.learned else loss + 0.5 * float(gradient.norm())
        with warnings.catch_warnings():  # that there is no step is what this returns
            warnings.simplefilter("ignore")
            length = self._line_search(
                lambda z: at(float(z[0]))[0],
                lambda z: np.array([float(at(float(z[0]))[1] @ direction)]),
                *(np.array([value]) for value in (0.0, 1.0, slope)),
                *(loss, before),
                c1=DECREASE,
                c2=CURVATURE,
            )[0]
        if length is None or not at(float(length))[0] < loss:
            return None
        self.rate = float(length)
        return (x + self.rate * direction, *at(self.rate))

    def _learn(self, step: Tensor, change: Tensor, gradient: Tensor) -> None:
        """Take in what a step has told of the Hessian."""
        along = float(change @ step)
        if not along > torch.finfo(step.dtype).eps * float(change.norm() * step.norm()):
            return
        if not self.learned:
            self.inverse *= along / float(change.square().sum())
            self.learned = True
            curvature = float(step.square().sum()) / float(self.inverse[0, 0])
        else:
            curvature = -self.rate * float(gradient @ step)
        update(self.inverse, step, change, curvature, self.options.update)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on, beside the model and the objective."""
        names = ("inverse", "learned", "rate", "evaluations")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.inverse = state["inverse"].to(self.inverse)
        self.learned, self.rate = bool(state["learned"]), float(state["rate"])
        self.evaluations = int(state["evaluations"])


def _line_search() -> Callable[..., Any]:
    try:
        from scipy.optimize import line_search
    except ModuleNotFoundError:
        raise ModuleNotFoundError("QuasiNewton needs SciPy: pip install scipy") from None
    return line_search


def update(inverse: Tensor, step: Tensor, change: Tensor, curvature: float, name: str) -> None:
    """Update an inverse Hessian in place.

    Args:
        inverse: H, symmetric and positive definite, (p, p).
        step: s, (p,).
        change: y, (p,), with y^T s > 0.
        curvature: s^T H^{-1} s.
        name: "bfgs" or "ssbroyden".
    """
    image = inverse @ change
    along, across = float(change @ step), float(change @ image)
    phi, tau = 1.0, 1.0
    if name == "ssbroyden":
        phi, tau = self_scaled(curvature / along, across / along, len(step))
    direction = step / along - image / across
    inverse.addr_(image, image, alpha=-1 / across)
    inverse.addr_(direction, direction, alpha=phi * across)
    inverse.div_(tau)
    inverse.addr_(step, step, alpha=1 / along)


def self_scaled(b: float, h: float, size: int) -> tuple[float, float]:
    """Return phi and tau of self-scaled Broyden.

    With a = b h - 1, which is at least 0, and rho = min(1, h (1 - sqrt(a / (1 + a))))::

        theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b)),     sigma = 1 + theta a,
        phi = (1 - theta) / sigma,
        tau = min(1, 1 / b) min(sigma^(1 / (1 - p)), 1 / theta)    if theta > 0,
        tau = min(min(1, 1 / b) sigma^(1 / (1 - p)), sigma)        otherwise.

    Args:
        b: s^T H^{-1} s / y^T s.
        h: y^T H y / y^T s.
        size: number p of parameters.
    """
    a = max(b * h - 1, 0.0)
    rho = min(1.0, h * (1 - math.sqrt(a / (1 + a))))
    lowest = (rho - 1) / a if a > 0 else -math.inf
    theta = max(lowest, min(1 / rho, (1 - b) / b))
    sigma = 1 + theta * a
    scale = min(1.0, 1 / b)
    if size > 1:
        tau = sigma ** (1 / (1 - size))
    else:
        tau = 1.0
    tau = scale * min(tau, 1 / theta) if theta > 0 else min(scale * tau, sigma)
    return (1 - theta) / sigma, tau
