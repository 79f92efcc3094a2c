"""What a user would pick instead: error against seconds on Poisson's and Burgers' equation.

DeepXDE solves both as its documentation recommends: a tanh network, Adam and then L-BFGS. PINA's
Kolmogorov-Arnold network has the widths of ours, and is trained by Adam on our points and losses,
with derivatives by double backward. All run on one thread, one after the other. Seconds are those
of the processor, which other work on the machine does not lengthen, and they do not count while
the error is measured. Needs deepxde and pina-mathlab.

    python -m benchmarks.solvers [--seconds 120] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from kanlib.paper.experiments import EXPERIMENTS
from kanlib.paper.problems.burgers import VISCOSITY, Burgers
from kanlib.paper.problems.poisson import Poisson, source
from kanlib.paper.records import provenance
from kanlib.training.files import write_atomically

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "solvers.json"
SEED = 1234
PROBLEMS: dict[str, Any] = {"poisson": Poisson, "burgers": Burgers}
#: About as many points a curve has.
POINTS = 40


class Clock:
    """Seconds that count, and the error whenever it was measured."""

    def __init__(self, error: Callable[[], float], limit: float) -> None:
        self.error, self.limit, self.pause = error, limit, limit / POINTS
        self.spent, self.begin = 0.0, time.process_time()
        self.curve: list[tuple[float, float]] = []

    def goes_on(self) -> bool:
        """Measure the error if it is time to, and return whether there is time left."""
        passed = time.process_time() - self.begin
        if passed > self.pause or not self.curve:
            self.measure()
        return self.spent < self.limit

    def measure(self) -> float:
        """Measure the error now, and return it."""
        self.spent += time.process_time() - self.begin
        self.curve.append((self.spent, self.error()))
        self.begin = time.process_time()
        return self.curve[-1][1]


def kanlib(experiment: str, case: str, _: float) -> list[tuple[float, float]]:
    """Run a case of the book."""
    found, problem = EXPERIMENTS[experiment], PROBLEMS[experiment]
    error, clocks = problem.error, []

    def timed(self: Any, model: nn.Module) -> float:
        if not clocks:
            clocks.append(Clock(lambda: 0.0, 0.0))
        clocks[0].error = lambda: error(self, model)
        return clocks[0].measure()

    with mock.patch.object(problem, "error", timed):
        found.execute(found.cases[case], SEED, progress=False)
    return clocks[0].curve


class InDouble(nn.Module):
    """A network of another library as a function of float64 points, for our error."""

    def __init__(
        self, network: nn.Module, inputs: Callable[[Tensor], Tensor] = torch.clone
    ) -> None:
        super().__init__()
        self.network, self.inputs = network, inputs

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate at x of shape (N, P)."""
        parameter = next(self.network.parameters())
        return self.network(self.inputs(x).to(parameter.dtype)).to(x.dtype)


def deepxde(experiment: str, _: str, seconds: float) -> list[tuple[float, float]]:
    """Solve by DeepXDE: Adam for half of the time, then L-BFGS."""
    os.environ["DDE_BACKEND"] = "pytorch"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import deepxde as dde

        dde.config.set_random_seed(SEED)
        data, network, error = _deepxde(dde, experiment)
        model = dde.Model(data, network)
        clock = Clock(error, seconds / 2)

        class Stop(dde.callbacks.Callback):  # type: ignore[misc]
            def on_epoch_end(self) -> None:
                if not clock.goes_on():
                    self.model.stop_training = True

        model.compile("adam", lr=1e-3)
        model.train(iterations=10**9, display_every=10**9, callbacks=[Stop()])
        clock.limit, model.stop_training = seconds, False
        dde.optimizers.config.set_LBFGS_options(maxiter=10**9, ftol=0, gtol=1e-12)
        dde.optimizers.config.LBFGS_options["iter_per_step"] = 20
        model.compile("L-BFGS")
        clock.begin = time.process_time()
        model.train(display_every=10**9, callbacks=[Stop()])
    return clock.curve


def _deepxde(dde: Any, experiment: str) -> tuple[Any, Any, Callable[[], float]]:
    def second(y: Tensor, x: Tensor, i: int) -> Tensor:
        return dde.grad.hessian(y, x, i=i, j=i)

    if experiment == "burgers":
        problem = Burgers()
        space = dde.geometry.GeometryXTime(
            dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1)
        )

        def residual(x: Tensor, u: Tensor) -> Tensor:
            u_x, u_t = dde.grad.jacobian(u, x, j=0), dde.grad.jacobian(u, x, j=1)
            return u_t + u * u_x - VISCOSITY * second(u, x, 0)

        conditions = [
            dde.icbc.DirichletBC(space, lambda _: 0, lambda _, on: on),
            dde.icbc.IC(space, lambda x: -_sine(x[:, :1]), lambda _, on: on),
        ]
        sizes = {"num_domain": 2540, "num_boundary": 80, "num_initial": 160}
        data = dde.data.TimePDE(space, residual, conditions, **sizes)
        network = dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal")
        return data, network, lambda: problem.error(InDouble(network))

    problem_2 = Poisson()
    square = dde.geometry.Rectangle([-1, -1], [1, 1])
    y = torch.linspace(-0.98, 0.98, 49)
    left, right = (torch.stack([torch.full_like(y, s * 1e-4), y], 1).numpy() for s in (-1, 1))
    pairs = torch.cat([torch.from_numpy(left), torch.from_numpy(right)]).numpy()

    def flux_jump(x: Tensor, u: Tensor, _: Any) -> Tensor:
        flux = torch.where(x[:, :1] < 0, 1.0, 0.5) * dde.grad.jacobian(u, x, j=0)
        return torch.cat([flux[:49] - flux[49:98], flux[49:98] - flux[:49], flux[98:]])

    def balance(x: Tensor, u: Tensor) -> Tensor:
        diffusion = torch.where(x[:, :1] < 0, 1.0, 0.5)
        laplacian = second(u, x, 0) + second(u, x, 1)
        return 0.1 * (diffusion * laplacian - source(x.double()).to(x.dtype))

    conditions = [
        dde.icbc.PointSetOperatorBC(pairs, torch.zeros(98, 1).numpy(), flux_jump),
        dde.icbc.DirichletBC(square, lambda _: 0, lambda _, on: on),
    ]
    data = dde.data.PDE(square, balance, conditions, num_domain=2401, num_boundary=200)
    network = dde.nn.FNN([3, 20, 20, 20, 1], "tanh", "Glorot normal")
    network.apply_feature_transform(lambda x: torch.cat([x, x[:, :1].abs()], 1))
    return data, network, lambda: problem_2.error(InDouble(network, lambda x: x[:, :2]))


