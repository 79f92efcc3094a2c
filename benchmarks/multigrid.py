"""Multigrid for Gauss-Newton on Burgers' equation: iterations, seconds and near-null spaces.

A network [2, 5, 5, 1] of order 6 is trained by levels. On each, systems J^T J + damping diag(J^T J)
are solved to a reduction by 1e-6 and 1e-2: by Cholesky's factors, by conjugate gradients with the
diagonal and with the V-cycle of kanlib. On coarse levels, with dense matrices: other smoothers, the
spectra with and without the V-cycle, and deflation. Then whole trainings by each solver and
tolerance; at last a large network trains in a process of its own. Seconds are those of the
processor, on one thread. Each result goes to the record as it comes; what the record has is not
measured again.

    python -m benchmarks.multigrid [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanlib import KAN, GaussNewton, ResidualLoss, Sampler, prolongation, train
from kanlib.paper.problems.burgers import Burgers
from kanlib.paper.records import provenance
from kanlib.training.coordinates import Coordinates
from kanlib.training.files import write_atomically
from kanlib.training.gauss_newton import (
    FLOOR,
    Cholesky,
    ConjugateGradients,
    Multigrid,
    conjugate_gradients,
)
from kanlib.training.hierarchy import coarsened
from kanlib.training.multigrid import DIRECT

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "multigrid.json"
SEED = 1
#: Reductions of the residual, of exact steps first.
EXACT, INEXACT = 1e-6, 1e-2
#: Vectors that are deflated, and iterations of conjugate gradients on pairs of layers.
DEFLATED = (0, 5, 10, 20, 40, 80)
INNER = (5, 20)


@dataclass(frozen=True)
class Sizes:
    """What is measured where; tests take less.

    Attributes:
        widths: the network, of order 6.
        points: points of the equation.
        steps: steps of training by intervals.
        dampings: dampings of the systems.
        dense: intervals on which other smoothers are tried, by the damping.
        spectra: intervals of the spectra of the scaled matrix.
        preconditioned: those of the spectra with the V-cycle, of deflation, and of levels that are
            added up or smoothed by inner iterations, by the damping.
        levels: intervals up to which the V-cycle goes down to n = 8, too.
        factors: those up to which Cholesky's factors are computed, whose memory is a bound.
        exact: those up to which the smaller damping is solved for.
        rounds: rounds of the solvers.
        training: intervals of whole trainings, their steps and seeds.
        wide: a large network.
        large: intervals, steps, points and solver of each of its levels, if any.
    """

    widths: tuple[int, ...]
    points: int
    steps: dict[int, int]
    dampings: tuple[float, ...]
    dense: dict[float, tuple[int, ...]]
    spectra: tuple[int, ...]
    preconditioned: dict[float, tuple[int, ...]]
    levels: int
    factors: int
    exact: int
    rounds: int
    training: tuple[tuple[int, ...], int, int]
    wide: tuple[int, ...]
    large: tuple[tuple[int, int, int, str], ...]


SIZES = Sizes(
    widths=(2, 5, 5, 1),
    points=4000,
    steps={8: 45, 16: 24, 32: 15, 64: 8, 128: 1, 256: 1, 512: 1},
    dampings=(1e-3, 1e-6),
    dense={1e-3: (16, 32, 64), 1e-6: (16,)},
    spectra=(16, 32),
    preconditioned={1e-3: (16, 32), 1e-6: (16,)},
    levels=64,
    factors=256,
    exact=32,
    rounds=1,
    training=((64,), 10, 3),
    wide=(2, 8, 8, 1),
    large=(
        (9, 45, 3000, "cholesky"),
        (18, 24, 4000, "cholesky"),
        (36, 8, 6000, "multigrid"),
        (72, 5, 8000, "multigrid"),
        (144, 5, 8000, "multigrid"),
        (288, 5, 8000, "multigrid"),
        (576, 5, 8000, "multigrid"),
    ),
)
#: Solvers and tolerances of whole trainings.
TRAININGS = {
    "cholesky": ("cholesky", INEXACT),
    "cg, 1e-2": ("cg", 1e-2),
    "multigrid, 1e-2": ("multigrid", 1e-2),
    "multigrid, 1e-1": ("multigrid", 1e-1),
}


def network(widths: Sequence[int], n: int) -> KAN:
    """Return a network before its training."""
    torch.manual_seed(SEED)
    shape: dict[str, Any] = {"n": n, "r": 6, "domain": (-1.0, 1.0), "init_scale": 0.1}
    return KAN([*widths], **shape, dtype=torch.float64)


def loss(problem: Burgers, number: int, seed: int) -> ResidualLoss:
    """Return the loss at points half of which follow the residual."""
    box: list[tuple[float, float]] = [(-1, 1), (0, 1)]
    points = Sampler(box, number, share=0.5, every=3, seed=seed, dtype=torch.float64)
    weights = {"initial": 10.0, "boundary": 10.0}
    return problem.loss(points={"volume": points}, weights=weights)


def networks(problem: Burgers, sizes: Sizes) -> Iterator[KAN]:
    """Yield the networks of all levels, trained one after the other."""
    model = network(sizes.widths, 8)
    for level, (n, steps) in enumerate(sizes.steps.items()):
        model = model.refine() if level else model
        solver, points = "cholesky" if n <= 64 else "multigrid", loss(problem, sizes.points, level)
        train(model, points, steps, optimizer=GaussNewton(solver=solver), progress=False)
        print(f"n = {n}: error {problem.error(model):.3g}", flush=True)
        yield model


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and its seconds on the processor."""
    began = time.process_time()
    found = function()
    return found, time.process_time() - began


