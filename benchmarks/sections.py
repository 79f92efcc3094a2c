"""What is measured: each section yields its measurements, as JSON-ready dictionaries.

A measurement has a "case" (what was measured), the result of `measuring.compare`, and "missing":
what should have been compared and why it was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.measuring import Effort, compare, peak_memory, share
from benchmarks.networks import (
    DOMAIN,
    WORKLOADS,
    Step,
    dense,
    ensemble_step,
    gather,
    network,
    pinn_step,
    plain,
    points,
    propagated_step,
    recursion,
    training_step,
)
from kanlib import KAN, MLP
from kanlib.analysis.planner import Layer
from kanlib.nn.ensemble import Ensemble
from kanlib.objectives.mean_squared_error import MeanSquaredError
from kanlib.objectives.residuals import ResidualLoss
from kanlib.paper.experiments import EXPERIMENTS, pdes
from kanlib.paper.problems.allen_cahn import AllenCahn
from kanlib.paper.problems.burgers import Burgers
from kanlib.paper.problems.poisson import Poisson
from kanlib.paper.problems.regression import regression
from kanlib.paper.refit import refit_on_samples
from kanlib.training.coordinates import Coordinates
from kanlib.training.jacobian import POINTS, Jacobian, blocks, jacobian, normal_equations

Form = Callable[[KAN], nn.Module]
Builders = dict[str, Callable[[], Step]]
Measurement = dict[str, Any]

COMPILED_GRIDS = (5, 50)
"""Compiling takes longer than measuring."""
LAYER = ([64, 64], 1024)
"""One layer, the widths and the batch with which growth is measured."""
GRIDS = (16, 25, 50, 100, 200, 400)
FORMS: dict[str, Form] = {"kanlib": KAN.train, "dense": dense, "Cox–de Boor": recursion}
"""Networks of one function: as it comes, and evaluated in other ways."""
ZERO = torch.zeros(1)


def measurement(
    case: dict[str, Any],
    builders: Mapping[str, Callable[[], Step]],
    reference: str,
    effort: Effort,
) -> Measurement:
    """Build the steps, leave out what cannot be built, and measure the others in turn."""
    steps, missing = {}, {}
    for name, build in builders.items():
        try:
            steps[name] = build()
        except Exception as error:
            if name == reference:
                raise
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return {"case": case, "missing": missing, **compare(steps, reference, effort)}


def checked(form: Form, model: KAN, x: Tensor, y: Tensor) -> Step:
    """Return the training step of a form of the model, which must compute the same function."""
    other = form(model)
    with torch.no_grad():
        check_same(model(x), other(x))
    return training_step(other, x, y)


def check_same(ours: Tensor, theirs: Tensor) -> None:
    """Raise unless outputs agree, but for the points that leave the domain on their way.

    Splines with random coefficients are steep on fine grids and multiply rounding errors.
    """
    difference = float((ours - theirs).abs().median() / ours.std())
    if not difference < 0.05:
        raise ValueError(f"computes another function: outputs differ by {difference:.1e}")


def workloads(effort: Effort) -> Iterator[tuple[dict[str, Any], KAN, Tensor, Tensor]]:
    """Yield case, network and data of every workload on every grid."""
    for name, (widths, batch, intervals) in WORKLOADS.items():
        x = points(max(8, batch // effort.shrink), widths[0])
        y = torch.zeros(len(x), widths[-1])
        for n in intervals:
            yield {"workload": name, "n": n}, network(widths, n), x, y


def training(effort: Effort) -> Iterator[Measurement]:
    """One step of training of workloads a, b, c: kanlib, the recursion, peers, an MLP."""
    for case, model, x, y in workloads(effort):
        builders: Builders = {
            "kanlib": partial(training_step, model, x, y),
            "kanlib, plain PyTorch": partial(plain, training_step(model, x, y)),
            "Cox–de Boor": partial(checked, recursion, model, x, y),
            "MLP": partial(training_step, MLP(model.widths), x, y),
        }
        for name, peer in peers.TORCH.items():
            builders[name] = partial(checked, peer, model, x, y)
        yield measurement(case, builders, "kanlib", effort)


def compiled(effort: Effort) -> Iterator[Measurement]:
    """The same under torch.compile or jax.jit, each network compiled as a whole."""
    for case, model, x, y in workloads(effort):
        if case["n"] not in COMPILED_GRIDS or (effort.shrink > 1 and case["workload"] != "a"):
            continue
        torch.compiler.reset()
        first: dict[str, float] = {}
        forms: dict[str, Callable[[KAN], Any]] = {
            "kanlib": torch.compile,
            "Cox–de Boor": lambda model: torch.compile(recursion(model)),
            "inkan": lambda model: torch.compile(peers.inkan(model)),
            "inkan, as it comes": partial(peers.inkan, compile_basis=True),
        }
        builders: Builders = {
            name: partial(_started, name, partial(checked, form, model, x, y), first)
            for name, form in forms.items()
        }
        reference = partial(_reference, model, x, y)
        builders["kanlib, plain PyTorch"] = partial(_started, "plain PyTorch", reference, first)
        builders["jaxKAN"] = partial(_started, "jaxKAN", partial(_jitted, model, x, y), first)
        builders["kanlib, not compiled"] = partial(training_step, model, x, y)
        yield {**measurement(case, builders, "kanlib", effort), "first_call": first}


def _started(name: str, build: Callable[[], Step], first: dict[str, float]) -> Step:
    """Build a step and call it once, and keep the seconds of both: it is compiled now."""
    begin = time.perf_counter()
    step = build()
    step()
    first[name] = time.perf_counter() - begin
    return step


def _reference(model: KAN, x: Tensor, y: Tensor) -> Step:
    """Return a step of the compiled network without the fused kernels."""
    return plain(training_step(torch.compile(model), x, y))


def _jitted(model: KAN, x: Tensor, y: Tensor) -> Step:
    peer = peers.JaxKAN(model, x, y)
    with torch.no_grad():
        check_same(model(x), peer.outputs())
    return peer.step


def growth_n(effort: Effort) -> Iterator[Measurement]:
    """Time of one layer on finer and finer grids."""
    widths, batch = LAYER
    x = points(batch // effort.shrink, widths[0])
    for name, form in FORMS.items():
        builders: Builders = {
            f"n = {n}": partial(training_step, form(network(widths, n)), x, ZERO) for n in GRIDS
        }
        yield measurement({"method": name}, builders, "n = 16", effort)


def growth_r(effort: Effort) -> Iterator[Measurement]:
    """Time of one layer for higher and higher orders."""
    widths, batch = LAYER
    x = points(batch // effort.shrink, widths[0])
    for n in (20, 200):
        builders: Builders = {
            f"r = {r}": partial(training_step, network(widths, n, r), x, ZERO)
            for r in (2, 3, 4, 5, 6)
        }
        yield measurement({"method": "kanlib", "n": n}, builders, "r = 2", effort)


def memory(effort: Effort) -> Iterator[Measurement]:
    """Peak memory of the activations of one layer on finer and finer grids.

    The fused kernel also makes a copy of the weights, which counts in small batches.
    """
    widths, batch = LAYER
    for name, size in [("kanlib", 16 * batch), *((name, batch) for name in FORMS)]:
        x = points(size // effort.shrink, widths[0])
        held = {}
        for n in GRIDS:
            model = network(widths, n)
            step = training_step(FORMS[name](model), x, ZERO)
            held[f"n = {n}"] = peak_memory(step, [*model.parameters()])
        yield {
            "case": {"method": name, "batch": size},
            "missing": {},
            "reference": "n = 16",
            "rounds": 1,
            "bytes": held,
            "ratio": {n: _exact(value / held["n = 16"]) for n, value in held.items()},
        }


def _exact(value: float) -> dict[str, float]:
    return {"median": value, "low": value, "high": value}


def crossover(effort: Effort) -> Iterator[Measurement]:
    """Three contractions of one layer, for few and many outputs: fused, gathered, dense."""
    for outputs in (1, 8, 64):
        x = points(1024 // effort.shrink, 64)
        for n in (2, 5, 10, 20, 50, 200):
            model = network([64, outputs], n)
            builders: Builders = {
                "kanlib": partial(training_step, model, x, ZERO),
                "gather": partial(checked, gather, model, x, ZERO),
                "dense": partial(checked, dense, model, x, ZERO),
            }
            yield measurement({"outputs": outputs, "n": n}, builders, "kanlib", effort)


PINNS = {
    "[2,5,5,1], 4096": ([2, 5, 5, 1], 4096),
    "[2,5,5,1], 20000": ([2, 5, 5, 1], 20_000),
    "[2,20,20,1], 4096": ([2, 20, 20, 1], 4096),
}


def pinn(effort: Effort) -> Iterator[Measurement]:
    """One step of a physics-informed network: u, u_t, u_x, u_xx and the weight gradient."""
    for name, (widths, batch) in PINNS.items():
        x = points(batch // effort.shrink, 2)
        for n in (5, 10, 20, 40):
            model = network(widths, n)
            propagated, twice = propagated_step(model, x), pinn_step(model, x)
            torch.testing.assert_close(propagated(), twice(), rtol=1e-3, atol=1e-6)
            builders: Builders = {
                "kanlib": partial(propagated_step, model, x),
                "kanlib, plain PyTorch": partial(plain, propagated),
                "double backward": partial(pinn_step, model, x),
                "double backward, plain PyTorch": partial(plain, twice),
                "Cox–de Boor": partial(_pinn, recursion, model, x),
                "tanh MLP": partial(propagated_step, MLP(widths, "tanh"), x),
            }
            for peer, form in peers.TORCH.items():
                builders[peer] = partial(_pinn, form, model, x)
            yield measurement({"network": name, "n": n}, builders, "kanlib", effort)


def _pinn(form: Form, model: KAN, x: Tensor) -> Step:
    return pinn_step(form(model), x)


def pinn_growth(effort: Effort) -> Iterator[Measurement]:
    """Time of the step by forward propagation on finer and finer grids."""
    for name, (widths, batch) in PINNS.items():
        x = points(batch // effort.shrink, 2)
        builders: Builders = {
            f"n = {n}": partial(propagated_step, network(widths, n), x) for n in (5, 10, 20, 40)
        }
        yield measurement({"network": name}, builders, "n = 5", effort)


TABLES = {
    "Table 2": ([2, 5, 1], "affine", 20_000),
    "Table 3": ([2, 20, 20, 1], "linear", 4096),
}


def seeds(effort: Effort) -> Iterator[Measurement]:
    """Five networks trained at once, against one and against five one by one."""
    for name, (widths, first, batch) in TABLES.items():
        for n in (5, 40):
            models = [network(widths, n, first=first, seed=seed) for seed in range(5)]
            x = points(batch // effort.shrink, 2)
            y = x.square().sum(-1, keepdim=True)
            ensemble = Ensemble(models)
            together = ensemble_step(ensemble, x, y)
            one_by_one = [training_step(model, x, y) for model in models]

            def every(steps: list[Callable[[], Tensor]] = one_by_one) -> None:
                for step in steps:
                    step()

            together()
            every()
            for stacked, *own in zip(
                ensemble.parameters(), *(model.parameters() for model in models), strict=True
            ):
                expected = torch.stack([parameter.grad for parameter in own])
                torch.testing.assert_close(stacked.grad, expected, rtol=1e-4, atol=1e-6)
            steps: dict[str, Step] = {
                "one": one_by_one[0],
                "five at once": together,
                "five one by one": every,
            }
            case = {"network": name, "n": n}
            yield {"case": case, "missing": {}, **compare(steps, "one", effort)}


#: Widths, and whether pykan is asked: it solves one least-squares problem an edge.
TRANSFERS = {"[64,64,64,64,64]": False, "[16,16,16]": True, "[2,5,1]": True}


def refine(effort: Effort) -> Iterator[Measurement]:
    """From 20 to 40 intervals: exactly, by least squares on samples, and as pykan does it.

    "change" is the largest change of the network's outputs over their spread, at other points.
    """
    for widths, asked in TRANSFERS.items():
        model = network([int(width) for width in widths[1:-1].split(",")], 20)
        with torch.no_grad():  # hidden values fill the domain and hardly leave it
            for layer in model.spline_layers:
                layer.weight.div_(layer.in_features**0.5)
        x = points(2000 // effort.shrink, 2 * model.widths[0])
        samples, others = (half.contiguous() for half in x.chunk(2, 1))
        coarse: dict[str, nn.Module] = {"kanlib": model, "least squares": model}
        builders: Builders = {
            "kanlib": lambda model=model: model.refine,
            "least squares": lambda model=model, x=samples: partial(refit_on_samples, model, x),
        }
        if asked:
            builders["pykan"] = partial(_pykan, model, samples, coarse)
        case = {"widths": widths, "samples": len(samples)}
        found = measurement(case, builders, "kanlib", effort)
        change = {}
        with torch.no_grad():
            for name in found["ratio"]:
                fine = builders[name]()()(others)
                y = coarse[name](others)
                change[name] = float((fine - y).abs().max() / y.std())
        yield {**found, "change": change}


def _pykan(model: KAN, x: Tensor, coarse: dict[str, nn.Module]) -> Step:
    coarse["pykan"], step = peers.pykan_refinement(model, x)
    return step


LIMITS = {"64 → 64": ([64, 64], 1024), "784 → 64": ([784, 64], 256), "2 → 5": ([2, 5], 20_000)}
GEMM, COPY = 1536, 1 << 25


def limits(effort: Effort) -> Iterator[Measurement]:
    """The arithmetic and the traffic of one layer against a large product and a large copy."""
    size = GEMM if effort.shrink == 1 else 256
    a, b = torch.rand(size, size), torch.rand(size, size)
    source = torch.rand(COPY // effort.shrink)
    target = torch.empty_like(source)
    steps: dict[str, Step] = {
        "product": partial(torch.mm, a, b),
        "copy": partial(target.copy_, source),
    }
    work = {
        "product": {"operations": 2 * size**3, "bytes": 12 * size**2},
        "copy": {"operations": 0, "bytes": 8 * len(source)},
    }
    for name, (widths, batch) in LIMITS.items():
        for n in (5, 20, 200):
            model = network(widths, n)
            x = points(batch // effort.shrink, widths[0]).requires_grad_()
            steps[f"{name}, n = {n}"] = training_step(model, x, ZERO)
            work[f"{name}, n = {n}"] = layer_work(model, len(x))
    yield {"case": {}, "missing": {}, **compare(steps, "product", effort), "work": work}


def layer_work(model: KAN, batch: int) -> dict[str, int]:
    """Return what a layer cannot avoid forward and backward, in float32.

    Three contractions over the r functions that do not vanish, values or slopes: outputs, gradient
    of the weights, gradient of the inputs. Inputs, outputs, weights and the gradients of all are
    moved once, inputs and weights once more in the backward pass.
    """
    (inputs, outputs), (layer,) = model.widths, model.spline_layers
    return {
        "operations": Layer(batch, inputs, outputs, layer.grid.n, layer.grid.order).operations,
        "bytes": 4 * (3 * batch * inputs + 2 * batch * outputs + 3 * layer.weight.numel()),
    }


PROBLEMS = {"poisson": Poisson, "burgers": Burgers, "allen-cahn": AllenCahn}


def experiments(effort: Effort) -> Iterator[Measurement]:
    """One step of every experiment of the book at full scale, on its coarsest and finest grid.

    "kernels" is the part of the step's time that the fused kernels take.
    """
    for name in ("regression", *PROBLEMS):
        case = EXPERIMENTS[name].cases["spline-multilevel"]
        loss: Callable[[KAN], Tensor]
        if name in PROBLEMS:
            damping = pdes.training(**case.training)[2]
            loss = PROBLEMS[name](**case.problem).loss(damping)
        else:
            data = regression(1234, 20_000 // effort.shrink, 1)
            loss = MeanSquaredError(data.x, data.y)
        for level in (0, len(case.epochs) - 1):
            model = KAN(**{**case.network, "n": case.network["n"] << level}, dtype=torch.float64)
            step = partial(_descent, model, loss)
            builders: Builders = {
                "kanlib": partial(partial, step),
                "kanlib, plain PyTorch": partial(plain, step),
            }
            found = measurement({"experiment": name, "n": model.n}, builders, "kanlib", effort)
            yield {**found, "kernels": share(step)}


def _descent(model: KAN, loss: Callable[[KAN], Tensor]) -> object:
    model.zero_grad()
    value = loss(model)
    value.backward()
    return value.detach()


def second_order(effort: Effort) -> Iterator[Measurement]:
    """The parts of a step of Gauss-Newton, without the solve: 40 edges, 4500 points inside.

    "rows" are the nonzeros of the Jacobian, "Gram" its Gram matrix and right-hand side from them,
    and "step" both, with no more rows in memory than those of 4096 points.
    """
    loss = Burgers(max(2, 150 // effort.shrink), 30).loss()
    grams: Builders = {}
    for n in (8, 32, 128):
        torch.manual_seed(0)
        model = KAN([2, 5, 5, 1], n=n, r=6, domain=DOMAIN, dtype=torch.float64)
        coordinates, found = Coordinates(model, loss), jacobian(model, loss)
        gram = partial(_gram, found)
        grams[f"n = {n}"] = partial(partial, gram)
        builders: Builders = {
            "gradient": partial(partial, partial(_descent, model, loss)),
            "rows": partial(partial, partial(_rows, model, loss, coordinates)),
            "step": partial(partial, partial(normal_equations, model, loss, coordinates)),
        }
        yield measurement({"part": "step", "n": n}, builders, "gradient", effort)
        if n > 32:  # the dense product takes half a minute there
            continue
        matrix = found.dense()
        torch.testing.assert_close(found.gram(), matrix.T @ matrix)
        builders = {
            "Gram": partial(partial, gram),
            "dense product": partial(partial, partial(torch.mm, matrix.T, matrix)),
        }
        yield measurement({"part": "product", "n": n}, builders, "Gram", effort)
    yield measurement({"part": "growth"}, grams, "n = 8", effort)


def _rows(model: KAN, loss: ResidualLoss, coordinates: Coordinates) -> object:
    return [*blocks(model, loss, coordinates, POINTS)]


def _gram(found: Jacobian) -> object:
    return found.gram(), found.gradient()


SINGLE = ("compiled", "growth_r", "memory", "crossover", "pinn_growth", "refine", "experiments",
          "second_order")  # fmt: skip
"""Sections that are measured on one thread only."""
SECTIONS: dict[str, Callable[[Effort], Iterator[Measurement]]] = {
    "training": training,
    "compiled": compiled,
    "growth_n": growth_n,
    "growth_r": growth_r,
    "memory": memory,
    "crossover": crossover,
    "pinn": pinn,
    "pinn_growth": pinn_growth,
    "seeds": seeds,
    "refine": refine,
    "limits": limits,
    "experiments": experiments,
    "second_order": second_order,
}
