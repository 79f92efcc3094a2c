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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kanlib._checks import check_function, check_types
from kanlib.distributed.checksums import checksum
from kanlib.distributed.gradients import summed
from kanlib.distributed.processes import Processes
from kanlib.distributed.separability import losses, mixes, nearby
from kanlib.nn.described import function_of
from kanlib.nn.ensemble import Ensemble
from kanlib.objectives.mean_squared_error import Stateful, Summed, total
from kanlib.objectives.squares import Residual, SumOfSquares, sum_of_squares
from kanlib.objectives.unknowns import leaves, trained, unknowns_of

__all__ = ["Sharded"]


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

    Examples:
        >>> from kanlib import KAN, MeanSquaredError, train
        >>> store = torch.distributed.HashStore()  # torchrun makes one for all processes
        >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> data = MeanSquaredError(x, torch.sin(9 * x))
        >>> model = KAN([1, 1], n=4, dtype=torch.float64)
        >>> run = train(model, Sharded(data), 5, progress=False)
        >>> abs(run.loss - float(data(run.model).detach())) < 1e-12
        True
        >>> torch.distributed.destroy_process_group()
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
        if self._model() is not model:
            self._compare(model, [], batch)
            self._model = weakref.ref(model)
        rows = slice(*self._span(len(batch[0]))) if self.split else slice(None)
        own = [part[rows] for part in batch]
        count = len(own[0])
        loss = self.objective(model, own) if count else None
        weight = torch.tensor(float(count), device=own[0].device)
        value, number = self._summed(model, [None if loss is None else count * loss, weight])
        return value / number

    def _parts(self, model: Any) -> dict[str, Tensor]:
        """Return the loss of each term at all points."""
        if self._model() is not model:
            self._meet(model)
        residuals = self.residuals()
        own = [each(model).square().sum() if len(each) else None for each in residuals]
        found = self._summed(model, own)
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
        found = self._shared()
        if self.split:
            return found
        if len(self._counts) != len(found):
            own = torch.tensor([len(each) for each in found], device=self.shares.device)
            self._counts = self.shares.total(own)[0].tolist()
        return [
            replace(each, weight=each.weight * len(each) / count)
            for each, count in zip(found, self._counts, strict=True)
        ]

    def _shared(self) -> list[Residual]:
        """Return the residuals at the points of this process; with split=False, all its own."""
        found = self._given()
        if not self.split:
            return found
        return [_part(each, *self._span(len(each))) for each in found]

    def _given(self) -> list[Residual]:
        """Return the residuals at all points that this process was given."""
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
        return found

    def _span(self, count: int) -> tuple[int, int]:
        """Return where the share of this process starts and ends among so many points."""
        rank, size = self.shares.rank, self.shares.size
        return rank * count // size, (rank + 1) * count // size

    def _meet(self, model: Any) -> None:
        """Check a new network, and the loss of it.

        Raises:
            TypeError: if it is no network, or several.
            ValueError: if other processes have another one, another loss, or other points, or a
                residual depends on other points than its own.
        """
        if not isinstance(model, nn.Module) or isinstance(model, Ensemble):
            raise TypeError(
                f"model must be one network in a Sharded loss, got {type(model).__name__}: train "
                "the networks of an ensemble one after another"
            )
        residuals = self._given()
        self._compare(model, residuals, ())
        most, size = max(map(len, residuals)), self.shares.size
        if self.split and most < size:
            raise ValueError(
                f"points must be as many as the {size} processes in one term or more, got at most "
                f"{most}: start fewer processes"
            )
        self._counts = []
        self._check_sums(model)
        self._model = weakref.ref(model)

    def _compare(self, model: nn.Module, residuals: list[Residual], batch: Sequence[Any]) -> None:
        """Raise ValueError unless all processes have the same network and loss."""
        facts = dict(self._facts(model, residuals, batch))
        difference = self.shares.difference(facts)
        if difference:
            raise ValueError(difference)

    def _facts(
        self, model: nn.Module, residuals: list[Residual], batch: Sequence[Any]
    ) -> Iterator[tuple[str, int]]:
        """Yield what an error says, and a check sum of what must be the same in all processes."""
        same = "must be the same in all processes"
        for name, part in model.named_modules():
            kind = f"{type(part).__name__}{f' {name!r}' if name else ''}"
            yield (
                f"model {same}, but {kind} is not: build it from the same numbers, e.g. with an "
                "input_domain that holds the points of all",
                checksum(dict(function_of(part))),
            )
        yield (
            "model must have the same parameters in all processes: call torch.manual_seed() with "
            "the same seed in all before it is built",
            checksum(*model.parameters()),
        )
        names = [each.name for each in residuals]
        yield (
            f"objective {same}, but its kind or its terms are not: give the same terms, in the "
            "same order",
            checksum(self.objective, names, data=self.split),
        )
        for name, p in unknowns_of(self.objective).items():
            yield f"unknown {name!r} {same}: let it start at the same value", checksum(p)
        balance = getattr(self.objective, "balance", None)
        options = None if balance is None else vars(balance)
        yield f"balance {same}: give it the same options", checksum(options)
        for name in dict.fromkeys(names):
            weights = [each.weight for each in residuals if each.name == name]
            yield f"weight of {_term(name)} {same}: give one number", checksum(weights)
        yield (
            f"points {same}, which take their shares of them: draw them with the same seed, or "
            "pass split=False if each has points of its own",
            checksum([[*(jet.channels for jet in r.jets), *r.data] for r in residuals])
            if self.split
            else 0,
        )
        yield (
            f"batch {same}, which take their shares of it: shuffle with the same seed, or pass "
            "split=False if each has batches of its own",
            checksum(*batch) if self.split else 0,
        )
        for name in dict.fromkeys(names):
            own = [_kind(r, self._term(name), self.split) for r in residuals if r.name == name]
            yield (
                f"{_term(name)} {same}, but its residual or an option is not: build it from the "
                "same numbers",
                checksum(own, data=self.split),
            )

    def _term(self, name: str) -> Any:
        """Return the term of a name, if the objective has it."""
        return getattr(self.objective, "terms", {}).get(name)

    @torch.no_grad()
    def _check_sums(self, model: nn.Module) -> None:
        """Raise unless the squares of all residuals add up to the loss, which all have.

        That is seen at the parameters of the network and at others nearby: residuals of several
        points may add up to it by chance, as those of a network that is zero.
        """
        whole = losses(model, self.objective)  # first: weights of points may follow from it
        residuals = self._shared()
        some = [each for each in residuals if len(each)]
        own = losses(model, lambda model: sum_of_squares(model, some))
        mixed = nearby(model, lambda model: [mixes(model, each) for each in residuals])
        found = torch.zeros(2, self.shares.size, 2, dtype=torch.float64, device=self.shares.device)
        found[0, self.shares.rank], found[1, self.shares.rank] = own, whole
        found, reads = self.shares.total(found, found.new_tensor(mixed))
        for residual, mixing in zip(residuals, reads.tolist(), strict=True):
            if mixing:
                raise ValueError(
                    f"{_term(residual.name)} must depend on the network at its own point only, but "
                    "it reads other points, too, which may be in another process: leave out means "
                    "and sums over points, or train in one process"
                )
        slack = torch.finfo(whole.dtype).eps ** 0.5
        for ours, theirs in found.permute(2, 0, 1).tolist():  # the numbers of each process
            low, high = min(theirs), max(theirs)
            if not math.isfinite(sum(ours) + sum(theirs)):
                continue
            if self.split and not math.isclose(low, high, rel_tol=slack):
                raise ValueError(
                    "objective must be the same in all processes, but the losses of one network at "
                    f"the same points range from {low:.6g} to {high:.6g}: let no number in it "
                    "depend on the process"
                )
            expected = high if self.split else sum(theirs)
            if not math.isclose(sum(ours), expected, rel_tol=slack):
                raise ValueError(
                    f"residuals of the objective must add up to it, got {expected:.6g} and squares "
                    f"whose sum differs by {sum(ours) - expected:.3g}: let each depend on its own "
                    "point only, and override residuals, too, in a class that overrides __call__"
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


def _term(name: str) -> str:
    """Return what errors call a term, which may have no name."""
    return f"term {name!r}" if name else "the residual"


def _kind(residual: Residual, term: Any, split: bool) -> list[Any]:
    """Return what defines a residual besides its points."""
    jets = [[jet.directions, jet.pairs, jet.channels.shape[2]] for jet in residual.jets]
    parts = [getattr(term, name, None) for name in ("causal", "sampler")]
    options = [{} if part is None else vars(part) for part in parts]
    own = () if split else ("seed", "count")  # which points of one process alone may have
    options = [{k: v for k, v in each.items() if k not in own} for each in options]
    function = getattr(term, "residual", residual.function)
    return [jets, function, getattr(term, "unknowns", None), *options]
