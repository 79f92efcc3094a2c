"""Rows of Jacobians, for about the cost of a gradient.

A residual at a point depends on the network at that point only. One backward pass from the sum of
a residual component therefore gives, at the outputs of each layer, every point's own cotangent g
(C, N, Q), and the row of the Jacobian of point s follows from the jets B of the basis,

    J[s; q, p, i] = sum_c g[c, s, q] B[c, s, p, i]:

r entries an edge, however many intervals there are (all of them, where the functions of a basis
have no local support). The columns of input p of a layer are kept as
(basis function, output), so that the entries of a row are one run of r Q numbers; runs of other
parameters are as long as these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, vmap

from kanlib.kernels import operator, reference
from kanlib.nn.expansion import ExpansionLayer
from kanlib.nn.free_knots import FreeKnots
from kanlib.nn.hard_conditions import HardConditions
from kanlib.nn.jets import Jet, named, propagate
from kanlib.nn.networks import KAN, MLP
from kanlib.nn.spline_layer import MODULES, SplineLayer, spline_layers
from kanlib.objectives.penalties import EdgeRows, points_of
from kanlib.objectives.squares import Residual, evaluate
from kanlib.splines import bspline
from kanlib.splines.knots import extended
from kanlib.training.coordinates import in_columns


@dataclass(frozen=True)
class Run:
    """Consecutive nonzeros of each row: those that belong to a part of one parameter.

    Args:
        parameter: the parameter.
        start: the column of the parameter, see :class:`kanlib.training.coordinates.Coordinates`,
            from which ``offset`` counts.
        offset: where the run of each row begins, (M,).
        values: the entries, (M, L).
        size: columns that ``offset`` and L stay within.
    """

    parameter: Tensor
    start: int
    offset: Tensor
    values: Tensor
    size: int


@singledispatch
def runs(module: Any, jet: Jet, cotangent: Tensor) -> Iterator[Run]:
    """Yield the rows of the Jacobian of a layer, in its own trainable parameters.

    There are rules for the layers of kanlib and for nn.Linear; others go through torch.func.

    Args:
        module: the layer.
        jet: jet of its inputs at N points.
        cotangent: gradients (K, C, N, Q) of K residuals at each point in the jet of its outputs.

    Yields:
        Runs of N K rows, the K of one point after each other.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    yield from _by_transformation(module, parameters, jet, cotangent)


@runs.register
def _(module: nn.Linear, jet: Jet, cotangent: Tensor) -> Iterator[Run]:
    if module.weight.requires_grad:
        values = torch.einsum("kcnq,cnp->nkqp", cotangent, jet.channels)
        yield _full(module.weight, values)
    if module.bias is not None and module.bias.requires_grad:
        yield _full(module.bias, cotangent[:, 0].transpose(0, 1))


@runs.register
def _(module: ExpansionLayer, jet: Jet, cotangent: Tensor) -> Iterator[Run]:
    if module.weight.requires_grad:
        basis = module.jets(jet.channels, jet.pairs)
        yield _full(module.weight, torch.einsum("kcnq,cnpi->nkqpi", cotangent, basis))


@runs.register
def _(module: SplineLayer, jet: Jet, cotangent: Tensor) -> Iterator[Run]:
    index, powers = _coefficients(module, jet)
    if module.weight.requires_grad:
        yield from _weight_runs(module, index, powers, cotangent)
    if module.knots is not None and module.knots.logits.requires_grad:
        yield from _knot_runs(module, module.knots, index, powers, cotangent)


def _coefficients(layer: SplineLayer, jet: Jet) -> tuple[Tensor, Tensor]:
    """Return the intervals (N, P) and the jets of the powers (C, N, P, r) at the points."""

    def of(channels: Tensor, breakpoints: Tensor) -> tuple[Tensor, Tensor]:
        return reference.power_jets(channels, breakpoints, layer.order, jet.pairs, layer.extension)

    breakpoints, _ = layer.pieces()
    channels = layer.entering(jet.channels)
    if len(breakpoints) == 1:
        return of(channels, breakpoints[0])
    each = [of(channels[..., p : p + 1], t) for p, t in enumerate(breakpoints)]
    return torch.cat([i for i, _ in each], -1), torch.cat([c for _, c in each], -2)


