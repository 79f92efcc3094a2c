"""Problems of one's own: what the loss is, what it says of mistakes, and that it solves one."""

import math
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from kanlib import KAN, MLP, Attention, Ensemble, Sampler, Unknowns, lbfgs, train_multilevel
from kanlib.domains.shapes import Box
from kanlib.objectives.residuals import ResidualLoss, Term

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
    run = train_multilevel(model(), loss(), [2, 2, 2], optimizer=lbfgs, progress=False)
    with torch.no_grad():
        assert (run.model(X) - torch.sin(math.pi * X)).abs().max() < 1e-4


def test_directions_choose_the_derivatives():
    """Along y alone, direction 0, and not at all: the same as by autograd."""
    torch.manual_seed(0)
    net = KAN([2, 3, 1], n=5, r=5, dtype=torch.float64)
    x = torch.rand(7, 2, dtype=torch.float64).requires_grad_()
    slope = torch.autograd.grad(net(x).sum(), x)[0][:, 1:]
    along = Term(lambda u, x: u.d(0), x.detach(), directions=[1])
    torch.testing.assert_close(along(net, "a"), slope.square().mean())
    values = ResidualLoss(a=Term(value, x.detach(), directions=()))
    torch.testing.assert_close(values(net), net(x).square().mean())
    torch.testing.assert_close(values.fresh(1)(net), values(net))
    assert [jet.channels.shape[0] for jet in values.fresh(1).terms["a"].jets] == [1]
    with pytest.raises(ValueError, match=r"d\(0\) is not in this jet"):
        Term(lambda u, x: u.d(0), x.detach(), directions=())(net, "a")
    with pytest.raises(ValueError, match="directions must be a list of coordinates of x"):
        Term(value, x.detach(), directions=[2])


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
        (lambda: Term(value, X[:0]), r"got \(0, 1\): give at least one point"),
        (lambda: Term(value, X * math.nan), "points must be finite"),
        (lambda: Term(value, X, weight=0.0), "weight must be a finite number above 0, got 0.0"),
        (lambda: ResidualLoss(), "at least one Term"),
        (lambda: ResidualLoss(a=Term(lambda u, x: u.value[:, 0], X))(model()), "x\\[:, :1\\]"),
        (lambda: ResidualLoss(a=Term(lambda u, x: u.value.mean(), X))(model()), "term 'a'"),
        (lambda: ResidualLoss(a=Term(lambda u, x: u, X))(model()), "got Jet"),
        (lambda: ResidualLoss(a=Term(bending, X))(model()), r"ask for it by pairs=\[\(0, 0\)\]"),
        (lambda: ResidualLoss(a=Term(value, 3 * X))(model()), "domain \\[0, 1\\], got \\[1.05"),
    ],
)
def test_mistakes_are_named(build, text):
    with pytest.raises(ValueError, match=text):
        build()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: Term(value, None),
            r"points must be a tensor \(N, P\) or a Sampler .* got NoneType",
        ),
        (
            lambda: Term(value, Box([(0, 1), (0, 1)])),
            r"got Box: draw them, as in Sampler\(domain, ",
        ),
        (lambda: Term(value, [[0.0, 1.0]]), r"got list: .*torch\.tensor\(\.\.\.\)"),
        (lambda: Term(value, X, unknowns=Unknowns(k=1.0)), r"take \(u, x, unknowns\), .* unknowns"),
        (lambda: Term(lambda u, x, q: q.k, X), r"take \(u, x\), .* got a function of \(u, x, q\)"),
        (
            lambda: Term(value, X, features=[None, None]),
            r"take \(u1, u2, x\), which are a jet for each",
        ),
    ],
)
def test_terms_that_do_not_fit_together_say_so(build, text):
    with pytest.raises(TypeError, match=text):
        build()


def test_residuals_may_take_more_than_they_must():
    """Defaults, any number of arguments, and functions without a signature are let through."""
    Term(lambda u, x, k=2.0: k * u.value, X)
    Term(lambda *given: given[0].value, X, unknowns=Unknowns(k=1.0))
    Term(torch.nn.Identity(), X)
    Term(max, X)


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


# Points outside the splines that they enter


class Wrapped(nn.Module):
    """A network of one's own around a KAN, with a parameter beside it."""

    def __init__(self, net, scale=1.0):
        super().__init__()
        self.net, self.scale = net, scale
        self.rate = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x):
        return x * self.net(self.scale * x)


BEHIND = {
    "plain": model,
    "relu": lambda: model(basis="relu"),
    "layer": lambda: model().layers[0],
    "input_domain": lambda: model(domain=(-1, 1), input_domain=[(0, 1)]),
    "sequence": lambda: nn.Sequential(nn.Identity(), model()),
    "wrapper": lambda: Wrapped(model()),
    "wrapper that scales": lambda: Wrapped(model(), 0.5),
    "ensemble": lambda: Ensemble([model(), model()]),
    "wrapped ensemble": lambda: Wrapped(Ensemble([model(), model()])),
    "average": lambda: AveragedModel(model()),
    "compiled": lambda: torch.compile(model(), backend="eager"),
}


@pytest.mark.parametrize("build", [*BEHIND.values()], ids=[*BEHIND])
def test_points_outside_the_splines_are_refused_on_both_sides(build):
    net = build()
    far = 2.5 if getattr(net, "scale", 1.0) == 0.5 else 1.2
    for at in (-0.2, far, -1e-3):
        points = X.clone()
        points[7] = at
        for _ in range(2):  # a refusal is not forgotten
            with pytest.raises(ValueError, match=rf"term 'a' .*got \[{at:g}\] at point 7"):
                ResidualLoss(a=Term(value, points))(net)
    if build is not BEHIND["wrapped ensemble"]:
        ResidualLoss(a=Term(value, X))(net)