class Systems:
    """One Gauss-Newton system for all solvers."""

    def __init__(self, problem: Burgers, model: KAN, points: int) -> None:
        objective = loss(problem, points, 100)
        objective(model)
        self.model, self.n = model, model.n
        self.coordinates = Coordinates(model, objective)
        self.arguments = (model, objective, self.coordinates, GaussNewton())

    def damped(self, squares: Tensor, damping: float) -> Tensor:
        """Return the diagonal of D."""
        return damping * squares.clamp(min=FLOOR * float(squares.max()))

    def solvers(self, damping: float, tolerance: float, sizes: Sizes) -> dict[str, Any]:
        """Return iterations and seconds of each solver, medians of rounds taken in turns."""
        solvers: dict[str, Callable[[], tuple[int, float, float]]] = {
            "multigrid": partial(self._cycles, damping, tolerance, DIRECT),
            "diagonal": partial(self._diagonal, damping, tolerance),
        }
        if self.n <= sizes.levels:
            coarsest = self.coordinates.size // (self.n + 5) * 13  # of order 6
            down = partial(self._cycles, damping, tolerance, coarsest)
            solvers["multigrid to n = 8"] = down
        if self.n <= sizes.factors:
            solvers["cholesky"] = partial(self._factors, damping)
        found: dict[str, list[tuple[int, float, float]]] = {}
        for _ in range(sizes.rounds if self.n <= sizes.exact else 1):
            for name, solve in solvers.items():
                found.setdefault(name, []).append(solve())
        return {
            name: {
                "iterations": each[0][0],
                "rounds": len(each),
                "seconds before": statistics.median(before for _, before, _ in each),
                "seconds of solution": statistics.median(after for *_, after in each),
            }
            for name, each in found.items()
        }

    def _cycles(self, damping: float, tolerance: float, direct: int) -> tuple[int, float, float]:
        system, before = timed(lambda: Multigrid(*self.arguments, direct))
        diagonal = self.coordinates.to_columns(self.damped(system.squares, damping))
        right = -self.coordinates.to_columns(system.gradient)

        def solve() -> tuple[Tensor, int]:
            cycle = system.hierarchy.damped(diagonal)
            assert cycle is not None
            return conjugate_gradients(product(system, diagonal), right, cycle, tolerance)

        (_, count), after = timed(solve)
        return count, before, after

    def _factors(self, damping: float) -> tuple[int, float, float]:
        system, before = timed(lambda: Cholesky(*self.arguments))
        _, after = timed(lambda: system.solve(self.damped(system.squares, damping)))
        return 0, before, after

    def _diagonal(self, damping: float, tolerance: float) -> tuple[int, float, float]:
        system, before = timed(lambda: ConjugateGradients(*self.arguments))
        diagonal, J = self.damped(system.squares, damping), system._jacobian
        scale = 1 / (system.squares + diagonal)
        (_, count), after = timed(
            lambda: conjugate_gradients(
                lambda v: J.transposed(J.product(v)) + diagonal * v,
                -system.gradient,
                lambda v: scale * v,
                tolerance,
            )
        )
        return count, before, after


