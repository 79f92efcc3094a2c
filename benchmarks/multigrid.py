"""Multigrid for Gauss-Newton on Burgers' equation: iterations, seconds and near-null spaces.

A network [2, 5, 5, 1] of order 6 is trained by levels. On each, systems J^T J + damping diag(J^T J)
are solved to a reduction by 1e-6: by Cholesky's factors, by conjugate gradients with the diagonal
and with the V-cycle of kanlib. On coarse levels other smoothers are tried, with dense matrices, and
the spectrum is compared with the gauges of the network. At last one large network does a step in
a process of its own. Seconds are those of the processor, on one thread. Each result goes to the
record as it comes; what the record has is not measured again.

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
from dataclasses import asdict
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
from kanlib.training.jacobian import POINTS
from kanlib.training.multigrid import DIRECT, every_second

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "multigrid.json"
SEED, NUMBER = 1, 4000
#: Steps of training by intervals.
STEPS = {8: 45, 16: 24, 32: 15, 64: 8, 128: 1, 256: 1}
DAMPINGS = (1e-3, 1e-6)
#: Intervals on which other smoothers are tried, by the damping, and the spectrum is computed.
DENSE = {1e-3: (16, 32, 64), 1e-6: (16,)}
SPECTRA = (16, 32)
#: Conjugate gradients with the diagonal are not waited for from here.
SLOW = 128
ROUNDS = 3
#: Parameters of the network with n = 8.
COARSEST = 520
LARGE: dict[str, Any] = {
    "widths": [2, 8, 8, 1],
    "n": 576,
    "r": 6,
    "domain": (-1.0, 1.0),
    "init_scale": 0.1,
}
LARGE_POINTS = 8000


def loss(problem: Burgers, number: int, seed: int) -> ResidualLoss:
    """Return the loss at points half of which follow the residual."""
    box: list[tuple[float, float]] = [(-1, 1), (0, 1)]
    points = Sampler(box, number, share=0.5, every=3, seed=seed, dtype=torch.float64)
    weights = {"initial": 10.0, "boundary": 10.0}
    return problem.loss(points={"volume": points}, weights=weights)


def networks(problem: Burgers) -> Iterator[KAN]:
    """Yield the networks of all levels, trained one after the other."""
    torch.manual_seed(SEED)
    shape: dict[str, Any] = {"n": 8, "r": 6, "domain": (-1.0, 1.0), "init_scale": 0.1}
    model = KAN([2, 5, 5, 1], **shape, dtype=torch.float64)
    for level, (n, steps) in enumerate(STEPS.items()):
        model = model.refine() if level else model
        optimizer = GaussNewton(solver="cholesky" if n <= 64 else "multigrid", damping=1e-3)
        train(model, loss(problem, NUMBER, level), steps, optimizer=optimizer, progress=False)
        print(f"n = {n}: error {problem.error(model):.3g}", flush=True)
        yield model


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and its seconds on the processor."""
    began = time.process_time()
    found = function()
    return found, time.process_time() - began


