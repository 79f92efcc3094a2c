"""Levels that end where a metric no longer falls."""

import pytest
import torch

from kanlib import KAN, GaussNewton, MeanSquaredError, Stagnation, train_multilevel

X = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
DATA = MeanSquaredError(X, torch.sin(20 * X))


def trained(values, **options):
    """Train on two levels with a metric that takes the values one after the other."""
    torch.manual_seed(0)
    queue = iter(values)
    return train_multilevel(
        KAN([1, 1], n=3, dtype=torch.float64),
        DATA,
        [9, 9],
        metrics={"fresh": lambda model: next(queue)},
        callbacks=[Stagnation("fresh", **options)],
        progress=False,
    )


def test_level_ends_after_patience_and_the_next_one_begins():
    falling, flat = [2.0**-k for k in range(4)], [0.124] * 20
    run = trained([*falling, *flat], patience=3, factor=0.9)
    # Measured before each epoch: 1, 1/2, 1/4, 1/8, then three times no gain.
    assert [level.epochs for level in run.levels] == [7, 4]
    assert run.levels[0].message.startswith("fresh has not fallen below 0.9 times 0.125 in 3")
    assert run.status == "completed"


def test_level_with_gains_goes_on():
    run = trained([0.5**k for k in range(30)], patience=1, factor=0.6)
    assert [level.epochs for level in run.levels] == [9, 9]


def test_gauss_newton_stagnates_on_each_level():
    torch.manual_seed(0)
    run = train_multilevel(
        KAN([1, 2, 1], n=3, dtype=torch.float64),
        DATA,
        [60, 60],
        optimizer=GaussNewton(),
        metrics={"loss": torch.no_grad()(DATA)},
        callbacks=[Stagnation("loss", patience=4)],
        progress=False,
    )
    assert all(0 < level.epochs < 60 for level in run.levels)


def test_stagnation_names_the_mistake():
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        Stagnation("loss", patience=0)
    with pytest.raises(ValueError, match=r"metric must be one of .*'fresh'.*, got 'loss'"):
        train_multilevel(
            KAN([1, 1], n=3, dtype=torch.float64),
            DATA,
            [2],
            metrics={"fresh": lambda model: 1.0},
            callbacks=[Stagnation("loss")],
            progress=False,
        )