def product(system: Multigrid, diagonal: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the product with the damped matrix."""
    level = system.hierarchy.levels[0]
    return lambda v: level.transposed(level.product(v)) + diagonal * v


def smoothers(model: KAN, n: int) -> dict[str, list[Tensor]]:
    """Return the blocks of each smoother, by entries of a vector, in their order."""
    entries, first = [], 0
    for layer in model.spline_layers:
        q, p, size = layer.out_features, layer.in_features, n + layer.order - 1
        entries.append(first + torch.arange(q * p * size).view(q, p, size))
        first += q * p * size
    entries.reverse()
    inputs = [e[:, p].flatten() for e in entries for p in range(e.shape[1])]
    whole = [e.flatten() for e in entries]
    hidden = [
        torch.cat([out[:, k].flatten(), into[k].flatten()])
        for out, into in pairwise(entries)
        for k in range(len(into))
    ]
    last = [e.flatten() for e in entries[0]]
    ends = [entries[-1][:, p].flatten() for p in range(entries[-1].shape[1])]
    return {
        "coefficients": [e[None] for e in torch.arange(first)],
        "edges": [edge for e in entries for edge in e.flatten(0, 1)],
        "edges into a unit": [unit.flatten() for e in entries for unit in e],
        "edges out of a unit": inputs,
        "edges in and out of a unit": last + hidden + ends,
        "layers": whole,
        "pairs of layers": [
            torch.cat(pair) for pair in pairwise(whole)
        ],
    }  # fmt: skip


class Dense:
    """V-cycles with dense matrices, down to a direct solution at n = 8.

    Args:
        model: the network.
        matrix: the damped matrix.
        name: the smoother, see :func:`smoothers`.
        inner: solve each block by so many iterations of conjugate gradients with the blocks of the
            edges out of a unit as preconditioner, and not by its factors; 0 for these.
    """

    def __init__(self, model: KAN, matrix: Tensor, name: str, inner: int = 0) -> None:
        self.matrices, self.sweeps, self.transfers = [matrix], [], []
        self.local: list[list[tuple[Tensor, Callable[[Tensor], Tensor]]]] = []
        n, grid = model.n, next(model.spline_layers).grid
        edges = sum(layer.in_features * layer.out_features for layer in model.spline_layers)
        while n > 8:
            kinds, A = smoothers(model, n), self.matrices[-1]
            small = kinds["edges out of a unit"]
            self.local.append(
                [
                    (b, approximate(A, b, small, inner) if inner else exact(A, b))
                    for b in kinds[name]
                ]
            )
            self.sweeps.append(self._sweeps(A, self.local[-1]))
            coarse = coarsened(grid)
            P = prolongation(coarse, grid).dense()
            self.transfers.append((P, edges))
            half = self._down(self.matrices[-1], -1)
            self.matrices.append(self._down(half.T.contiguous(), -1))
            n, grid = n // 2, coarse
        self.factor = torch.linalg.cholesky(self.matrices[-1])

    def _down(self, x: Tensor, level: int) -> Tensor:
        P, edges = self.transfers[level]
        return torch.einsum("fc,ef...->ec...", P, x.view(edges, -1, *x.shape[1:])).flatten(0, 1)

    def _up(self, x: Tensor, level: int) -> Tensor:
        P, edges = self.transfers[level]
        return torch.einsum("fc,ec->ef", P, x.view(edges, -1)).flatten()

    @staticmethod
    def _sweeps(
        matrix: Tensor, local: Sequence[tuple[Tensor, Callable[[Tensor], Tensor]]]
    ) -> tuple[Any, Any]:
        if len(local) == len(matrix):
            lower, upper = matrix.tril(), matrix.triu()
            solve = torch.linalg.solve_triangular
            return (
                lambda b: solve(upper, b[:, None], upper=True)[:, 0],
                lambda b: solve(lower, b[:, None], upper=False)[:, 0],
            )
        columns = [matrix[:, block].contiguous() for block, _ in local]

        def sweep(order: Sequence[int], right: Tensor) -> Tensor:
            x, rest = torch.zeros_like(right), right.clone()
            for k in order:
                block, solve = local[k]
                change = solve(rest[block])
                x[block] += change
                rest -= columns[k] @ change
            return x

        order = range(len(local))
        return partial(sweep, order), partial(sweep, order[::-1])

    def __call__(self, right: Tensor, level: int = 0) -> Tensor:
        """Return one V-cycle."""
        if level == len(self.sweeps):
            return torch.cholesky_solve(right[:, None], self.factor)[:, 0]
        A, (before, after) = self.matrices[level], self.sweeps[level]
        x = before(right)
        x = x + self._up(self(self._down(right - A @ x, level), level + 1), level)
        return x + after(right - A @ x)

    def added(self, right: Tensor, level: int = 0) -> Tensor:
        """Return the sum of what all levels do at once."""
        if level == len(self.sweeps):
            return torch.cholesky_solve(right[:, None], self.factor)[:, 0]
        x = torch.zeros_like(right)
        for block, solve in self.local[level]:
            x[block] += solve(right[block])
        return x + self._up(self.added(self._down(right, level), level + 1), level)


def exact(matrix: Tensor, block: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the solution for a block."""
    factor = torch.linalg.cholesky(matrix[block][:, block])
    return lambda b: torch.cholesky_solve(b[:, None], factor)[:, 0]


def approximate(
    matrix: Tensor, block: Tensor, small: Sequence[Tensor], iterations: int
) -> Callable[[Tensor], Tensor]:
    """Return some iterations of conjugate gradients for a block that consists of small ones."""
    own = matrix[block][:, block]
    place = {int(entry): k for k, entry in enumerate(block)}
    inside = [
        torch.tensor([place[int(e)] for e in entries])
        for entries in small
        if int(entries[0]) in place
    ]
    solvers = [exact(own, entries) for entries in inside]

    def precondition(r: Tensor) -> Tensor:
        z = torch.zeros_like(r)
        for entries, solve in zip(inside, solvers, strict=True):
            z[entries] = solve(r[entries])
        return z

    def solve(b: Tensor) -> Tensor:
        x, rest = torch.zeros_like(b), b.clone()
        direction = precondition(rest)
        power = float(rest @ direction)
        for _ in range(iterations):
            image = own @ direction
            length = power / float(direction @ image)
            x += length * direction
            rest -= length * image
            scaled = precondition(rest)
            before, power = power, float(rest @ scaled)
            direction = scaled + power / before * direction
        return x

    return solve


def other_smoothers(systems: Systems, damping: float) -> dict[str, Any]:
    """Return the iterations with each smoother, of V-cycles and of all levels added up."""
    system = Cholesky(*systems.arguments)
    A = system._gram + torch.diag(systems.damped(system.squares, damping))
    found: dict[str, Any] = {}
    for name in smoothers(systems.model, systems.n):
        cycle = Dense(systems.model, A, name)
        found[name] = conjugate_gradients(lambda v: A @ v, -system.gradient, cycle, EXACT)[1]
        print(systems.n, damping, name, found[name], flush=True)
    return found


def added(systems: Systems, damping: float) -> dict[str, int]:
    """Return the iterations with the blocks of each smoother on all levels at once."""
    system = Cholesky(*systems.arguments)
    A = system._gram + torch.diag(systems.damped(system.squares, damping))
    found = {}
    for name in ("coefficients", "edges out of a unit", "edges in and out of a unit", "layers"):
        cycle = Dense(systems.model, A, name).added
        found[name] = conjugate_gradients(lambda v: A @ v, -system.gradient, cycle, EXACT)[1]
    return found


def inner(systems: Systems, damping: float) -> dict[str, Any]:
    """Return iterations and work where pairs of layers are smoothed by conjugate gradients.

    Work is in products with J and J^T, those with some columns counted by their nonzeros.
    """
    system = Cholesky(*systems.arguments)
    A = system._gram + torch.diag(systems.damped(system.squares, damping))
    edges = [layer.in_features * layer.out_features for layer in systems.model.spline_layers]
    share = sum(sum(pair) for pair in pairwise(edges)) / sum(edges)
    names = {"edges out of a unit": ("edges out of a unit", 0)}
    names |= {f"pairs of layers, {k} iterations": ("pairs of layers", k) for k in INNER}
    found = {}
    for title, (name, k) in names.items():
        cycle = Dense(systems.model, A, name, k)
        count = flexible(lambda v: A @ v, -system.gradient, cycle, EXACT)
        # Both sweeps, the residual between, and J x that goes up.
        sweep = 1 + k * share
        work = count * (1 + len(cycle.sweeps) * (2 * sweep + 0.5))
        found[title] = {"iterations": count, "pairs of products": round(work)}
        print(systems.n, damping, title, found[title], flush=True)
    return found


def flexible(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor],
    tolerance: float,
) -> int:
    """Return the iterations of conjugate gradients with a preconditioner that is not linear."""
    residual = right.clone()
    scaled = direction = precondition(residual)
    power = start = float(residual @ scaled)
    for iteration in range(len(right)):
        if not power > tolerance**2 * start:
            return iteration
        image = product(direction)
        before = residual
        residual = residual - float(direction @ residual) / float(direction @ image) * image
        scaled = precondition(residual)
        turn = float((residual - before) @ scaled) / power
        power = float(residual @ scaled)
        direction = scaled + turn * direction
    return len(right)