def _sine(x: Any) -> Any:
    import numpy

    return numpy.sin(math.pi * x)


def pina(experiment: str, _: str, seconds: float) -> list[tuple[float, float]]:
    """Train PINA's Kolmogorov-Arnold network by Adam, as large as our fine one."""
    from pina.model import KolmogorovArnoldNetwork

    torch.manual_seed(SEED)
    problem = PROBLEMS[experiment]()
    widths, n = ([2, 20, 20, 1], 20) if experiment == "burgers" else ([3, 5, 1], 32)
    network = KolmogorovArnoldNetwork(widths, spline_order=4, n_knots=n + 7).double()
    model = InDouble(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    clock = Clock(lambda: problem.error(model), seconds)
    while clock.goes_on():
        optimizer.zero_grad()
        loss = _burgers_loss(model, problem) if experiment == "burgers" else _loss(model, problem)
        loss.backward()
        optimizer.step()
    return clock.curve


def _gradient(u: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


def _burgers_loss(model: nn.Module, problem: Any) -> Tensor:
    volume, initial, ends = problem.points.values()
    x = volume.clone().requires_grad_()
    u = model(x)
    first = _gradient(u, x)
    residual = first[:, 1:] + u * first[:, :1] - VISCOSITY * _gradient(first[:, :1], x)[:, :1]
    start = model(initial) + torch.sin(math.pi * initial[:, :1])
    return residual.square().mean() + start.square().mean() + model(ends).square().mean()


def _loss(model: nn.Module, problem: Any) -> Tensor:
    """Return the loss of the Poisson problem, the third input being |x|."""
    volume, edge, middle = problem.points.values()
    x = volume.clone().requires_grad_()
    first = _gradient(model(problem.inputs(x)), x)
    laplacian = _gradient(first[:, :1], x)[:, :1] + _gradient(first[:, 1:], x)[:, 1:]
    diffusion = torch.where(x[:, :1] < 0, 1.0, 0.5)
    residual = diffusion * laplacian - source(x.detach())
    flux = []
    for side, weight in ((-1e-9, 1.0), (1e-9, 0.5)):
        shifted = (middle + middle.new_tensor([side, 0.0])).requires_grad_()
        flux.append(weight * _gradient(model(problem.inputs(shifted)), shifted)[:, :1])
    jump = flux[0] - flux[1]
    boundary = model(problem.inputs(edge))
    weights = problem.weights
    return (
        weights["volume"] * residual.square().mean()
        + weights["boundary"] * boundary.square().mean()
        + weights["interface"] * jump.square().mean()
    )


SOLVERS: dict[str, dict[str, tuple[Callable[..., list[tuple[float, float]]], str]]] = {
    "poisson": {
        "kanlib, multilevel": (kanlib, "spline-multilevel"),
        "DeepXDE": (deepxde, ""),
        "PINA's KAN": (pina, ""),
    },
    "burgers": {
        "kanlib, multilevel": (kanlib, "spline-multilevel"),
        "kanlib, order 6, L-BFGS": (kanlib, "spline-fine-resolved-lbfgs"),
        "DeepXDE": (deepxde, ""),
        "PINA's KAN": (pina, ""),
    },
}


def main(arguments: list[str] | None = None) -> None:
    """Run all solvers and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solvers")
    parser.add_argument("--seconds", type=float, default=120.0, help="time of the other libraries")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    made_by = asdict(provenance("benchmarks"))
    for package in ("deepxde", "pina-mathlab"):
        made_by["versions"][package] = version(package)
    content: dict[str, Any] = {"experiment": "solvers", "provenance": made_by, "curves": {}}
    for experiment, solvers in SOLVERS.items():
        curves = content["curves"][experiment] = {}
        for name, (solve, case) in solvers.items():
            curve = solve(experiment, case, options.seconds)
            curves[name] = [[float(f"{v:.4g}") for v in point] for point in curve]
            print(f"{experiment}, {name}: {curves[name][-1]}", flush=True)
            write_atomically(options.out, (json.dumps(content) + "\n").encode())


if __name__ == "__main__":
    main()
