"""Learning rates that restart at each level, as the optimizer does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LinearLR, LRScheduler

from kanlib._checks import as_integer, as_number

__all__ = ["exponential_cycles", "linear_ramp"]

SchedulerFactory = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True)
class linear_ramp:  # used as a function
    """A scheduler that ramps the learning rate linearly up to the optimizer's own.

    It restarts at each level, as the optimizer does (the paper: 1e-4 to 1e-2 in 10 steps).

    Args:
        initial_lr: learning rate of the first epoch, positive.
        steps: number of epochs until the full rate, at least 1.

    Raises:
        TypeError: if an argument is not a number, or ``steps`` no integer.
        ValueError: if an argument is out of range, or above the optimizer's rate when used.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = linear_ramp(initial_lr=0.1, steps=3)(optimizer)
        >>> rates = []
        >>> for _ in range(5):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 4))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.1, 0.4, 0.7, 1.0, 1.0]
    """

    initial_lr: float
    steps: int

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Return the scheduler of an optimizer."""
        start = _start_factor(optimizer, self.initial_lr, "a ramp goes up")
        return LinearLR(optimizer, start_factor=start, total_iters=self.steps)


@dataclass(frozen=True)
class exponential_cycles:  # used as a function
    """A scheduler whose learning rate goes up and down, in ever smaller cycles.

    It rises linearly from ``initial_lr`` to the optimizer's own rate and falls back to
    ``initial_lr``, each in ``steps`` epochs; after k epochs the distance from ``initial_lr`` is
    gamma**k of that. This is torch's CyclicLR in the mode "exp_range", without cycles of the
    momentum. It restarts at each level, as the optimizer does.

    Args:
        initial_lr: lowest learning rate, positive; that of the first epoch.
        steps: number of epochs of a rise, at least 1.
        gamma: decay an epoch, in (0, 1]; the paper has 0.9995.

    Raises:
        TypeError: if an argument is not a number, or ``steps`` no integer.
        ValueError: if an argument is out of range, or above the optimizer's rate when used.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = exponential_cycles(initial_lr=0.2, steps=2, gamma=0.5)(optimizer)
        >>> rates = []
        >>> for _ in range(5):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 4))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.2, 0.4, 0.4, 0.25, 0.2]
    """

    initial_lr: float
    steps: int
    gamma: float

    def __post_init__(self) -> None:
        _check(self)
        gamma = as_number("gamma", self.gamma, above=0.0)
        if gamma > 1.0:
            raise ValueError(f"gamma must be at most 1, got {self.gamma!r}")
        object.__setattr__(self, "gamma", gamma)

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Return the scheduler of an optimizer."""
        start = _start_factor(optimizer, self.initial_lr, "a cycle goes up first")
        rates = [group["lr"] for group in optimizer.param_groups]
        return CyclicLR(
            optimizer,
            [start * rate for rate in rates],
            rates,
            step_size_up=self.steps,
            mode="exp_range",
            gamma=self.gamma,
            cycle_momentum=False,
        )


def _check(scheduler: linear_ramp | exponential_cycles) -> None:
    """Check what both have, and turn numbers of NumPy into Python's."""
    initial_lr = as_number("initial_lr", scheduler.initial_lr, above=0.0)
    object.__setattr__(scheduler, "initial_lr", initial_lr)
    object.__setattr__(scheduler, "steps", as_integer("steps", scheduler.steps, minimum=1))


def _start_factor(optimizer: Optimizer, initial_lr: float, reason: str) -> float:
    """Return the initial rate as a share of the optimizer's (that of its first group)."""
    target = optimizer.param_groups[0]["lr"]
    if initial_lr > target:
        raise ValueError(
            f"initial_lr = {initial_lr} exceeds the optimizer's learning rate {target}: {reason}"
        )
    return initial_lr / target