def preconditioned(systems: Systems, damping: float) -> dict[str, Any]:
    """Return the spectrum with the V-cycle, its lowest vectors, and what their deflation saves."""
    system = Cholesky(*systems.arguments)
    G, D = system._gram, systems.damped(system.squares, 1.0)
    A, b = G + damping * torch.diag(D), -system.gradient
    cycle = Dense(systems.model, A, "edges out of a unit")
    M = torch.stack([cycle(e) for e in torch.eye(len(A), dtype=A.dtype)])
    L = torch.linalg.cholesky(A)
    values, vectors = torch.linalg.eigh(L.T @ (0.5 * (M + M.T)) @ L)
    X = torch.linalg.solve_triangular(L.T, vectors, upper=True)
    scale = D.sqrt()
    P, edges = cycle.transfers[0]
    coarse = torch.linalg.qr(scale[:, None] * torch.block_diag(*[P] * edges)).Q
    sizes = [layer.weight.numel() for layer in systems.model.spline_layers]
    shares = []
    for low, high in pairwise(DEFLATED):
        V = X[:, low:high]
        U = scale[:, None] * V
        U = U / U.norm(dim=0)
        blocks = zip(sizes, V.split(sizes), strict=True)
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        own = sum(
            ((G[at : at + size, at : at + size] @ part) * part).sum(0)
            for at, (size, part) in zip(ends, blocks, strict=False)
        )
        shares.append({
            "vectors": f"{low + 1}-{high}",
            "layers": [float(part.square().sum(0).mean()) for part in U.split(sizes)],
            "coarse": float((coarse.T @ U).square().sum(0).mean()),
            "what layers leave of each other": float((((G @ V) * V).sum(0) / own).median()),
        })  # fmt: skip
    return {
        "eigenvalues": [float(f"{w:.3g}") for w in values[:200].tolist()],
        "lowest": shares,
        "deflated": {k: deflated(A, b, cycle, X[:, :k]) for k in DEFLATED},
    }


