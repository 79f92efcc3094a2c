"""The benchmark of multigrid: what it records once, and that its dense trials are what they say."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks import multigrid
from kanlib.paper.problems.burgers import Burgers
from kanlib.training.gauss_newton import Cholesky, conjugate_gradients

TINY = multigrid.Sizes(
    widths=(2, 2, 2, 1),
    points=120,
    steps={8: 2, 16: 2},
    dampings=(1e-3,),
    dense={1e-3: (16,)},
    spectra=(16,),
    preconditioned={1e-3: (16,)},
    levels=16,
    factors=16,
    exact=16,
    rounds=1,
    training=((16,), 2, 1),
    wide=(2, 3, 1),
    large=(),
)


@pytest.fixture(scope="module")
def problem():
    return Burgers(21, 11)


@pytest.fixture(scope="module")
def systems(problem):
    *_, model = multigrid.networks(problem, TINY)
    return multigrid.Systems(problem, model, TINY.points)


def damped(systems, damping=1e-3):
    system = Cholesky(*systems.arguments)
    return system._gram + torch.diag(systems.damped(system.squares, damping)), -system.gradient


def test_record_has_every_section_and_is_not_measured_again(tmp_path, monkeypatch, problem):
    monkeypatch.setattr(multigrid, "Burgers", lambda *_: problem)
    file = tmp_path / "m.json"
    multigrid.main(["--out", str(file)], TINY)
    record = json.loads(file.read_text())
    key = "n=16 damping=0.001"
    for tolerance in ("1e-06", "0.01"):
        solvers = record["solvers"][f"{key} tolerance={tolerance}"]
        assert {*solvers} == {"multigrid", "diagonal", "multigrid to n = 8", "cholesky"}
        assert 1 < solvers["multigrid to n = 8"]["iterations"] < solvers["diagonal"]["iterations"]
    trained = record["training"]
    assert len(trained) == len(multigrid.TRAININGS)
    assert all(0 < own["loss"] < 10 and own["seconds"] > 0 for own in trained.values())
    found = record["preconditioned"][key]
    assert found["eigenvalues"] == sorted(found["eigenvalues"])
    assert 0 < found["eigenvalues"][0] < found["eigenvalues"][-1] < 1.01
    for own in found["lowest"]:
        assert sum(own["layers"]) == pytest.approx(1)
        assert 0 < own["coarse"] < 1
    counts = [*found["deflated"].values()]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 0.7 * counts[0]
    smoothers = record["smoothers"][key]
    assert smoothers["pairs of layers"] < smoothers["edges out of a unit"]
    assert smoothers["edges out of a unit"] < record["added"][key]["edges out of a unit"]
    work = record["inner"][key]
    assert work["edges out of a unit"]["iterations"] == smoothers["edges out of a unit"]

    def again(*_):
        raise AssertionError("measured again")

    for name in ("timed", "spectrum", "other_smoothers", "added", "inner", "preconditioned"):
        monkeypatch.setattr(multigrid, name, again)
    multigrid.main(["--out", str(file)], TINY)
    assert json.loads(file.read_text()) == record


def test_inner_iterations_tend_to_the_factors(systems):
    A, b = damped(systems, 1e-1)
    kinds = multigrid.smoothers(systems.model, systems.n)
    (block, *_), small = kinds["pairs of layers"], kinds["edges out of a unit"]
    expected = multigrid.exact(A, block)(b[block])
    own = A[block][:, block]

    def error(iterations):
        e = multigrid.approximate(A, block, small, iterations)(b[block]) - expected
        return float((e @ own @ e / (expected @ own @ expected)) ** 0.5)

    assert error(5) < 0.5
    assert error(100) < 1e-6


def test_flexible_iterations_with_a_linear_preconditioner_are_those_of_conjugate_gradients(systems):
    A, b = damped(systems)
    scale = 1 / A.diagonal()
    count = multigrid.flexible(lambda v: A @ v, b, lambda r: scale * r, 1e-2)
    _, expected = conjugate_gradients(lambda v: A @ v, b, lambda r: scale * r, 1e-2)
    assert count == expected > 5


def test_blocks_of_all_levels_added_up_are_a_preconditioner(systems):
    A, _ = damped(systems)
    cycle = multigrid.Dense(systems.model, A, "edges out of a unit")
    M = torch.stack([cycle.added(e) for e in torch.eye(len(A), dtype=A.dtype)])
    assert (M - M.T).abs().max() < 1e-8 * M.abs().max()
    L = torch.linalg.cholesky(A)
    assert torch.linalg.eigvalsh(L.T @ M @ L).min() > 0


def test_large_network_trains_by_levels(monkeypatch, problem):
    monkeypatch.setattr(multigrid, "Burgers", lambda *_: problem)
    levels = ((4, 3, 80, "cholesky"), (8, 2, 80, "cg"), (16, 2, 80, "multigrid"))
    found = multigrid.large(replace(TINY, large=levels))["levels"]
    assert [own["parameters"] for own in found] == [81, 117, 189]
    assert all(own["loss"][1] < own["loss"][0] for own in found)
    assert found[-1]["loss"][1] < found[0]["loss"][1]
    assert all(one["memory (MB)"] <= other["memory (MB)"] for one, other in pairwise(found))
