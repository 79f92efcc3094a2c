"""Time slabs against exact solutions and SciPy, continuous by construction."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from kanlib import (
    KAN,
    MLP,
    Causal,
    Ensemble,
    GaussNewton,
    HardConditions,
    Jet,
    ResidualLoss,
    Term,
    TimeSlabs,
    propagate,
    train_slabs,
)
from kanlib.objectives.penalties import Penalised, SquaredNorms

pytestmark = pytest.mark.usefixtures("float64")
SETTINGS = {"optimizer": GaussNewton(), "progress": False}


def pendulum(u, t):
    return u.d(0, 0) + torch.sin(u.value)


def make_pendulum(interval, former):
    """Value and velocity are handed over."""
    low, high = interval
    torch.manual_seed(0)
    value, slope = 1.0, 0.0
    if former is not None:
        value = former

        def slope(t):
            return propagate(former, Jet.at(t)).d(0)

    network = KAN([1, 1], n=4, r=7, domain=interval)
    line = torch.linspace(low, high, 40)[:, None]
    model = HardConditions.on_box(
        network, [interval], value={(0, low): value}, slope={(0, low): slope}
    )
    return model, ResidualLoss(swing=Term(pendulum, line, pairs=[(0, 0)]))


def test_pendulum_is_that_of_scipy():
    run = train_slabs(make_pendulum, [0, 2, 4, 6], [6, 4], **SETTINGS)
    t = np.linspace(0, 6, 61)
    exact = solve_ivp(
        lambda t, y: [y[1], -math.sin(y[0])], (0, 6), [1.0, 0.0], t_eval=t, rtol=1e-11, atol=1e-12
    )
    found = run.model(torch.tensor(t)[:, None]).detach()[:, 0].numpy()
    np.testing.assert_allclose(found, exact.y[0], atol=2e-5)
    assert [each.model.n for each in run.runs] == [8, 8, 8]
    assert run.status == "completed"
    assert "slab 2 to 4" in repr(run)
    for time in (2.0, 4.0):
        before, after = (torch.tensor([[time + shift]]) for shift in (0.0, 1e-9))
        jets = [propagate(run.model, Jet.at(x)) for x in (before, after)]
        torch.testing.assert_close(jets[0].value, jets[1].value, rtol=0, atol=1e-8)
        torch.testing.assert_close(jets[0].d(0), jets[1].d(0), rtol=0, atol=1e-7)


NU = 0.1


def heat(u, x):
    return u.d(1) - NU * u.d(0, 0)


def make_heat(interval, former, causal=None):
    low, _ = interval
    box = [(-1.0, 1.0), interval]
    torch.manual_seed(1)

    def start(x):
        return torch.sin(math.pi * x[:, :1])

    network = KAN([2, 2, 1], n=3, r=5, domain=(-1, 1), input_domain=box)
    walls = {(0, -1.0): 0.0, (0, 1.0): 0.0, (1, low): former or start}
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 17), torch.linspace(*interval, 9))
    loss = ResidualLoss(heat=Term(heat, grid, pairs=[(0, 0)], causal=causal))
    return HardConditions.on_box(network, box, value=walls), loss


@pytest.mark.parametrize("causal", [False, True])
def test_heat_equation_keeps_walls_and_hand_over(causal):
    def make(interval, former):
        return make_heat(interval, former, Causal(interval, slices=4) if causal else None)

    run = train_slabs(make, [0, 1, 2], [10, 10], **SETTINGS)
    x = torch.cartesian_prod(torch.linspace(-1, 1, 21), torch.linspace(0, 2, 21))
    exact = torch.exp(-NU * math.pi**2 * x[:, 1:]) * torch.sin(math.pi * x[:, :1])
    with torch.no_grad():
        error = (run.model(x) - exact).abs()
    assert error.max() < 2e-2
    assert error[x[:, 0].abs() == 1].max() < 1e-14
    seam = torch.cartesian_prod(torch.linspace(-1, 1, 21), torch.tensor([1.0]))
    first, second = (solution(seam) for solution in run.model.solutions)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-14)
    assert not any(
        p.data_ptr() == q.data_ptr()
        for p in run.model.solutions[0].parameters()
        for q in run.model.solutions[1].parameters()
    )


def test_resumed_slabs_end_with_the_same_numbers(tmp_path):
    whole = train_slabs(make_heat, [0, 1, 2], [2, 2], checkpoint=tmp_path / "whole", **SETTINGS)
    train_slabs(make_heat, [0, 1], [2, 2], checkpoint=tmp_path / "parts", **SETTINGS)
    resumed = train_slabs(
        make_heat, [0, 1, 2], [2, 2], checkpoint=tmp_path / "parts", resume=True, **SETTINGS
    )
    assert [r.history.loss for r in resumed.runs] == [r.history.loss for r in whole.runs]


def test_jets_go_to_the_slab_of_their_points():
    torch.manual_seed(0)
    early, late = KAN([2, 1], n=3, r=5), MLP([2, 4, 1], "tanh")
    whole = TimeSlabs([0, 0.3, 1], [early, late], coordinate=0)
    x = torch.tensor([[0.1, 0.2], [0.9, 0.4], [0.3, 0.6], [-1.0, 0.5], [7.0, 0.5]])
    jet = propagate(whole, Jet.at(x, pairs=[(0, 1)]))
    own = [propagate(each, Jet.at(x, pairs=[(0, 1)])).channels for each in (early, late)]
    late_rows = torch.tensor([False, True, False, False, True])[:, None]
    torch.testing.assert_close(jet.channels, torch.where(late_rows, own[1], own[0]))
    torch.testing.assert_close(whole(x), jet.value)
    torch.testing.assert_close(whole(x.view(5, 1, 2)), jet.value[:, None])


def test_slabs_that_do_not_meet_are_an_error():
    def make(interval, former):
        return make_heat(interval, None)

    with pytest.raises(ValueError, match=r"slabs must meet, but at time 1 the next one is off"):
        train_slabs(make, [0, 1, 2], [2], **SETTINGS)


@pytest.mark.parametrize("times", [[0], [0, 0], [1, 0], [], [0, 1, 0.5]])
def test_times_must_increase(times):
    with pytest.raises(ValueError, match="times must be at least two numbers that increase"):
        train_slabs(make_heat, times, [1], **SETTINGS)
    with pytest.raises(ValueError, match="times must be at least two numbers that increase"):
        TimeSlabs(times, [])


def test_other_bad_arguments():
    with pytest.raises(TypeError, match="make must return a network and its objective"):
        train_slabs(lambda interval, former: KAN([1, 1]), [0, 1], [1], **SETTINGS)
    with pytest.raises(ValueError, match="solutions must hold one for each of 2 intervals"):
        TimeSlabs([0, 1, 2], [KAN([1, 1])])


def test_slabs_must_meet_with_penalties_beside_the_loss():
    def make(interval, former):
        model, loss = make_heat(interval, None)
        return model, Penalised(loss, smooth=SquaredNorms(1e-12))

    with pytest.raises(ValueError, match="slabs must meet"):
        train_slabs(make, [0, 1, 2], [2], **SETTINGS)


def test_slabs_meet_at_terms_of_several_widths():
    """Points of a term with features are not what the network takes, and are left out."""

    def make(interval, former):
        model, loss = make_heat(interval, former)
        line = torch.linspace(-1, 1, 5)[:, None]
        ends = Term(
            lambda u, x: 0.0 * u.value,
            line,
            features=lambda x: torch.cat([x, torch.full_like(x, interval[1])], dim=1),
        )
        return model, ResidualLoss(**loss.terms, ends=ends)

    assert train_slabs(make, [0, 1, 2], [2], **SETTINGS).status == "completed"


@pytest.mark.filterwarnings("error")
def test_slabs_take_points_of_any_shape():
    torch.manual_seed(0)
    early, late = KAN([2, 2], n=3), MLP([2, 4, 2], "tanh")
    whole = TimeSlabs([0, 0.3, 1], [early, late])
    point = torch.tensor([0.1, 0.7])
    torch.testing.assert_close(whole(point), late(point))
    for shape in ((0, 2), (3, 0, 2)):
        assert whole(torch.empty(shape)).shape == shape
        assert propagate(whole, Jet.at(torch.empty(shape))).channels.shape == (3, *shape)
    rows = torch.rand(2, 7).T  # not contiguous
    chosen = torch.where(rows[:, 1:] > 0.3, late(rows), early(rows))
    torch.testing.assert_close(whole(rows), chosen)


def test_bad_slabs():
    net = KAN([2, 1])
    with pytest.raises(ValueError, match=r"solutions\[1\] must be one network, got an Ensemble"):
        TimeSlabs([0, 1, 2], [net, Ensemble([net, net])])
    with pytest.raises(ValueError, match="coordinate must be one of the 2 of the points, got 5"):
        TimeSlabs([0, 1], [net], coordinate=5)(torch.rand(3, 2))
    mixed = TimeSlabs([0, 1, 2], [net, KAN([2, 3])])
    with pytest.raises(ValueError, match=r"solutions must have equally many outputs, got \[1, 3\]"):
        mixed(torch.tensor([[0.0, 0.5], [0.0, 1.5]]))