def deflated(A: Tensor, b: Tensor, precondition: Callable[[Tensor], Tensor], X: Tensor) -> int:
    """Return the iterations of conjugate gradients without what lies in some vectors."""
    AX = A @ X
    factor = torch.linalg.cholesky(X.T @ AX)

    def projected(r: Tensor) -> Tensor:
        y = precondition(r)
        return y - X @ torch.cholesky_solve((AX.T @ y)[:, None], factor)[:, 0]

    rest = b - AX @ torch.cholesky_solve((X.T @ b)[:, None], factor)[:, 0]
    return conjugate_gradients(lambda v: A @ v, rest, projected, EXACT)[1]


def gauges(model: KAN, gram: Tensor) -> dict[str, Tensor]:
    """Return vectors that change the network least, as columns of a matrix for each kind.

    Constants move between the edges into one unit. Where a hidden value is shifted or scaled, the
    edges out of the unit take the coefficients that undo it best: those of least |J v|.
    """
    layers: list[Any] = [*model.spline_layers]
    found: dict[str, list[Tensor]] = {"constants": [], "shifts": [], "scales": []}
    shapes = [layer.weight.shape for layer in layers]
    entries = torch.arange(sum(s.numel() for s in shapes)).split([s.numel() for s in shapes])
    places = [e.view(s) for e, s in zip(entries, shapes, strict=True)]
    size = len(gram)
    for place, layer, after in zip(places, layers, [*places[1:], None], strict=True):
        for q in range(layer.out_features):
            for p in range(1, layer.in_features):
                v = gram.new_zeros(size)
                v[place[q, 0]], v[place[q, p]] = 1.0, -1.0
                found["constants"].append(v)
            if after is None:
                continue
            out = after[:, q].flatten()
            block = gram[out][:, out]
            inverse = torch.linalg.pinv(block, rtol=1e-13, hermitian=True)
            for kind in ("shifts", "scales"):
                v = gram.new_zeros(size)
                if kind == "shifts":
                    v[place[q, 0]] = 1.0
                else:
                    v[place[q].flatten()] = layer.weight.detach()[q].flatten()
                v[out] = -inverse @ (gram @ v)[out]
                found[kind].append(v)
    return {kind: torch.stack(each, dim=1) for kind, each in found.items()}


