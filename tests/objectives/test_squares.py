"""Residual vectors: their squares add up to the loss, in any blocks, for every objective."""

import pytest
import torch
from torch import nn

from kanlib import KAN, Attention, Jet, MeanSquaredError
from kanlib.objectives.residuals import ResidualLoss, Term
from kanlib.objectives.squares import Residual, SumOfSquares, sum_of_squares

torch.manual_seed(0)
X = torch.rand(37, 2, dtype=torch.float64)


def heat(u, x):
    return torch.cat([u.d(1) - 0.1 * u.d(0, 0), u.value * u.d(0) - x[:, 1:]], dim=1)


def periodic(u, v, x):
    return torch.cat([u.value - v.value, u.d(0) - v.d(0)], dim=1)


def shifted(x):
    return x + torch.tensor([1.0, 0.0], dtype=x.dtype)


def ends(**options):
    start = X[:11] * torch.tensor([0.0, 1.0], dtype=X.dtype)
    return Term(periodic, start, features=[torch.clone, shifted], weight=10.0, **options)


def network():
    torch.manual_seed(1)
    return KAN([2, 3, 1], n=4, r=5, init_scale=0.5, dtype=torch.float64)


def losses():
    attention = Attention(0.5)
    with_attention = ResidualLoss(
        heat=Term(lambda u, x: heat(u, x)[:, :1], X, pairs=[(0, 0)], attention=attention)
    )
    with_attention(network())
    with_attention.after_step()
    return {
        "data": MeanSquaredError(X, torch.rand(37, 1, dtype=X.dtype)),
        "terms": ResidualLoss(heat=Term(heat, X, pairs=[(0, 0)], weight=2.0), ends=ends()),
        "attention": with_attention,
    }


@pytest.mark.parametrize("name", ["data", "terms", "attention"])
@pytest.mark.parametrize("points", [5, 37, 100])
def test_squares_add_up_to_the_loss(name, points):
    objective, model = losses()[name], network()
    assert isinstance(objective, SumOfSquares)
    parts = [part for residual in objective.residuals() for part in residual.blocks(points)]
    assert max(len(part) for part in parts) <= points
    torch.testing.assert_close(sum_of_squares(model, parts), objective(model))


def test_several_jets_meet_in_one_term():
    model, x = network(), (X[:11] * torch.tensor([0.0, 1.0], dtype=X.dtype)).requires_grad_()
    jump = model(x) - model(shifted(x))
    (slope,) = torch.autograd.grad(jump.sum(), x)
    expected = 10 * 0.5 * (jump.square().mean() + slope[:, 0].square().mean())
    torch.testing.assert_close(ResidualLoss(ends=ends())(model), expected)


def test_values_are_had_from_any_module():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.Softplus()).double()
    objective = MeanSquaredError(X, X[:, :1])

    class Wrapped(nn.Module):
        def forward(self, x):
            return model(x)

    torch.testing.assert_close(
        sum_of_squares(Wrapped(), objective.residuals()), objective(Wrapped())
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"jets": []}, "jets must hold at least one"),
        ({"data": [X[:3]]}, r"same number of points, got \[37, 3\]"),
        ({"weight": 0.0}, "weight must be positive, got 0.0"),
    ],
)
def test_residual_names_the_mistake(arguments, text):
    with pytest.raises(ValueError, match=text):
        Residual(**{"function": heat, "jets": [Jet.at(X)], **arguments})


def test_residual_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(N, K\) with N = 37 points, got \(37,\)"):
        Residual(lambda u: u.value[:, 0], [Jet.at(X)])(network())


@pytest.mark.parametrize("target", [X[:, 0], X[:, 0][None]])
def test_residual_of_all_pairs_of_points_is_refused(target):
    jet = Jet.at(X)
    with pytest.raises(ValueError, match=r"got all pairs of .* N = 37 .* data\[:, None\]"):
        Residual(lambda u: u.value - target, [jet])(network())
    square = Residual(lambda u: u.value * u.d(0) + torch.eye(37, dtype=X.dtype), [jet])
    assert square(network()).shape == (37, 37)
    assert Residual(lambda u: u.value - 1.0, [Jet.at(X[:1])])(network()).shape == (1, 1)