class Systems:
    """One Gauss-Newton system for all solvers."""

    def __init__(self, problem: Burgers, model: KAN) -> None:
        objective = loss(problem, NUMBER, 100)
        objective(model)
        self.model, self.n = model, model.n
        self.coordinates = Coordinates(model, objective)
        self.arguments = (model, objective, self.coordinates, POINTS)

    def damped(self, squares: Tensor, damping: float) -> Tensor:
        """Return the diagonal of D."""
        return damping * squares.clamp(min=FLOOR * float(squares.max()))

    def solvers(self, damping: float) -> dict[str, Any]:
        """Return iterations and median seconds of each solver, in turns."""
        rounds = ROUNDS if self.n < SLOW else 1
        solvers: dict[str, Callable[[float], tuple[int, float, float]]] = {
            "multigrid": self._cycles,
            "multigrid to n = 8": partial(self._cycles, direct=COARSEST),
            "cholesky": self._factors,
        }
        found: dict[str, list[tuple[int, float, float]]] = {}
        for _ in range(rounds):
            for name, solve in solvers.items():
                found.setdefault(name, []).append(solve(damping))
        if self.n < SLOW and damping == DAMPINGS[0]:
            found["diagonal"] = [self._diagonal(damping)]
        return {
            name: {
                "iterations": each[0][0],
                "rounds": len(each),
                "seconds before": statistics.median(before for _, before, _ in each),
                "seconds of solution": statistics.median(after for *_, after in each),
            }
            for name, each in found.items()
        }

    def _cycles(self, damping: float, direct: int = DIRECT) -> tuple[int, float, float]:
        system, before = timed(lambda: Multigrid(*self.arguments, direct))
        diagonal = self.coordinates.to_columns(self.damped(system.squares, damping))
        level, right = system.hierarchy.levels[0], -self.coordinates.to_columns(system.gradient)

        def solve() -> tuple[Tensor, int]:
            cycle = system.hierarchy.damped(diagonal)
            assert cycle is not None
            return conjugate_gradients(
                lambda v: level.transposed(level.product(v)) + diagonal * v, right, cycle
            )

        (_, count), after = timed(solve)
        return count, before, after

    def _factors(self, damping: float) -> tuple[int, float, float]:
        system, before = timed(lambda: Cholesky(*self.arguments))
        _, after = timed(lambda: system.solve(self.damped(system.squares, damping)))
        return 0, before, after

    def _diagonal(self, damping: float) -> tuple[int, float, float]:
        system, before = timed(lambda: ConjugateGradients(*self.arguments))
        diagonal, J = self.damped(system.squares, damping), system._jacobian
        scale = 1 / (system.squares + diagonal)
        (_, count), after = timed(
            lambda: conjugate_gradients(
                lambda v: J.transposed(J.product(v)) + diagonal * v,
                -system.gradient,
                lambda v: scale * v,
            )
        )
        return count, before, after


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
    """V-cycles with dense matrices, down to a direct solution at n = 8."""

    def __init__(self, model: KAN, matrix: Tensor, name: str) -> None:
        self.matrices, self.sweeps, self.transfers = [matrix], [], []
        n, grid = model.n, next(model.spline_layers).grid
        edges = sum(layer.in_features * layer.out_features for layer in model.spline_layers)
        while n > 8:
            self.sweeps.append(self._sweeps(self.matrices[-1], smoothers(model, n)[name]))
            coarse = every_second(grid)
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
    def _sweeps(matrix: Tensor, blocks: Sequence[Tensor]) -> tuple[Any, Any]:
        if len(blocks) == len(matrix):
            lower, upper = matrix.tril(), matrix.triu()
            solve = torch.linalg.solve_triangular
            return (
                lambda b: solve(upper, b[:, None], upper=True)[:, 0],
                lambda b: solve(lower, b[:, None], upper=False)[:, 0],
            )
        factors = [torch.linalg.cholesky(matrix[b][:, b]) for b in blocks]
        columns = [matrix[:, b].contiguous() for b in blocks]

        def sweep(order: Sequence[int], right: Tensor) -> Tensor:
            x, rest = torch.zeros_like(right), right.clone()
            for k in order:
                change = torch.cholesky_solve(rest[blocks[k]][:, None], factors[k])[:, 0]
                x[blocks[k]] += change
                rest -= columns[k] @ change
            return x

        order = range(len(blocks))
        return partial(sweep, order), partial(sweep, order[::-1])

    def __call__(self, right: Tensor, level: int = 0) -> Tensor:
        """Return one V-cycle."""
        if level == len(self.sweeps):
            return torch.cholesky_solve(right[:, None], self.factor)[:, 0]
        A, (before, after) = self.matrices[level], self.sweeps[level]
        x = before(right)
        x = x + self._up(self(self._down(right - A @ x, level), level + 1), level)
        return x + after(right - A @ x)


def other_smoothers(systems: Systems, damping: float) -> dict[str, int]:
    """Return the iterations with each smoother."""
    system = Cholesky(*systems.arguments)
    A = system._gram + torch.diag(systems.damped(system.squares, damping))
    found = {}
    for name in smoothers(systems.model, systems.n):
        cycle = Dense(systems.model, A, name)
        found[name] = conjugate_gradients(lambda v: A @ v, -system.gradient, cycle)[1]
        print(systems.n, damping, name, found[name], flush=True)
    return found


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
    P = prolongation(every_second(grid), grid).dense()
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


def large() -> dict[str, Any]:
    """Do one step of a large network in this process, and return seconds and memory."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    problem = Burgers(201, 51)
    model = KAN(**LARGE, dtype=torch.float64)
    optimizer = GaussNewton(solver="multigrid").bind(model, loss(problem, LARGE_POINTS, 0))
    before, seconds = timed(optimizer.step)
    objective = optimizer.objective
    return {
        "parameters": optimizer.coordinates.size,
        "points": LARGE_POINTS,
        "loss": [before, float(objective(model).detach())],
        "seconds": seconds,
        "memory (MB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all that the record does not have."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.multigrid")
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--large", action="store_true", help="only the large network, as JSON")
    options = parser.parse_args(arguments)
    if options.large:
        print(json.dumps(large()))
        return
    torch.set_num_threads(1)
    content: dict[str, Any] = {"schema": 1, "experiment": "multigrid"}
    if options.out.exists():
        content = json.loads(options.out.read_text())
    problem = Burgers(201, 51)

    def put(section: str, key: str, function: Callable[[], Any]) -> None:
        if key in content.setdefault(section, {}):
            return
        content[section][key] = function()
        made_by = asdict(provenance())
        content["provenance"] = made_by
        write_atomically(options.out, (json.dumps(content, indent=1) + "\n").encode())
        print(section, key, content[section][key], flush=True)

    for model in networks(problem):
        if model.n == 8:
            continue
        system, n = Systems(problem, model), model.n
        if n in SPECTRA:
            put("spectra", f"n={n}", partial(spectrum, system))
        for damping in DAMPINGS:
            key = f"n={n} damping={damping:g}"
            put("solvers", key, partial(system.solvers, damping))
            if n in DENSE[damping]:
                put("smoothers", key, partial(other_smoothers, system, damping))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.multigrid", "--large"]
    put("large", "step", lambda: json.loads(
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    ))  # fmt: skip


if __name__ == "__main__":
    main()
