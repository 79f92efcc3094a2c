"""Pictures of histories: what is drawn is what was recorded."""

import math
from functools import partial

import pytest
import torch

from kanlib import KAN, MeanSquaredError, ResidualLoss, Term, train_multilevel
from kanlib.viz.histories import draw_history

X = torch.linspace(0, 1, 17, dtype=torch.float64)[:, None]

ADAM = partial(torch.optim.Adam, lr=1e-3)


def run(objective):
    torch.manual_seed(0)
    model = KAN([1, 1], dtype=torch.float64)
    return train_multilevel(model, objective, [3, 2], optimizer=ADAM, progress=False)


@pytest.mark.parametrize("over", ["work", "evaluations", "seconds"])
def test_history_is_drawn_as_it_was_recorded(over):
    loss = ResidualLoss(
        slope=Term(lambda u, x: u.d(0) - 1, X), zero=Term(lambda u, x: 0 * u.value, X[:1])
    )
    history = run(loss).history
    fig = draw_history(history, over=over)
    whole, slope, zero = fig.data
    assert [*whole.x] == [*slope.x] == getattr(history, over)
    assert [*whole.y] == history.loss
    assert [*slope.y] == history.terms["slope"]
    assert {*zero.y} == {None}  # it has no logarithm
    assert fig.layout.yaxis.type == "log"
    (line,) = fig.layout.shapes  # where level 1 begins
    assert line.x0 == getattr(history, over)[history.level.index(1)]


def test_a_loss_without_terms_is_one_line():
    found = run(MeanSquaredError(X, X.sin()))
    assert [trace.name for trace in draw_history(found).data] == ["loss"]
    assert all(math.isfinite(value) for value in draw_history(found).data[0].y)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="run must be what train or train_multilevel returned"):
        draw_history([1.0])
    with pytest.raises(ValueError, match="over must be one of"):
        draw_history(run(MeanSquaredError(X, X)), over="epoch")