def _weight_runs(
    layer: SplineLayer, index: Tensor, powers: Tensor, cotangent: Tensor
) -> Iterator[Run]:
    """Yield one run for each input: r basis functions times Q outputs."""
    size = layer.weight.shape[-1] * layer.out_features
    tables = [bspline.pieces(grid).to(powers) for grid in layer.distinct_grids]
    for p in range(layer.in_features):
        table, coefficients = tables[p % len(tables)], powers[:, :, p]
        if len(table) == 1:
            basis = coefficients @ table[0].T
        else:
            basis = (table[index[:, p]] @ coefficients[..., None])[..., 0]
        values = _products(cotangent, basis)
        if layer.mask is not None:
            values = values * layer.mask[:, p]
        offset = index[:, p] * layer.out_features
        yield _run(layer.weight, p * size, offset, values, size)


def _knot_runs(
    layer: SplineLayer, knots: FreeKnots, index: Tensor, powers: Tensor, cotangent: Tensor
) -> Iterator[Run]:
    """Yield the rows in the logits of the knots, through the polynomials of every interval."""
    module, logits, weight = MODULES[layer.basis], knots.logits, layer.coefficients().detach()
    names = [name for name, _ in knots.named_parameters()]

    def polynomials(change: Tensor) -> Tensor:
        points = functional_call(knots, dict.fromkeys(names, logits.detach() + change), ())
        tables = module.pieces_of(extended(points, layer.order), layer.order)
        return module.polynomials(weight, tables.to(weight))

    # A polynomial depends on the knots of its own input: one change of all rows tells all.
    slopes = jacfwd(polynomials)(torch.zeros_like(logits[0].detach()))  # (Q, P, n, r, n)
    shape = (layer.out_features, logits.shape[1], powers.shape[-1], -1)
    by_input = []
    for p in range(layer.in_features):
        products = _products(cotangent, powers[:, :, p])  # (N, K, r, Q)
        chosen = slopes[:, p].reshape(shape)[:, index[:, p]]  # (Q, N, r, n)
        by_input.append(torch.einsum("nkrq,qnrj->nkj", products, chosen))
    if len(logits) == 1:
        yield _full(logits, torch.stack(by_input).sum(0))
    else:
        yield _full(logits, torch.stack(by_input, dim=2))


def _by_transformation(
    module: nn.Module, parameters: dict[str, Tensor], jet: Jet, cotangent: Tensor
) -> Iterator[Run]:
    """Yield the rows of a module without a rule, by torch.func, a point at a time."""
    wrapped = _Evaluation(module, jet)

    def product(values: dict[str, Tensor], channels: Tensor, g: Tensor) -> Tensor:
        named = {f"module.{name}": value for name, value in values.items()}
        return (functional_call(wrapped, named, (channels[:, None],))[:, 0] * g).sum()

    rows = vmap(vmap(grad(product), in_dims=(None, None, 0)), in_dims=(None, 1, 2))
    values = {name: p.detach() for name, p in parameters.items()}
    with operator.backend("torch"):
        found = rows(values, jet.channels.detach(), cotangent)
    layers = {id(m.weight): m for m in spline_layers(module)}
    for name, parameter in parameters.items():
        layer = layers.get(id(parameter))
        yield _full(parameter, found[name] if layer is None else in_columns(layer, found[name]))


class _Evaluation(nn.Module):
    """The map from the channels of a jet to those of its image, as a module."""

    def __init__(self, module: nn.Module, jet: Jet) -> None:
        super().__init__()
        self.module, self._jet = module, jet

    def forward(self, channels: Tensor) -> Tensor:
        return evaluate(self.module, replace(self._jet, channels=channels)).channels


def _products(cotangent: Tensor, basis: Tensor) -> Tensor:
    """Return sum_c basis[c, n, i] cotangent[k, c, n, q] of shape (N, K, r, Q)."""
    g = cotangent.permute(1, 2, 0, 3)[:, :, :, None]  # (C, N, K, 1, Q)
    b = basis[:, :, None, :, None]
    total = b[0] * g[0]
    for c in range(1, len(b)):
        total.addcmul_(b[c], g[c])
    return total


def _run(parameter: Tensor, start: int, offset: Tensor, values: Tensor, size: int) -> Run:
    """Return a run from values (N, K, ...) and the offset (N,) of each point."""
    rows = values.shape[0] * values.shape[1]
    return Run(
        parameter,
        start,
        offset.repeat_interleave(values.shape[1]),
        values.reshape(rows, -1).contiguous(),
        size,
    )


def _full(parameter: Tensor, values: Tensor) -> Run:
    """Return the run that is all of a parameter, from values (N, K, ...)."""
    offset = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    return _run(parameter, 0, offset, values, parameter.numel())


