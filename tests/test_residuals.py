"""Problems of one's own: what the loss is, what it says of mistakes, and that it solves one."""

import math
from functools import partial

import pytest
import torch

from kanlib import KAN, Attention, lbfgs, train_multilevel
from kanlib.residuals import ResidualLoss, Term

X = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None]
ENDS = X[[0, -1]]


def bending(u, x):
    """Return the residual of u'' = -pi^2 sin(pi x), solved by sin(pi x)."""
    return u.d(0, 0) + math.pi**2 * torch.sin(math.pi * x)


def value(u, x):
    return u.value


def loss(**options):
    return ResidualLoss(
        bending=Term(bending, X, pairs=[(0, 0)], **options), ends=Term(value, ENDS, weight=100.0)
    )


def model(**options):
    torch.manual_seed(0)
    return KAN([1, 1], n=4, r=5, dtype=torch.float64, **options)


def test_loss_is_the_weighted_sum_of_mean_squares():
    net = model()
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    expected = (curve + math.pi**2 * torch.sin(math.pi * X)).square().mean()
    expected = expected + 100 * net(ENDS).square().mean()
    torch.testing.assert_close(loss()(net), expected)


def test_multilevel_training_solves_it():
    run = train_multilevel(model(), loss(), [20, 20, 20], optimizer=lbfgs, progress=False)
    with torch.no_grad():
        assert (run.model(X) - torch.sin(math.pi * X)).abs().max() < 1e-4


def test_attention_is_part_of_the_state():
    one, other = loss(attention=Attention(0.5)), loss(attention=Attention(0.5))
    net = model()
    one(net)
    one.after_step()
    assert one(net) < loss()(net)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(net), one(net))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Term(value, X[:, 0]), "points must be finite, of shape"),
        (lambda: Term(value, X * math.nan), "points must be finite"),
        (lambda: Term(value, X, weight=0.0), "weight must be positive, got 0.0"),
        (lambda: ResidualLoss(), "at least one Term"),
        (lambda: ResidualLoss(a=Term(lambda u, x: u.value[:, 0], X))(model()), "x\\[:, :1\\]"),
        (lambda: ResidualLoss(a=Term(lambda u, x: u.value.mean(), X))(model()), "term 'a'"),
        (lambda: ResidualLoss(a=Term(lambda u, x: u, X))(model()), "got Jet"),
        (lambda: ResidualLoss(a=Term(bending, X))(model()), r"pairs=\.\.\."),
        (lambda: ResidualLoss(a=Term(value, 3 * X))(model()), "domain \\[0, 1\\], got \\[1.05"),
    ],
)
def test_mistakes_are_named(build, text):
    with pytest.raises(ValueError, match=text):
        build()


def test_term_of_another_type_is_refused():
    with pytest.raises(TypeError, match="must be a Term, got function"):
        ResidualLoss(a=value)
    shared = Attention()
    with pytest.raises(ValueError, match="must not be shared"):
        ResidualLoss(**{k: Term(value, X, attention=shared) for k in "ab"})


@pytest.mark.parametrize("per", ["layer", "input"])
def test_free_knots_have_a_domain_too(per):
    net = model()
    torch.testing.assert_close(loss()(net.free(per)), loss()(net))
    with pytest.raises(ValueError, match="domain \\[0, 1\\]"):
        ResidualLoss(a=Term(value, 3 * X))(net.free(per))


def test_points_are_fine_where_the_domain_covers_them():
    term = partial(Term, value, 3 * X)
    ResidualLoss(a=term())(model(domain=(0, 3)))
    ResidualLoss(a=term())(model(input_domain=[(0, 3)]))
