"""Hyperparameter search by Optuna, with the levels as rungs of successive halving, and without.

Each trial trains a network over four levels of equal epochs, so that a level costs twice the one
before. With pruning, a trial goes on to the next level only if it is in the better half of those
that have been there. Both searches have the same sampler, seeds and number of trials. Seconds are
those of the processor, on one thread.

    python -m benchmarks.search [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import torch

from kanlib import KAN, GaussNewton, MeanSquaredError, State, train_multilevel
from kanlib.paper.records import provenance
from kanlib.training.files import write_atomically

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "search.json"
TRIALS, SEEDS, EPOCHS = 32, (0, 1, 2, 3, 4), [4, 4, 4, 4]


def target(x: torch.Tensor) -> torch.Tensor:
    """Return the function of two variables that the networks learn."""
    a, b = x[:, :1], x[:, 1:]
    return torch.sin(2 * torch.pi * a * b) * torch.exp(-3 * (a - b).square())


def data(number: int, seed: int) -> MeanSquaredError:
    """Return the loss at random points of the square."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(number, 2, generator=generator, dtype=torch.float64) - 1
    return MeanSquaredError(x, target(x))


def network(trial: optuna.Trial) -> KAN:
    """Return a network of a trial."""
    torch.manual_seed(trial.number)
    hidden, n = trial.suggest_int("hidden", 2, 8), trial.suggest_int("n", 2, 6)
    r = trial.suggest_int("r", 3, 6)
    scale = trial.suggest_float("init_scale", 0.03, 3.0, log=True)
    return KAN([2, hidden, 1], n, r, domain=(-1, 1), init_scale=scale, dtype=torch.float64)


def trained(trial: optuna.Trial, epochs: list[int]) -> float:
    """Return the error of a trial at other points; a search with a pruner may end it."""
    training, validation = data(1000, 0), data(1000, 1)
    damping = trial.suggest_float("damping", 1e-6, 1.0, log=True)
    began = time.process_time()
    done = {"work": 0.0}

    def rung(state: State) -> None:
        done["work"] = state.work
        if state.epoch < epochs[state.level]:
            return
        trial.report(error(state.model, validation), 2**state.level)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        optimizer = GaussNewton(damping=damping)
        run = train_multilevel(
            network(trial),
            training,
            epochs,
            optimizer=optimizer,
            callbacks=[rung],
            progress=False,
        )
        return error(run.model, validation)
    finally:
        trial.set_user_attr("work", done["work"])
        trial.set_user_attr("seconds", time.process_time() - began)


def error(model: Any, validation: MeanSquaredError) -> float:
    """Return the root mean square error."""
    with torch.no_grad():
        return float(validation(model).sqrt())


def search(seed: int, pruner: Any, trials: int, epochs: list[int]) -> list[dict[str, Any]]:
    """Return the trials of a search."""
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    study.optimize(lambda trial: trained(trial, epochs), trials)
    return [
        {
            "state": trial.state.name.lower(),
            "error": trial.value if trial.state.name == "COMPLETE" else None,
            "levels": len(trial.intermediate_values),
            **trial.user_attrs,
        }
        for trial in study.trials
    ]


def main(arguments: list[str] | None = None) -> None:
    """Search and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search")
    parser.add_argument("--quick", action="store_true", help="small and rough, to see that it runs")
    parser.add_argument("--out", type=Path, help="default: the book's record, unless quick")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made_by = asdict(provenance("benchmarks"))
    seeds, trials = (SEEDS[:1], 3) if options.quick else (SEEDS, TRIALS)
    epochs = [1, 1] if options.quick else EPOCHS
    searches = []
    for seed in seeds:
        for name, pruner in {
            "all levels": optuna.pruners.NopPruner(),
            "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        }.items():
            found = search(seed, pruner, trials, epochs)
            searches.append({"seed": seed, "search": name, "trials": found})
            best = min(t["error"] for t in found if t["error"] is not None)
            print(name, seed, best, sum(t["seconds"] for t in found), flush=True)
    content = {
        "schema": 1,
        "experiment": "search",
        "provenance": {**made_by, "versions": made_by["versions"] | {"optuna": optuna.__version__}},
        "quick": options.quick,
        "epochs": epochs,
        "searches": searches,
    }
    if out := options.out or (None if options.quick else RECORD):
        write_atomically(out, (json.dumps(content, indent=1) + "\n").encode())
        print(f"written to {out}")


if __name__ == "__main__":
    main()
