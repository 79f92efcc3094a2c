"""Points that move: where they are drawn, that draws repeat, and that trainings use them."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from kanlib import KAN, Attention, GaussNewton, ResidualLoss, Term, train
from kanlib.objectives.samplers import Sampler

BOX = [(-1.0, 1.0), (0.0, 2.0)]


def norm(x):
    return x.norm(dim=1)


def sampler(**options):
    return Sampler(BOX, **{"count": 400, "dtype": torch.float64, **options})


@pytest.mark.parametrize("kind", ["uniform", "sobol"])
def test_draws_fill_the_box_and_repeat(kind):
    points = sampler(kind=kind).draw(3)
    assert points.shape == (400, 2)
    for column, (low, high) in zip(points.T.numpy(), BOX, strict=True):
        assert kstest((column - low) / (high - low), "uniform").pvalue > 1e-3
    assert torch.equal(points, sampler(kind=kind).draw(3))
    assert not torch.equal(points, sampler(kind=kind).draw(4))
    assert not torch.equal(points, sampler(kind=kind, seed=1).draw(3))


def test_sobol_points_are_more_even_than_independent_ones():
    def distance(kind):  # from the mean of x**2 over [-1, 1], which is 1/3
        means = [
            float(sampler(kind=kind, count=256).draw(k)[:, 0].square().mean()) for k in range(9)
        ]
        return np.std(means)

    assert distance("sobol") < 0.1 * distance("uniform")


def test_residual_draws_its_share():
    def size(x):
        return (x[:, 0] > 0.9).double()

    points = sampler(share=0.5, count=2000, pool=20).draw(0, size)
    assert float((points[:, 0] > 0.9).double().mean()) == pytest.approx(0.525, abs=0.03)
    assert float((sampler(share=0.5).draw(0)[:, 0] > 0.9).double().mean()) < 0.15


def test_map_places_the_points():
    points = sampler(map=lambda x: torch.cat([x[:, :1] ** 3, x[:, 1:]], dim=1)).draw(0)
    assert float((points[:, 0].abs() < 0.125).double().mean()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("kind", ["uniform", "sobol"])
def test_points_do_not_depend_on_the_default_device(kind):
    points = sampler(kind=kind, share=0.5)
    expected = points.draw(1, norm)
    with torch.device("meta"):  # whose tensors have no data
        assert torch.equal(points.draw(1, norm), expected)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_map_must_return_a_row_for_each_point(share):
    for map, error in ((lambda x: x[:3], ValueError), (lambda x: x.tolist(), TypeError)):
        with pytest.raises(error, match="map "):
            sampler(share=share, map=map).draw(0, norm)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"box": []}, "box must be a list of one pair"),
        ({"box": [(1.0, 0.0)]}, "low <= high"),
        ({"box": (0, 1)}, r"as \[\(0, 1\)\] for one, got \(0, 1\)"),
        ({"count": 0}, "count must be at least 1"),
        ({"kind": "halton"}, "kind must be one of"),
        ({"share": 2.0}, "share must be from 0 to 1, got 2.0"),
        ({"every": 0}, "every must be at least 1"),
    ],
)
def test_sampler_names_the_mistake(options, text):
    with pytest.raises(ValueError, match=text):
        Sampler(**{"box": BOX, "count": 10, **options})


def loss(**options):
    def equation(u, x):
        return u.d(1) - 0.1 * u.d(0, 0)

    points = sampler(**{"count": 60, "every": 2, "share": 0.5, **options})
    start = Sampler([(-1, 1), (0, 0)], 20, dtype=torch.float64)
    return ResidualLoss(
        equation=Term(equation, points, pairs=[(0, 0)]),
        start=Term(lambda u, x: u.value - torch.cos(x[:, :1]), start),
    )


def network():
    torch.manual_seed(0)
    options = {"domain": (-1.0, 1.0), "input_domain": BOX, "dtype": torch.float64}
    return KAN([2, 3, 1], n=4, r=5, **options)


def test_terms_draw_every_few_steps():
    objective, model = loss(), network()
    seen = []
    for _ in range(5):
        objective(model)
        seen.append(objective.terms["equation"].points)
        objective.after_step()
    same = [torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert same == [True, False, True, False]
    assert objective.moves
    fresh = objective.fresh(7)
    assert not torch.equal(fresh.terms["equation"].points, seen[0])
    assert torch.equal(fresh(model), objective.fresh(7)(model))


def test_attention_needs_points_that_stay():
    with pytest.raises(ValueError, match="needs points that stay"):
        Term(lambda u, x: u.value, sampler(), attention=Attention())


@pytest.mark.parametrize("resume_at", [1, 3, 4])
def test_resumed_run_has_the_same_points(tmp_path, resume_at):
    class Killed(Exception):
        pass

    def run(name, killed=False, **options):
        count = []

        def metric(model):
            count.append(1)
            if killed and len(count) > resume_at:
                raise Killed
            return 0.0

        return train(
            network(),
            loss(),
            6,
            optimizer=GaussNewton(),
            metrics={"count": metric},
            checkpoint=tmp_path / name,
            checkpoint_every=0.0,
            progress=False,
            **options,
        )

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", killed=True)
    resumed = run("killed", resume=True)
    assert whole.history.loss == resumed.history.loss
    assert len(set(whole.history.loss)) == 7
