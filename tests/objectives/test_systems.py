"""Systems: outputs by their names, in every network, term and optimizer."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from kanlib import (
    KAN,
    MLP,
    Ensemble,
    GaussNewton,
    Jet,
    ResidualLoss,
    Term,
    propagate,
    train,
    train_multilevel,
)
from kanlib.training.jacobian import jacobian

pytestmark = pytest.mark.usefixtures("float64")
NAMES = ("u", "v", "p")


def points(n=17):
    torch.manual_seed(7)
    return 2 * torch.rand(n, 2) - 1


def network(**options):
    torch.manual_seed(0)
    return KAN([2, 3, 3], n=3, r=5, domain=(-1, 1), **{"outputs": NAMES, **options})


class Beside(nn.Module):
    """A network of one's own that names its outputs."""

    outputs = NAMES

    def __init__(self):
        super().__init__()
        self.net = network(outputs=None)

    def forward(self, x):
        return 2 * self.net(x)


NETWORKS = {
    "kan": network,
    "relu": lambda: network(basis="relu"),
    "refined": lambda: network().refine(),
    "free": lambda: network().free(),
    "mlp": lambda: MLP([2, 4, 3], "tanh", outputs=NAMES),
    "ensemble": lambda: Ensemble([network(), network()]),
    "average": lambda: AveragedModel(network()),
    "compiled": lambda: torch.compile(network(), backend="eager"),
    "sequence": lambda: nn.Sequential(nn.Linear(2, 2), network()),
    "own": Beside,
}


@pytest.mark.parametrize("values", [False, True], ids=["derivatives", "values"])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_have_their_names(name, values):
    model, x = NETWORKS[name](), points()
    options = {"directions": ()} if values else {"pairs": [(0, 1)]}
    seen = []
    term = Term(lambda w, x: seen.append(w) or w.value, x, **options)
    ResidualLoss(a=term)(model)
    (w,) = seen
    assert w.outputs == NAMES
    for i, output in enumerate(NAMES):
        one = w.of(output)
        assert one.outputs == (output,)
        assert torch.equal(one.channels, w.channels[..., i : i + 1])
        torch.testing.assert_close(one.value, model(x)[..., i : i + 1])
    both = w.of("p", "u")
    assert torch.equal(both.value, w.value[..., [2, 0]])
    assert torch.equal(both.of("u").value, w.of("u").value)
    if not values:
        assert torch.equal(w.of("v").d(0, 1), w.d(0, 1)[..., 1:2])


def test_a_layer_behind_makes_other_outputs():
    behind = nn.Sequential(network(), nn.Linear(3, 3))
    assert propagate(behind, Jet.at(points())).outputs == ()
    assert propagate(nn.Linear(3, 3), propagate(network(), Jet.at(points()))).outputs == ()


def stokes(w, x):
    """Return -Laplace (u, v) + grad p - f and div (u, v) at the vortex below."""
    u, v, p = (w.of(name) for name in NAMES)
    s, c = torch.sin(math.pi * x), torch.cos(math.pi * x)
    f = 2 * math.pi**2 * s[:, :1] * c[:, 1:], -2 * math.pi**2 * c[:, :1] * s[:, 1:]
    return torch.cat(
        [
            -u.d(0, 0) - u.d(1, 1) + p.d(0) - f[0] - x[:, 1:],
            -v.d(0, 0) - v.d(1, 1) + p.d(1) - f[1] - x[:, :1],
            u.d(0) + v.d(1),
        ],
        dim=-1,
    )


def exact(x):
    s, c = torch.sin(math.pi * x), torch.cos(math.pi * x)
    flow = s[:, :1] * c[:, 1:], -c[:, :1] * s[:, 1:]
    return torch.cat([*flow, x[:, :1] * x[:, 1:]], dim=1)


class Exact(nn.Module):
    outputs = NAMES

    def forward(self, x):
        return exact(x)


PAIRS = [(0, 0), (1, 1)]


def test_exact_solution_of_a_system_has_no_residual():
    loss = ResidualLoss(stokes=Term(stokes, points(), pairs=PAIRS))
    assert loss(Exact()) < 1e-24


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_rows_of_systems_are_those_of_the_columns(basis):
    """With and without names: the same Jacobian."""
    model, x = network(basis=basis), points()

    def plain(w, x):
        u = Jet(w.channels, w.directions, w.pairs)
        parts = [Jet(u.channels[..., i : i + 1], 2, u.pairs, outputs=(n,)) for n, i in INDEX]
        return stokes(Columns(dict(zip(NAMES, parts, strict=True))), x)

    named = jacobian(model, ResidualLoss(stokes=Term(stokes, x, pairs=PAIRS)))
    other = jacobian(model, ResidualLoss(stokes=Term(plain, x, pairs=PAIRS)))
    assert torch.equal(named.dense(), other.dense())


INDEX = [(name, i) for i, name in enumerate(NAMES)]


class Columns:
    def __init__(self, parts):
        self.of = parts.__getitem__


@pytest.mark.slow
def test_a_system_is_solved_over_levels():
    line = torch.linspace(-1, 1, 11)
    grid = torch.cartesian_prod(line, line)
    edge = grid[(grid.abs() == 1).any(dim=1)]
    truth = exact(edge)
    loss = ResidualLoss(
        stokes=Term(stokes, grid, pairs=PAIRS, weight=1e-2),
        walls=Term(lambda w, x: w.of("u", "v").value - truth[:, :2], edge, directions=()),
        level=Term(lambda w, x: w.of("p").value, torch.zeros(1, 2), directions=()),
    )
    torch.manual_seed(0)
    model = KAN([2, 5, 3], n=4, r=5, domain=(-1, 1), outputs=NAMES)
    run = train_multilevel(model, loss, [25, 0], optimizer=GaussNewton(), progress=False)
    assert run.model.outputs == NAMES
    with torch.no_grad():
        error = (run.model(grid) - exact(grid))[:, :2].norm() / exact(grid)[:, :2].norm()
    assert error < 0.1


def test_names_do_not_change_checkpoints(tmp_path):
    plain, given = network(outputs=None), network()
    assert [*plain.state_dict()] == [*given.state_dict()]
    given.load_state_dict(plain.state_dict())
    both = Ensemble([plain, plain]).state_dict()
    assert "outputs" not in bytes(round(c) for c in both["_extra_state"].tolist()).decode()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda w: w.of("q"), "there is no output 'q': the network has 'u', 'v', 'p'"),
        (lambda w: w.of("u", 1), "there is no output 1: the network has"),
        (lambda w: w.of(), r"of\(\) needs names of outputs: the network has"),
        (
            lambda w: Jet.at(points()).of("u"),
            "name them, as in KAN",
        ),
        (lambda w: network(outputs=("u", "v")), "outputs must hold 3 different names"),
        (lambda w: network(outputs=("u", "u", "p")), "outputs must hold 3 different names"),
        (lambda w: MLP([2, 3], outputs=("u", 1, "p")), "outputs must hold 3 different names"),
    ],
)
def test_mistakes_are_named(build, text):
    with pytest.raises(ValueError, match=text):
        build(propagate(network(), Jet.at(points())))


def test_an_unknown_name_in_a_term_is_told_when_training_begins():
    loss = ResidualLoss(a=Term(lambda w, x: w.of("pressure").value, points()))
    adam = partial(torch.optim.Adam, lr=1e-3)
    for optimizer in (adam, GaussNewton()):
        with pytest.raises(ValueError, match="there is no output 'pressure'"):
            train(network(), loss, 1, optimizer=optimizer, progress=False)
