"""Data parallel training: an objective whose points are shared among processes.

Each process evaluates the network at its points. Loss and gradient are those of all points, in
every process, so that all optimizers take the same steps everywhere: those of one process, to
rounding. A script for torchrun::

    import torch
    from kanlib import KAN, GaussNewton, MeanSquaredError, train_multilevel
    from kanlib.distributed.sharded import Sharded

    torch.distributed.init_process_group()
    torch.manual_seed(0)  # the same network and data everywhere
    x = 2 * torch.rand(10**5, 2) - 1
    model = KAN([2, 5, 1], n=4, domain=(-1, 1))
    objective = Sharded(MeanSquaredError(x, x.prod(1, keepdim=True)))
    run = train_multilevel(model, objective, [20, 20], optimizer=GaussNewton())

Gauss-Newton adds up Gram matrices, with ``solver="cg"`` products with transposed Jacobians, and
with ``solver="qr"`` it factorises the triangular factors of all processes once more.
"""

from __future__ import annotations

import math
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import check_function, check_types
from kanlib.distributed.gradients import summed
from kanlib.distributed.processes import Processes
from kanlib.nn.ensemble import Ensemble
from kanlib.objectives.mean_squared_error import Stateful, Summed, total
from kanlib.objectives.squares import Residual, SumOfSquares
from kanlib.objectives.unknowns import leaves, trained


