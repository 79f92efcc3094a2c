"""What the chapter on the conclusion says of the four records."""

import statistics
from pathlib import Path

import pytest

from kanlib.records import load_record, runs_of

RESULTS = Path(__file__).parents[1] / "book" / "results"
CASES = {  # figure, multilevel in the ReLU basis, smooth starts
    "regression": (
        "train_mse", "relu-samestart-multilevel", ("spline-fine-prolonged", "spline-fine-scale0.01")
    ),
    "poisson": ("error", "relu-multilevel", ("spline-fine-prolonged", "spline-fine-scale0.01")),
    "burgers": (
        "loss",
        "relu-multilevel",
        ("spline-fine-prolonged-equal-work", "spline-fine-equal-work"),
    ),
    "allen-cahn": (
        "error",
        "relu-multilevel",
        ("spline-fine-prolonged-epochs", "spline-fine-scale0.01-epochs"),
    ),
}  # fmt: skip


def ratio(name, case):
    key, record = CASES[name][0], load_record(RESULTS / f"{name}.json", name)
    ours, theirs = (
        {run["seed"]: run["metrics"][key] for run in runs_of(record, each)}
        for each in ("spline-multilevel", case)
    )
    return statistics.median(theirs[seed] / ours[seed] for seed in ours if seed in theirs)


@pytest.mark.parametrize("name", CASES)
def test_gain_beyond_a_smooth_start(name):
    _, relu, starts = CASES[name]
    assert ratio(name, relu) > 5
    gain = min(ratio(name, start) for start in starts)
    assert gain < 1.5 if name == "regression" else gain > 1


def test_equal_time():
    """From the start of multilevel training itself, the fine network catches up on Burgers."""
    assert ratio("burgers", "spline-fine-prolonged-epochs") < 1.2
    assert ratio("burgers", "spline-fine-prolonged-equal-work") > 1.2
    assert ratio("allen-cahn", "spline-fine-prolonged-epochs") > 5