def test_points_are_checked_for_each_network():
    one = ResidualLoss(a=Term(value, 3 * X))
    one(model(domain=(0, 3)))
    with pytest.raises(ValueError, match=r"got \[1\.05"):
        one(model())


def test_points_may_lie_anywhere_behind_trained_maps():
    term = partial(Term, value, 3 * X)
    affine = KAN([1, 3, 1], n=4, first="affine", dtype=torch.float64)
    for net in (affine, nn.Sequential(nn.Linear(1, 1).double(), model()), MLP([1, 3, 1]).double()):
        ResidualLoss(a=term())(net)
        net.requires_grad_(False)
        ResidualLoss(a=term())(net)
    assert not any(part._forward_pre_hooks for part in affine.modules())


def test_points_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match=r"term 'a' must have one column for each of the 3 inputs"):
        ResidualLoss(a=Term(value, X))(KAN([3, 1], dtype=torch.float64))


# Shapes and weights


DATA = torch.sin(6 * X[:, 0])


@pytest.mark.parametrize(
    "residual",
    [
        lambda u, x: u.value - DATA,
        lambda u, x: DATA * u.value,
        lambda u, x: u.value - x[:, 0],
        lambda u, x: u.value - DATA[None],
        lambda u, x: torch.where(u.value > 0, u.value, DATA),
        lambda u, x: (u.d(0) + torch.sub(DATA, u.value)) ** 2,
    ],
)
def test_all_pairs_of_points_are_refused(residual):
    for net in (model(), Ensemble([model(), model()])):
        with pytest.raises(ValueError, match=r"term 'a' .* all pairs .* data\[:, None\]"):
            ResidualLoss(a=Term(residual, X))(net)
    (offered,) = ResidualLoss(a=Term(residual, X)).residuals()
    (block,) = offered.blocks(41)  # as GaussNewton evaluates them
    with pytest.raises(ValueError, match="the residual of term 'a' must have shape"):
        block(model())


@pytest.mark.parametrize("points", [X.float(), Sampler([(0, 1)], 9, dtype=torch.float32)])
def test_points_of_another_dtype_are_refused(points):
    for net in (model(), MLP([1, 3, 1], dtype=torch.float64)):
        text = r"points of term 'a'.* must have the dtype of the model, .*dtype=torch.float64"
        with pytest.raises(TypeError, match=text):
            ResidualLoss(a=Term(value, points))(net)


def test_as_many_equations_as_points_are_fine():
    both = Term(lambda u, x: torch.cat([u.value - 1.0, u.d(0)], dim=1), ENDS)
    net = model()
    u = torch.cat(
        [net(ENDS) - 1, torch.autograd.functional.jvp(net, ENDS, torch.ones(2, 1).double())[1]], 1
    )
    torch.testing.assert_close(ResidualLoss(a=both)(net), u.square().mean())
    one = Term(lambda u, x: u.value - x[:, 0], X[:1])  # one point is one row
    assert ResidualLoss(a=one)(net).ndim == 0


@pytest.mark.parametrize(
    ("weight", "error"),
    [
        (math.inf, ValueError),
        (math.nan, ValueError),
        (-1.0, ValueError),
        (True, TypeError),
        ("2", TypeError),
        (None, TypeError),
        (torch.ones(41, 1), ValueError),
        (torch.tensor(2.0, requires_grad=True), ValueError),
    ],
)
def test_weight_is_one_positive_number(weight, error):
    with pytest.raises(error, match="weight must be"):
        Term(value, X, weight=weight)


def test_weight_may_be_a_tensor_of_one_number():
    assert Term(value, X, weight=torch.tensor(2.0)).weight == 2.0


@pytest.mark.parametrize("pairs", [(0, 0), [0, 0], [(0, 0, 0, 0, 0)], 0])
def test_pairs_are_pairs(pairs):
    with pytest.raises(ValueError, match=rf"pairs must be a list .*, got {re.escape(str(pairs))}$"):
        Term(value, X, pairs=pairs)


def test_pairs_may_come_from_an_iterator():
    def jump(u, v, x):
        return u.value - v.value

    term = Term(jump, X, pairs=((a, a) for a in [0]), features=[torch.clone, torch.neg])
    assert [jet.pairs for jet in term.jets] == [((0, 0),)] * 2


def test_loss_of_an_ensemble_is_the_sum_over_its_networks():
    torch.manual_seed(1)
    nets = [KAN([1, 1], n=4, r=5, dtype=torch.float64) for _ in range(3)]
    torch.testing.assert_close(loss()(Ensemble(nets)), sum(loss()(net) for net in nets))


def test_second_derivatives_of_splines_of_order_two_are_refused():
    net = KAN([1, 1], n=4, r=2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"d\(0, 0\) does not exist: .* r >= 3"):
        loss()(net)


def test_every_attention_is_updated_and_kept():
    both, other = (
        ResidualLoss(**{k: Term(value, X, attention=Attention(0.5)) for k in "ab"})
        for _ in range(2)
    )
    both(model())
    both.after_step()
    other.load_state_dict(both.state_dict())
    for name in "ab":
        weights = (loss.terms[name].attention.weights for loss in (both, other))
        assert torch.equal(*weights)
    for term in both.terms.values():
        assert not torch.equal(term.attention.weights, torch.ones(41, 1).double())