class Sharded:
    """An objective whose points are shared among the processes of a group.

    With batches, it takes its share of the rows of each batch; an objective that takes them must
    return a mean over their rows. Else the objective offers its residuals, as ``MeanSquaredError``
    and ``ResidualLoss`` do, and each process has its share of the points of each. Numbers of points
    need not be divisible by that of processes. Checkpoints hold what they would hold without
    ``Sharded``: any number of processes goes on from them.

    Args:
        objective: what is minimised. Penalties go around it, as in
            ``Penalised(Sharded(objective), ...)``.
        split: whether all processes have been given the same points, or batches, of which each
            takes its share. With False each has been given points of its own, and there must be
            the same number of batches.
        group: group of torch.distributed; by default all processes.

    Raises:
        TypeError: if the objective is no function, or an argument is of the wrong type.
        ValueError: if torch.distributed has not been initialised, or the objective has weights of
            points that cannot be shared.
    """

    def __init__(
        self, objective: Callable[..., Tensor], *, split: bool = True, group: Any = None
    ) -> None:
        check_function("objective", objective, "function from the model to a scalar loss")
        check_types(Sharded.__init__, {"split": split})
        self.objective, self.split = objective, split
        self.shares = Processes(group)
        self._check_weights()
        self._model: Callable[[], Any] = lambda: None
        self._counts: list[int] = []  # of points of each residual, in all processes
        self.parts: Any
        if isinstance(objective, Summed):
            self.parts = self._parts
        if isinstance(objective, Stateful):
            self.after_step = objective.after_step
            self.state_dict, self.load_state_dict = objective.state_dict, objective.load_state_dict
        if hasattr(objective, "named_parameters"):
            self.named_parameters = objective.named_parameters
        if hasattr(objective, "fresh"):
            self.fresh = self._fresh

    def _check_weights(self) -> None:
        """Raise if the weights of points follow from points of other processes."""
        terms = getattr(self.objective, "terms", {})
        for name, term in terms.items():
            if getattr(term, "attention", None) is not None:
                raise ValueError(
                    f"term {name!r} must not have an attention in a Sharded loss, which keeps a "
                    "weight for each point: leave it out, or let a Sampler choose by share="
                )
            if not self.split and getattr(term, "causal", None) is not None:
                raise ValueError(
                    f"term {name!r} must have all points for causal weights: give every process "
                    "all of them, with split=True"
                )
        if not self.split and getattr(self.objective, "balance", None) is not None:
            raise ValueError(
                "objective must have all points for a balance: give every process all of them, "
                "with split=True"
            )

    @property
    def moves(self) -> bool:
        """Whether points are drawn anew in the course of a training."""
        return bool(getattr(self.objective, "moves", False))

    @property
    def balanced(self) -> dict[str, float]:
        """The weights of the terms, if a balance changes them."""
        return getattr(self.objective, "balanced", {})

    def _fresh(self, seed: int) -> Sharded:
        inner: Any = self.objective
        return Sharded(inner.fresh(seed), split=self.split, group=self.shares.group)

    def __call__(self, model: Any, *batch: Any) -> Tensor:
        """Return the loss at all points; with a batch, at the rows of all processes."""
        if batch:
            return self._of_batch(model, *batch)
        return total(self._parts(model))

    def _of_batch(self, model: Any, batch: Sequence[Tensor]) -> Tensor:
        rows = slice(*self._span(len(batch[0]))) if self.split else slice(None)
        own = [part[rows] for part in batch]
        count = len(own[0])
        loss = self.objective(model, own) if count else None
        weight = torch.tensor(float(count), device=own[0].device)
        value, number = self._summed(model, [None if loss is None else count * loss, weight])
        return value / number

    def _parts(self, model: Any) -> dict[str, Tensor]:
        """Return the loss of each term at all points."""
        whole = None if self._model() is model else self._meet(model)
        residuals = self.residuals()
        own = [each(model).square().sum() if len(each) else None for each in residuals]
        found = self._summed(model, own)
        if whole is not None and self.split:
            _check_sum(sum(float(value.detach()) for value in found), whole)
        parts: dict[str, Tensor] = {}
        for residual, value in zip(residuals, found, strict=True):
            known = parts.get(residual.name)
            parts[residual.name] = value if known is None else known + value
        return parts

    def _summed(self, model: Any, own: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the sums of numbers over all processes, as functions of the parameters.

        Args:
            model: the network.
            own: the numbers of this process; None for zero where it has no points.
        """
        found = trained(model, self.objective)
        parameters = [p for p in found if p.requires_grad]
        for value in own:
            if value is not None:
                self._check_read(value, parameters)
        return summed(self.shares, own, parameters, found[0])

    def residuals(self) -> list[Residual]:
        """Return the residuals at the points of this process, with its share of their weights.

        Raises:
            TypeError: if the objective does not offer its residuals.
        """
        if not isinstance(self.objective, SumOfSquares):
            raise TypeError(
                "objective must offer its residuals, or be evaluated on batches, got "
                f"{type(self.objective).__name__}: see kanlib.objectives.squares"
            )
        found = [*self.objective.residuals()]
        for each in found:
            if not isinstance(each, Residual):
                raise TypeError(
                    f"objective must have residuals at points only, got {type(each).__name__}: "
                    "put penalties around it, as in Penalised(Sharded(objective), ...)"
                )
        if self.split:
            return [_part(each, *self._span(len(each))) for each in found]
        if len(self._counts) != len(found):
            own = torch.tensor([len(each) for each in found], device=self.shares.device)
            self._counts = self.shares.total(own)[0].tolist()
        return [
            replace(each, weight=each.weight * len(each) / count)
            for each, count in zip(found, self._counts, strict=True)
        ]

    def _span(self, count: int) -> tuple[int, int]:
        """Return where the share of this process starts and ends among so many points."""
        rank, size = self.shares.rank, self.shares.size
        return rank * count // size, (rank + 1) * count // size

    def _meet(self, model: Any) -> Tensor:
        """Return the loss of a new network at all points that this process was given.

        Raises:
            TypeError: if it is no network, or several.
            ValueError: if other processes have another one, or other points.
        """
        if not isinstance(model, nn.Module) or isinstance(model, Ensemble):
            raise TypeError(
                f"model must be one network in a Sharded loss, got {type(model).__name__}: train "
                "the networks of an ensemble one after another"
            )
        if not self.shares.same(_sum_of(model.parameters())):
            raise ValueError(
                "model must have the same parameters in all processes: call torch.manual_seed() "
                "with the same seed in all before it is built"
            )
        with torch.no_grad():  # which checks points and shapes; states may begin with it
            loss: Tensor = self.objective(model)
        self._counts, self._model = [], weakref.ref(model)
        if self.split:
            self._check_points()
        return loss

    def _check_points(self) -> None:
        """Raise unless all processes have been given the same points, and there are enough."""
        self.residuals()  # which says whether there are some
        inner: Any = self.objective
        found = [*inner.residuals()]
        tensors = [jet.channels for each in found for jet in each.jets]
        if not self.shares.same(
            _sum_of([*tensors, *(part for each in found for part in each.data)])
        ):
            raise ValueError(
                "points must be the same in all processes, which take their shares of them: draw "
                "them with the same seed, or pass split=False if each has points of its own"
            )
        most, size = max(map(len, found)), self.shares.size
        if most < size:
            raise ValueError(
                f"points must be as many as the {size} processes in one term or more, got at most "
                f"{most}: start fewer processes"
            )

    def _check_read(self, value: Tensor, parameters: Sequence[Tensor]) -> None:
        """Raise if an objective reads what other processes would not know to be trained."""
        known = {id(p) for p in parameters}
        for leaf in leaves(value):
            strange = isinstance(leaf, nn.Parameter) or leaf.ndim <= 1  # others may be points
            if id(leaf) not in known and strange:
                raise ValueError(
                    "objective must read parameters of the model and unknowns of its own only, got "
                    f"a tensor of shape {tuple(leaf.shape)} that requires gradients: make it one "
                    "of Unknowns, or call requires_grad_(False)"
                )


def _part(residual: Residual, start: int, end: int) -> Residual:
    """Return a residual at some of its points, with their share of the weight."""
    rows = slice(start, end)
    return replace(
        residual,
        jets=[replace(jet, channels=jet.channels[:, rows]) for jet in residual.jets],
        data=[each[rows] for each in residual.data],
        weight=residual.weight * max(end - start, 1) / len(residual),
    )


def _check_sum(ours: float, whole: Tensor) -> None:
    """Raise unless the squares of all residuals add up to the objective."""
    theirs, slack = float(whole), torch.finfo(whole.dtype).eps ** 0.5
    if not math.isclose(ours, theirs, rel_tol=slack) and math.isfinite(ours + theirs):
        raise ValueError(
            f"residuals of the objective must add up to it, got {ours:.6g} and {theirs:.6g}: "
            "override residuals, too, in a class that overrides __call__"
        )


def _sum_of(tensors: Iterable[Tensor]) -> int:
    """Return a check sum of tensors."""
    found = 0
    for each in tensors:
        values = each.detach().cpu().contiguous().view(-1)
        found = zlib.crc32(values.view(torch.uint8).numpy().tobytes(), found)
    return found