#: Networks that are a chain of modules, by the rule that propagates jets through them.
_CHAINS: dict[Any, Callable[[Any], Iterable[nn.Module]]] = {
    propagate.dispatch(KAN): lambda model: model.layers,
    propagate.dispatch(MLP): lambda model: model.layers,
    propagate.dispatch(nn.Sequential): lambda model: model,
}

Trace = list[tuple[nn.Module, Jet, Jet]]


def _traced(module: Any, jet: Jet, trace: Trace) -> Jet:
    """Return the jet of a module, and note what goes in and out of each layer with parameters."""
    chain = _CHAINS.get(propagate.rule(module))
    if chain is not None:
        for layer in chain(module):
            jet = _traced(layer, jet, trace)
        return named(module, jet)
    if propagate.rule(module) is propagate.dispatch(HardConditions):
        return named(
            module, module.imposed(jet, _traced(module.network, module.entered(jet), trace))
        )
    trained = any(p.requires_grad for p in module.parameters())
    with _constant(module):
        out = evaluate(module, jet)
    if trained:
        if not out.channels.requires_grad:
            out = replace(out, channels=out.channels.detach().requires_grad_())
        trace.append((module, jet, out))
    return out


@contextmanager
def _constant(module: nn.Module) -> Iterator[None]:
    """Make the parameters of a module constants: a backward pass then skips their gradients."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


def rows(
    model: nn.Module, residual: Residual, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Run]]:
    """Return the residual (N K,) of a model and the runs of its Jacobian.

    Args:
        model: the network.
        residual: the residual at N points.
        parameters: all trainable parameters; those of no layer may be in the residual itself.
    """
    traces: list[Trace] = []
    outputs = []
    with torch.enable_grad():
        for jet in residual.jets:
            traces.append([])
            outputs.append(_traced(model, jet, traces[-1]))
        found = residual.rows(*outputs)
    layers = [entry for trace in traces for entry in trace]
    channels = [out.channels for _, _, out in layers]
    result = []
    if channels and found.requires_grad:
        passes = [
            torch.autograd.grad(column, channels, retain_graph=True, materialize_grads=True)
            for column in found.sum(0)
        ]
        with torch.no_grad():
            for position, (layer, before, _) in enumerate(layers):
                cotangent = torch.stack([each[position] for each in passes])
                inputs = replace(before, channels=before.channels.detach())
                altered = propagate.rule(layer) is propagate.rule(None)
                rule = runs.dispatch(object) if altered else runs
                result += list(rule(layer, inputs, cotangent))
    inside = {id(p) for layer, _, _ in layers for p in layer.parameters()}
    scalars = [p for p in parameters if id(p) not in inside]
    result += _scalar_runs(found, scalars)
    return found.detach().flatten(), result


@torch.no_grad()
def edge_rows(residual: EdgeRows, layer: SplineLayer, p: int) -> tuple[Tensor, list[Run]]:
    """Return the rows (K Q,) of a penalty on the edges from one input, and their Jacobian.

    At each Gauss point there is a row for each output, and its r nonzeros are every Q-th entry of
    the run.
    """
    found = residual.rows(layer, p).detach()
    if not layer.weight.requires_grad:
        return found.flatten(), []
    index, basis, weights = points_of(layer, p, residual.penalty.derivative)
    basis = (residual.penalty.weight * weights).sqrt()[:, None] * basis
    own = torch.eye(layer.out_features, dtype=basis.dtype, device=basis.device)
    if layer.mask is not None:
        own = own * layer.mask[:, p]
    values = torch.einsum("kr,qo->kqro", basis, own)
    size = layer.weight.shape[-1] * layer.out_features
    return found.flatten(), [_run(layer.weight, p * size, index * layer.out_features, values, size)]


def _scalar_runs(found: Tensor, parameters: list[Tensor]) -> Iterator[Run]:
    """Yield the columns of parameters that enter a residual directly, an entry at a time.

    With G = v . dr/dp, which is linear in v, the derivative of G in v is the column dr/dp.
    """
    if not parameters or not found.requires_grad:
        return
    v = torch.zeros_like(found, requires_grad=True)
    for parameter in parameters:
        (g,) = torch.autograd.grad(found, parameter, v, create_graph=True, allow_unused=True)
        if g is None:
            continue
        columns = [torch.autograd.grad(e, v, retain_graph=True)[0] for e in g.flatten()]
        yield _full(parameter, torch.stack(columns, dim=2))