def spectrum(systems: Systems) -> dict[str, Any]:
    """Return eigenvalues of the scaled matrix, and where their vectors lie."""
    system = Cholesky(*systems.arguments)
    D = systems.damped(system.squares, 1.0)
    scale = D.sqrt()
    S = system._gram / scale[:, None] / scale
    values, vectors = torch.linalg.eigh(S)
    kinds = gauges(systems.model, system._gram)
    Q = torch.linalg.qr(scale[:, None] * torch.cat([*kinds.values()], dim=1)).Q
    grid = next(systems.model.spline_layers).grid
    P = prolongation(coarsened(grid), grid).dense()
    edges = len(D) // len(P)
    coarse = torch.linalg.qr(scale[:, None] * torch.block_diag(*[P] * edges)).Q
    live = system.squares > FLOOR * float(system.squares.max())
    decades = {}
    for low in range(-16, 2, 2):
        own = (values >= (10.0**low if low > -16 else -1)) & (values < 10.0 ** (low + 2))
        if own.any():
            V = vectors[:, own]
            decades[f"1e{low + 2}"] = {
                "count": int(own.sum()),
                "gauges": float((Q.T @ V).square().sum(0).mean()),
                "coarse": float((coarse.T @ V).square().sum(0).mean()),
            }
    rayleigh = {
        kind: sorted(
            ((system._gram @ v) @ v / (D @ v.square())).item() for v in each.T
        )
        for kind, each in kinds.items()
    }  # fmt: skip
    return {"parameters": len(D), "reached": int(live.sum()), "below": decades,
            "quotients of gauges": rayleigh}  # fmt: skip


