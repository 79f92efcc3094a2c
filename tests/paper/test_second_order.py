"""The experiment beyond the paper: its problems, and that each case runs."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from functions import Function

from kanlib.objectives.squares import sum_of_squares
from kanlib.paper.experiments import find_experiment, second_order
from kanlib.paper.problems import allen_cahn, burgers

EXPERIMENT = find_experiment("second-order")


def losses(name, points=(40,)):
    case = EXPERIMENT.cases[name]
    case = replace(case, points=points, every=case.every[:1])
    return second_order.PROBLEMS[case.problem](case, 1234, "cpu")


@pytest.mark.parametrize("name", ["burgers", "burgers-sharp"])
def test_solution_of_burgers_equation_has_no_loss(name):
    viscosity = burgers.VISCOSITY if name == "burgers" else second_order.SHARP_VISCOSITY
    solution = Function(lambda x: burgers.exact(x, viscosity, nodes=200))
    problem = losses(f"{name}-levels")
    (loss,) = problem.losses
    assert float(loss.terms["volume"](solution, "volume")) < 1e-16
    assert float(loss.terms["boundary"](solution, "boundary")) < 1e-16
    assert float(loss.terms["initial"](solution, "initial")) < 1e-16
    assert problem.error(solution) < 1e-12
    torch.testing.assert_close(sum_of_squares(solution, loss.residuals()), loss(solution))


@pytest.mark.parametrize("name", ["burgers", "burgers-sharp", "poisson", "allen-cahn"])
def test_problems_lie_on_their_device_whatever_the_default(name):
    with torch.device("meta"):  # whose tensors have no data
        problem = losses(f"{name}-levels")
        error = problem.error(Function(lambda z: z[:, :1]))
    assert math.isfinite(error)
    points = {term.points.device.type for loss in problem.losses for term in loss.terms.values()}
    assert points == {"cpu"}


def test_solution_of_poissons_equation_has_no_loss():
    def value(z):
        x, y, distance = z[:, :1], z[:, 1:2], z[:, 2:]
        right = 0.5 * (x + distance)  # max(x, 0), and smooth in x and its distance
        left = x - right
        wave = torch.sin(math.pi * left) + torch.sin(2 * math.pi * right)
        return wave * torch.sin(3 * math.pi * y)

    problem = losses("poisson-levels")
    (loss,) = problem.losses
    parts = loss.parts(Function(value))
    assert {name: float(part) < 1e-20 for name, part in parts.items()} == dict.fromkeys(parts, True)
    assert problem.error(Function(value)) < 1e-12
    boundary = loss.terms["boundary"].points
    assert torch.equal(boundary.abs().max(dim=1).values, torch.ones(len(boundary)).double())
    sides = torch.cat([boundary == 1, boundary == -1], dim=1).double().mean(dim=0)
    assert float((sides - 0.25).abs().max()) < 0.06


def test_terms_of_allen_cahn_see_ends_and_start():
    (loss,) = losses("allen-cahn-levels").losses
    even = Function(lambda z: z[:, :1] ** 2 * torch.cos(math.pi * z[:, :1]))
    parts = loss.parts(even)
    assert float(parts["initial"]) < 1e-20
    slope = 0.1 * 2 * (-2)  # the slopes at the ends are 2 and -2 in size
    assert float(parts["periodic"]) == pytest.approx(0.5 * slope**2, rel=1e-12)


def test_weighted_terms_of_allen_cahn_take_the_network_behind_the_start():
    def parts(factor):
        """Terms where the network makes u a multiple of the initial values at all times."""

        def network(z):
            time = ((z[:, 1:] + 1) / 2).clamp(min=1e-9)
            return (factor - 1) * allen_cahn.initial(z[:, :1]) / time

        problem = losses("allen-cahn-growth-levels")
        (loss,) = problem.losses
        return loss, loss.parts(Function(network)), problem.error(Function(network))

    _, at_rest, error = parts(0.0)  # u = 0 is a solution, with an error of all of u
    assert {name: float(part) < 1e-20 for name, part in at_rest.items()} == {
        "volume": True,
        "periodic": True,
    }
    assert 0.99 < error < 1  # but for the start, which is exact
    loss, held, error = parts(1.0)
    points = loss.terms["volume"].points
    x, time = points[:, :1].requires_grad_(), points[:, 1:]
    start = allen_cahn.initial(x)
    slope = torch.autograd.grad(start.sum(), x, create_graph=True)[0]
    curvature = torch.autograd.grad(slope.sum(), x)[0]
    residual = -1e-4 * curvature + 5 * start**3 - 5 * start
    expected = (torch.exp(5 * (0.5 - time)) * residual).square().mean()
    torch.testing.assert_close(held["volume"], expected.detach())
    ends = loss.terms["periodic"].points[:, 1:]
    assert float(held["periodic"]) == pytest.approx(0.5 * float((0.4 * ends).square().mean()))
    assert 0.1 < error < 1


@pytest.mark.parametrize(
    "name",
    [
        *("regression-race", "regression-fine-race", "poisson-race", "burgers-mlp"),
        *("regression-adam", "regression-lbfgs", "regression-ssbroyden", "poisson-bfgs"),
    ],
)
def test_quick_case_runs(name, monkeypatch, tmp_path):
    monkeypatch.setattr(second_order, "QUICK_DIVISOR", 40)
    monkeypatch.setattr(second_order, "QUICK_POINTS", 30)
    options = {"quick": True, "progress": False, "checkpoint": tmp_path / "run.pt"}
    case = EXPERIMENT.cases[name]
    if case.mlp:
        case = replace(case, network={**case.network, "widths": [2, 8, 8, 1]})
    run, metrics, _ = EXPERIMENT.execute(case, 1234, **options)
    assert run.status == "completed"
    assert len(run.levels) == len(EXPERIMENT.cases[name].epochs)
    assert metrics["error"] == run.history.metrics[-1]["error"] > 0
    assert metrics["processor_seconds"] > 0
    assert not [*tmp_path.iterdir()]


def test_seconds_of_a_run_that_went_on_are_not_known(tmp_path):
    (tmp_path / "run.pt.starts").mkdir()
    options = {"quick": True, "progress": False, "checkpoint": tmp_path / "run.pt", "resume": True}
    _, metrics, _ = EXPERIMENT.execute(EXPERIMENT.cases["regression-levels"], 1234, **options)
    assert metrics.keys() == {"loss", "error"}


@pytest.mark.parametrize("name", ["poisson-paper", "burgers-levels-grid"])
def test_points_that_do_not_move_are_those_of_a_grid(name):
    case = EXPERIMENT.cases[name]
    case = replace(case, points=(100, 400, 900, 1600)[: len(case.points)])
    problem = second_order.PROBLEMS[case.problem](case, 1234, "cpu")
    for count, loss in zip(case.points, problem.losses, strict=True):
        points = loss.terms["volume"].points
        side = math.isqrt(count)
        assert len(points) == (count if name.startswith("burgers") else (side - 1) ** 2)
        assert len(points[:, 0].unique()) ** 2 == len(points)


@pytest.mark.parametrize(("problem", "more"), [("poisson", 2), ("burgers", 1)])
def test_longest_races_begin_as_the_others(problem, more):
    race, best = (EXPERIMENT.cases[f"{problem}-{way}"] for way in ("race", "best"))
    for name in ("epochs", "points", "keep", "every"):
        known, found = getattr(race, name), getattr(best, name)
        assert found[: len(known)] == known
        assert len(found) == len(known) + more
    assert (best.network, best.starts) == (race.network, race.starts)
    assert best.description.endswith(f"n = 6 to 96, a race of {race.starts} starts")


@pytest.mark.parametrize("problem", ["regression", "poisson", "burgers"])
def test_baselines_differ_from_gauss_newton_by_the_optimizer_alone(problem):
    fine = EXPERIMENT.cases[f"{problem}-fine-small"]
    for name in second_order.BASELINES:
        case = EXPERIMENT.cases[f"{problem}-{name}"]
        other = {"description": "", "epochs": (), "optimizer": ""}
        assert asdict(case) | other == asdict(fine) | other
        assert second_order._optimizer(case) is second_order.BASELINES[name]
    assert second_order.BASELINES.keys() == second_order.BUDGETS.keys()


def test_parameters_are_those_of_the_targets():
    sizes = {"regression": 230, "poisson": 620, "burgers": 2200, "allen-cahn": 3168}
    for problem, size in sizes.items():
        case = EXPERIMENT.cases[f"{problem}-fine-small"]
        assert second_order.KAN(**case.network).num_parameters == size
