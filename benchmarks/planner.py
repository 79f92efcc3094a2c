"""What the cost planner is fitted to, and networks that it has to predict.

The layers of :data:`kanlib.analysis.planner.CALIBRATION` give the constants; the networks are not
used for the fit. Both are steps of training in float32 on one thread, forward and backward, without
the optimizer; those of the networks include the loss and leading affine maps, which the model
lacks. There are several calibrations, before and after the networks, to show how far they are
apart. Last come whole trainings, with their optimizers.

    python -m benchmarks.planner [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.__main__ import ROOT, SCHEMA, text
from benchmarks.measuring import FULL, QUICK, Effort, compare
from benchmarks.networks import network, points, training_step
from kanlib import KAN, MeanSquaredError, SplineLayer, train_multilevel
from kanlib.analysis.planner import CALIBRATION, TERMS, CostModel, layers_of, measure_layers
from kanlib.paper.problems.regression import regression
from kanlib.paper.records import provenance
from kanlib.training.files import write_atomically
from kanlib.training.optimizers import paper_lbfgs

RECORD = ROOT / "book" / "results" / "planner.json"
#: Widths, kind of the first layer, and points of the networks that are predicted.
NETWORKS = (
    ([2, 5, 1], "affine", 20_000),
    ([2, 5, 1], "spline", 20_000),
    ([2, 5, 1], "spline", 500),
    ([2, 20, 20, 1], "linear", 4096),
    ([2, 20, 20, 1], "spline", 4096),
    ([64, 64, 64, 64], "spline", 1024),
    ([784, 64, 10], "spline", 256),
)
GRIDS, ORDERS = (5, 40), (2, 4, 6)
#: Networks that are trained on the data of the regression, from 5 intervals on.
TRAININGS = (([2, 5, 1], "affine", 20_000), ([2, 20, 20, 1], "linear", 4096))
OPTIMIZERS: dict[str, tuple[Any, list[int]]] = {
    "Adam": (torch.optim.Adam, [200, 100, 50, 25]),
    "L-BFGS": (paper_lbfgs, [8, 4, 2, 1]),
}
CALIBRATIONS = 4
"""Half of them are made before the networks are measured, half after."""


def measured(effort: Effort) -> list[dict[str, Any]]:
    """Measure a step of every network, and return cases with their seconds."""
    found = []
    for widths, first, batch in NETWORKS:
        cases, steps = {}, {}
        for n in GRIDS:
            for r in ORDERS:
                x = points(max(8, batch // effort.shrink), widths[0])
                name = f"n = {n}, r = {r}"
                cases[name] = {"widths": widths, "first": first, "points": len(x), "n": n, "r": r}
                target = torch.zeros(len(x), widths[-1])
                steps[name] = training_step(network(widths, n, r, first), x, target)
        seconds = compare(steps, next(iter(steps)), effort)["seconds"]
        found += [{**case, "seconds": seconds[name]} for name, case in cases.items()]
    return found


def trained(quick: bool) -> list[dict[str, Any]]:
    """Run schedules with optimizers, and return evaluations and seconds on their levels.

    Each starts once from a network as it comes, many of whose hidden values lie outside the domain
    of its splines, and once from one that is calibrated to the data.
    """
    found = []
    for (widths, first, batch), calibrated in product(TRAININGS, (False, True)):
        data = regression(1234, batch // (64 if quick else 1), 1, dtype=torch.float32)
        objective = MeanSquaredError(data.x, data.y)
        for optimizer, (make, epochs) in OPTIMIZERS.items():
            torch.manual_seed(1234)
            model = KAN(widths, first=first)
            if calibrated:
                model.calibrate_(data.x)
            before, schedule = outside(model, data.x), epochs[:2] if quick else epochs
            run = train_multilevel(model, objective, schedule, optimizer=make, progress=False)
            found.append(
                {
                    **{"widths": widths, "first": first, "points": len(data.x), "r": 4},
                    **{"optimizer": optimizer, "calibrated": calibrated},
                    "outside": [before, outside(run.model, data.x)],
                    "levels": [
                        {
                            **{"n": level.n, "epochs": level.epochs},
                            **{"evaluations": level.evaluations, "seconds": level.seconds},
                        }
                        for level in run.levels
                    ],
                }
            )
    return found


def outside(model: KAN, x: Tensor) -> float:
    """Return the part of the inputs of all splines that lie outside their domain."""
    values = []
    with torch.no_grad():
        for layer in model.layers:
            if isinstance(layer, SplineLayer):
                a, b = layer.grid.domain
                values.append(((x < a) | (x > b)).float().flatten())
            x = layer(x)
    return float(torch.cat(values).mean())


def predicted(model: CostModel, case: dict[str, Any]) -> float:
    """Return the seconds that a model predicts for a network of the record."""
    return model.seconds(
        layers_of(case["widths"], case["n"], case["points"], case["r"], case["first"])
    )


def record(calibrations: list[list[float]], networks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return constants, networks with predicted over measured seconds, and layers.

    Args:
        calibrations: seconds of the layers of `CALIBRATION`, once for each calibration.
        networks: cases with their seconds.
    """
    middle = [statistics.median(seconds) for seconds in zip(*calibrations, strict=True)]
    fits = [
        CostModel.fit(zip(CALIBRATION, seconds, strict=True)) for seconds in (middle, *calibrations)
    ]
    return {
        "constants": dict(zip(TERMS, fits[0].constants, strict=True)),
        "networks": [
            {
                **case,
                "predicted": predicted(fits[0], case),
                "ratio": [predicted(fit, case) / case["seconds"]["median"] for fit in fits[1:]],
            }
            for case in networks
        ],
        "layers": [
            {**layer._asdict(), "seconds": [*seconds]}
            for layer, *seconds in zip(CALIBRATION, *calibrations, strict=True)
        ],
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure layers and networks, fit, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner")
    parser.add_argument("--quick", action="store_true", help="tiny and rough, to see that it runs")
    parser.add_argument("--out", type=Path, help="default: the book's record, unless quick")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    made_by = asdict(provenance("benchmarks"))
    half, repeats = (1, 1) if options.quick else (CALIBRATIONS // 2, 9)

    def calibrations() -> list[list[float]]:
        return [[s for _, s in measure_layers(CALIBRATION, repeats)] for _ in range(half)]

    before, networks = calibrations(), measured(QUICK if options.quick else FULL)
    content = {
        "schema": SCHEMA,
        "experiment": "planner",
        "provenance": made_by,
        "quick": options.quick,
        **record(before + calibrations(), networks),
        "trainings": trained(options.quick),
    }
    ratios = [ratio for case in content["networks"] for ratio in case["ratio"]]
    print(f"Predicted / measured from {min(ratios):.2f} to {max(ratios):.2f}")
    if out := options.out or (None if options.quick else RECORD):
        write_atomically(out, text(content).encode())
        print(f"Written to {out}")


if __name__ == "__main__":
    main()