def training(problem: Burgers, model: KAN, sizes: Sizes, name: str, seed: int) -> dict[str, Any]:
    """Return loss, error and seconds of the training of a refined network."""
    solver, tolerance = TRAININGS[name]
    optimizer = GaussNewton(solver=solver, tolerance=tolerance)
    refined, points = model.refine(), loss(problem, sizes.points, 200 + seed)
    run, seconds = timed(
        lambda: train(refined, points, sizes.training[1], optimizer=optimizer, progress=False)
    )
    return {"loss": run.loss, "error": problem.error(refined), "seconds": seconds}


def large(sizes: Sizes) -> dict[str, Any]:
    """Train a large network by levels in this process, and return seconds and memory."""
    torch.set_num_threads(1)
    problem = Burgers(201, 51)
    model, levels = network(sizes.wide, sizes.large[0][0]), []
    for n, steps, number, solver in sizes.large:
        model = model.refine() if levels else model
        optimizer = GaussNewton(solver=solver, tolerance=1e-1)
        points = loss(problem, number, n)
        run, seconds = timed(
            lambda model=model, points=points, steps=steps, optimizer=optimizer: train(
                model, points, steps, optimizer=optimizer, progress=False
            )
        )
        levels.append({
            "n": n,
            "parameters": sum(p.numel() for p in model.parameters()),
            "points": number,
            "solver": solver,
            "steps": len(run.history.loss) - 1,
            "loss": [run.history.loss[0], run.loss],
            "error": problem.error(model),
            "seconds": seconds,
            "memory (MB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        })  # fmt: skip
        print(levels[-1], file=sys.stderr, flush=True)
    return {"levels": levels}


def main(arguments: Sequence[str] | None = None, sizes: Sizes = SIZES) -> None:
    """Measure all that the record does not have."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.multigrid")
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--large", action="store_true", help="only the large network, as JSON")
    options = parser.parse_args(arguments)
    if options.large:
        print(json.dumps(large(sizes)))
        return
    torch.set_num_threads(1)
    content: dict[str, Any] = {"schema": 2, "experiment": "multigrid"}
    if options.out.exists():
        content = json.loads(options.out.read_text())
    problem = Burgers(201, 51)

    def put(section: str, key: str, function: Callable[[], Any]) -> None:
        if key in content.setdefault(section, {}):
            return
        content[section][key] = function()
        made_by = asdict(provenance("benchmarks"))
        content["provenance"] = made_by  # of the newest result
        content.setdefault("commits", {}).setdefault(section, {})[key] = made_by["commit"]
        write_atomically(options.out, (json.dumps(content, indent=1) + "\n").encode())
        print(section, key, content[section][key], flush=True)

    intervals, _, seeds = sizes.training
    found: list[Systems] = []
    for model in networks(problem, sizes):
        for seed in range(seeds if 2 * model.n in intervals else 0):
            for name in TRAININGS:
                key = f"n={2 * model.n} seed={seed} solver={name}"
                put("training", key, partial(training, problem, model, sizes, name, seed))
        if model.n == 8:
            continue
        system, n = Systems(problem, model, sizes.points), model.n
        found.append(system)
        for damping in sizes.dampings:
            for tolerance in (EXACT, INEXACT):
                if tolerance == INEXACT or damping > 1e-6 or n <= sizes.exact:
                    key = f"n={n} damping={damping:g} tolerance={tolerance:g}"
                    put("solvers", key, partial(system.solvers, damping, tolerance, sizes))
    for system in found:
        n = system.n
        if n in sizes.spectra:
            put("spectra", f"n={n}", partial(spectrum, system))
        for damping in sizes.dampings:
            key = f"n={n} damping={damping:g}"
            if n in sizes.preconditioned.get(damping, ()):
                put("preconditioned", key, partial(preconditioned, system, damping))
                put("added", key, partial(added, system, damping))
                put("inner", key, partial(inner, system, damping))
            if n in sizes.dense.get(damping, ()):
                put("smoothers", key, partial(other_smoothers, system, damping))
    if sizes.large:
        put("large", "training", in_a_process)


def in_a_process() -> dict[str, Any]:
    """Train the large network in a process of its own, whose memory nothing else has taken."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.multigrid", "--large"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
