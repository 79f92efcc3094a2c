"""The experiment beyond the paper: its problems, and that each case runs."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from functions import Function

from kanlib.nn.jets import Jet
from kanlib.objectives.squares import sum_of_squares
from kanlib.paper.experiments import find_experiment, formulations, halves, second_order
from kanlib.paper.problems import allen_cahn, burgers, relative_error
from kanlib.training.cycles import visits

EXPERIMENT = find_experiment("second-order")


def losses(name, points=(40,)):
    case = EXPERIMENT.cases[name]
    case = replace(case, points=points, every=case.every[:1])
    return second_order.FORMULATIONS[case.problem](case, 1234, "cpu")


@pytest.mark.parametrize("name", ["burgers", "burgers-sharp"])
def test_solution_of_burgers_equation_has_no_loss(name):
    viscosity = burgers.VISCOSITY if name == "burgers" else formulations.SHARP_VISCOSITY
    solution = Function(lambda x: burgers.exact(x, viscosity, nodes=200))
    problem = losses(f"{name}-levels")
    (loss,) = problem.losses
    assert float(loss.terms["volume"](solution, "volume")) < 1e-16
    assert float(loss.terms["boundary"](solution, "boundary")) < 1e-16
    assert float(loss.terms["initial"](solution, "initial")) < 1e-16
    assert problem.error(solution) < 1e-12
    torch.testing.assert_close(sum_of_squares(solution, loss.residuals()), loss(solution))


@pytest.mark.parametrize("odd", [True, False])
def test_error_by_symmetry_is_that_of_the_whole_interval(odd):
    problem = burgers.Burgers(2, 2) if odd else allen_cahn.AllenCahn(points=10)
    even = Function(lambda x: torch.cos(math.pi * x[:, :1]) * x[:, 1:] - 0.5)
    whole = Function(lambda x: x[:, :1] * even(x)) if odd else even
    found = halves._by_symmetry(problem, odd)(whole)
    expected = relative_error(whole(problem.error_points), problem.reference)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        *("burgers-levels", "burgers-sharp-levels", "poisson-levels", "allen-cahn-levels"),
        *("burgers-half-race", "burgers-half-even-grid-race", "allen-cahn-half-race"),
    ],
)
def test_problems_lie_on_their_device_whatever_the_default(name):
    with torch.device("meta"):  # whose tensors have no data
        problem = losses(name)
        error = problem.error(problem.solution(Function(lambda z: z[:, :1])))
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
        built = problem.solution(Function(network))
        return loss, loss.parts(built), problem.error(built)

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


@pytest.mark.parametrize("name", ["burgers-half", "burgers-sharp-half"])
def test_half_of_burgers_equation_has_its_solution_and_the_conditions_built_in(name):
    viscosity = formulations.SHARP_VISCOSITY if "sharp" in name else burgers.VISCOSITY
    solution = Function(lambda x: burgers.exact(x, viscosity, nodes=200))
    problem = losses(f"{name}-race", (400,))
    (loss,) = problem.losses
    assert float(loss(solution)) < 1e-16
    assert problem.error(solution) < 1e-12
    points = loss.terms["volume"].points
    assert float(points.min()) >= 0
    assert float((points[:, 0] < 10 * viscosity).double().mean()) > 0.25  # in the layer
    seen = []
    built = problem.solution(Function(lambda z: seen.append(z) or 1 + z[:, :1]))
    line = torch.linspace(0, 1, 11).double()[:, None]
    for x, t, value in ((line, 0, burgers.initial(line)), (0, line, 0.0), (1, line, 0.0)):
        at = torch.cat([torch.zeros_like(line) + x, torch.zeros_like(line) + t], dim=1)
        assert float((built(at) - value).detach().abs().max()) < 1e-12
    assert min(float(z.min()) for z in seen) == -1
    assert max(float(z.max()) for z in seen) == 1


def test_stretching_and_drawing_points_are_inverse():
    unit = torch.rand(50, 2).double()
    found = halves._stretched(halves._unstretched(unit, 0.02), 0.02)
    torch.testing.assert_close(found, 2 * unit - 1)


def test_controls_leave_out_the_stretching_and_the_corner():
    points = torch.rand(50, 2).double() * torch.tensor([0.02, 1.0]).double()
    points[:, 0] = 1 - points[:, 0]  # in the layer
    built = [
        losses(f"allen-cahn-half{name}-race").solution(Function(lambda z: 0 * z[:, :1]))(points)
        for name in ("", "-no-corner")
    ]
    corner = halves.corner(points)
    assert float(corner.max()) > 1e-4
    torch.testing.assert_close(built[0] - built[1], corner)
    even, steep = (losses(f"burgers-half{name}-race", (400,)) for name in ("-even-grid", ""))
    for problem, inputs in ((even, 2 * points - 1), (steep, halves._stretched(points, 0.05))):
        seen = []
        problem.solution(Function(lambda z, seen=seen: seen.append(z) or z[:, :1]))(points)
        torch.testing.assert_close(seen[0], inputs)
    share = [
        float((problem.losses[0].terms["volume"].points[:, 0] < 0.05).double().mean())
        for problem in (even, steep)
    ]
    assert share[0] < 0.1 < share[1]


def test_corner_of_allen_cahn_solves_its_equation_and_takes_the_slope_away():
    t = torch.logspace(-4, 0, 30).double()[:, None]
    x = 1 - 3 * torch.rand(30, 1).double() * torch.sqrt(4e-4 * t)
    jet = Jet.at(torch.cat([x, t], dim=1), pairs=[(0, 0)], features=halves.corner)
    expected = 1e-4 * jet.d(0, 0) - 10 * jet.value
    torch.testing.assert_close(jet.d(1), expected, rtol=1e-9, atol=1e-12)
    at_end = Jet.at(torch.cat([torch.ones_like(t), t], dim=1), features=halves.corner)
    torch.testing.assert_close(at_end.d(0), 2 * torch.exp(-10 * t))


def test_half_of_allen_cahn_is_weighted_and_level_at_both_ends():
    problem = losses("allen-cahn-half-race")
    (loss,) = problem.losses
    seen = []
    built = problem.solution(Function(lambda z: seen.append(z) or 1 + z[:, :1]))
    start = torch.linspace(0, 1, 21).double()[:, None] * torch.tensor([1.0, 0.0]).double()
    assert float((built(start) - allen_cahn.initial(start[:, :1])).abs().max()) < 1e-7
    built(start + torch.tensor([0.0, 1.0]).double())
    assert min(float(z.min()) for z in seen) == -1
    assert max(float(z.max()) for z in seen) == 1
    for name, place in (("left", 0), ("right", 1)):
        assert set(loss.terms[name].points[:, 0].tolist()) == {place}
    even = Function(lambda x: torch.cos(math.pi * x[:, :1]))
    parts = loss.parts(even)
    assert max(float(parts["left"]), float(parts["right"])) < 1e-24
    points = loss.terms["volume"].points
    u = torch.cos(math.pi * points[:, :1])
    residual = 1e-4 * math.pi**2 * u + 5 * u**3 - 5 * u
    expected = (torch.exp(5 * (0.5 - points[:, 1:])) * residual).square().mean()
    torch.testing.assert_close(parts["volume"].detach(), expected)
    assert float(loss.parts(Function(lambda x: x[:, :1]))["left"]) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "name",
    [
        *("regression-race", "regression-fine-race", "poisson-race", "burgers-mlp"),
        *("burgers-half-race", "allen-cahn-half-race", "poisson-cycles"),
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
    problem = second_order.FORMULATIONS[case.problem](case, 1234, "cpu")
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


@pytest.mark.parametrize("problem", ["burgers", "burgers-sharp", "allen-cahn"])
def test_races_on_half_of_the_domain_differ_by_the_problem_alone(problem):
    whole = "allen-cahn-growth" if problem == "allen-cahn" else problem
    one, other = (asdict(EXPERIMENT.cases[f"{name}-race"]) for name in (whole, f"{problem}-half"))
    told = {"problem": f"{problem}-half", "description": other["description"]}
    assert one | told == other
    longest = EXPERIMENT.cases[f"{problem}-half-best"]
    assert (longest.network["widths"], longest.network["r"]) == ([2, 8, 8, 1], 8)
    assert longest.description.startswith(f"{problem}, half of the domain, n = ")


@pytest.mark.parametrize("problem", ["regression", "poisson", "burgers", "allen-cahn-growth"])
def test_races_on_the_fine_level_have_the_starts_of_those_over_the_levels(problem):
    race, fine = (EXPERIMENT.cases[f"{problem}-{way}"] for way in ("race", "fine-race"))
    top = len(race.epochs) - 1
    n = race.network["n"]
    told = {"description": "", "start_level": top}
    network = {**race.network, "n": n << top, "prolonged_from": n}
    assert asdict(race) | told | {"network": network} == asdict(fine) | {"description": ""}
    small = {"device": "cpu", "dtype": torch.float64}
    torch.manual_seed(1)
    coarse = second_order.KAN(**race.network, **small)
    torch.manual_seed(1)
    same = second_order.KAN(**fine.network, **small)
    x = torch.rand(20, fine.network["widths"][0]).double()
    if problem == "regression":
        coarse.calibrate_(x)
        same.calibrate_(x)
    torch.testing.assert_close(same(x), coarse(x))


@pytest.mark.parametrize("problem", ["regression", "poisson", "burgers", "allen-cahn-growth"])
def test_cycles_have_about_as_many_steps_as_the_levels(problem):
    levels, cycles = (EXPERIMENT.cases[f"{problem}-{way}"] for way in ("levels", "cycles"))
    told = {"description": "", "epochs": (), "every": ()}
    assert asdict(levels) | told | {"optimizer": "cycles"} == asdict(cycles) | told
    numbers = [len([*visits(level + 1)]) for level in range(len(levels.epochs))]
    for steps, count, number in zip(levels.epochs, cycles.epochs, numbers, strict=True):
        assert count * number == pytest.approx(steps, abs=number / 2)
    assert len(levels.every) == len(cycles.every)
    for steps, count, number in zip(levels.every, cycles.every, numbers, strict=False):
        assert count == 1 or count * number == pytest.approx(steps, abs=number / 2)
        assert count * number <= steps + number
    optimizer = second_order._optimizer(cycles)
    assert optimizer.smoother == second_order._optimizer(levels)
    assert optimizer.coarsest == levels.network["n"]


def test_race_under_lbfgs_differs_by_optimizer_and_epochs():
    race, other = (EXPERIMENT.cases[f"regression-{way}"] for way in ("race", "lbfgs-race"))
    told = {"description": "", "epochs": (20, 20, 20, 20), "optimizer": "lbfgs"}
    assert asdict(race) | told == asdict(other) | {"description": ""}


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
