"""The gallery: its programs, its references, and its record."""

import ast
import hashlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special
from scipy.interpolate import CubicSpline
from scipy.sparse import diags, eye, kron
from scipy.sparse.linalg import spsolve
from torch.func import hessian, jacrev, vmap

from kanbook.gallery import EXAMPLES, RECORD
from kanbook.gallery import __main__ as runner
from kanbook.gallery.references import cavity as spectral_cavity
from kanbook.gallery.references import clamped_plate, ghia, kuramoto_sivashinsky, table_of
from kanlib.paper.records import find_run, load_record

BY_NAME = {example.name: example for example in EXAMPLES}
TINY = {"starts": 2, "epochs": (1, 1), "count": 25}
EACH = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


def lines(module):
    """Return the number of lines of code, without imports, docstrings and blank lines."""
    source = inspect.getsource(module)
    tree = ast.parse(source)
    out = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    out += [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    apart = {line for node in out for line in range(node.lineno, node.end_lineno + 1)}
    numbered = enumerate(source.splitlines(), start=1)
    return sum(bool(line.strip()) and number not in apart for number, line in numbered)


@EACH
def test_program_has_at_most_40_lines(example):
    assert 10 < lines(example.module) <= 40


@EACH
def test_program_runs_and_its_record_gives_its_network_back(example):
    run = runner.solved(example, **TINY)
    assert run.status == "completed"
    assert run.config == {**TINY, "epochs": [1, 1]}
    assert example.errors(example.network(run)) == pytest.approx(
        {name: run.metrics[name] for name in run.metrics if name.startswith("error")}
    )


def test_runner_keeps_what_is_solved_and_goes_on(tmp_path, monkeypatch, capsys):
    out = tmp_path / "gallery.json"
    monkeypatch.setattr(runner, "EXAMPLES", [BY_NAME["kdv"], BY_NAME["inverse_heat"]])
    runner.main(["kdv"], out, **TINY)
    first = load_record(out, "gallery").runs
    runner.main([], out, **TINY)
    record = load_record(out, "gallery")
    assert [run.case for run in record.runs] == ["kdv", "inverse_heat"]
    assert record.runs[0] == first[0]
    heat = record.runs[1].metrics
    assert heat["k low"] < heat["k"] < heat["k high"]
    runner.main([], out, **TINY)
    assert load_record(out, "gallery").runs == record.runs
    assert capsys.readouterr().out.count("error") == 2
    with pytest.raises(ValueError, match="name must be one of kdv, inverse_heat, got 'heat'"):
        runner.main(["heat"], out)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_record_is_what_the_program_and_its_network_give(example):
    run = find_run(load_record(RECORD, "gallery"), example.name, runner.SEED)
    assert run.status == "completed"
    assert run.config == json.loads(json.dumps(example.settings))
    found = example.errors(example.network(run))
    for name, value in found.items():  # weights are stored with seven digits
        assert run.metrics[name] == pytest.approx(value, rel=2e-2), name
    assert run.num_parameters == sum(p.numel() for p in example.network(run).parameters())
    assert run.metrics["cpu_seconds"] < 180


def test_record_is_sealed():
    runs = json.loads(Path(RECORD).read_text(encoding="utf-8"))["runs"]
    for run in runs:
        rest = {key: value for key, value in run.items() if key != "digest"}
        seal = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]
        assert seal == run["digest"]


def derivatives(name, count=20):
    """Return points of a problem, its reference there, and its slopes and curvatures."""
    example = BY_NAME[name]
    low, high = torch.tensor(example.module.BOX, dtype=torch.float64).T
    torch.manual_seed(0)
    x = low + (high - low) * torch.rand(count, 2, dtype=torch.float64)

    def at(z):
        return example.module.reference(z[None])[0]

    return x, at(x[0]), vmap(at)(x), vmap(jacrev(at))(x), vmap(hessian(at))(x)


def test_reference_of_kdv_solves_it():
    x, _, u, slope, _ = derivatives("kdv")
    at = BY_NAME["kdv"].module.reference
    step = 1e-2  # a central difference of the sixth order for the third derivative
    shift = torch.tensor([step, 0.0], dtype=torch.float64)
    weights = {1: -488, 2: 338, 3: -72, 4: 7}
    third = sum(w * (at(x + k * shift) - at(x - k * shift)) for k, w in weights.items())
    third = third / 240 / step**3
    assert (slope[:, 0, 1:] + 6 * u * slope[:, 0, :1] + third).abs().max() < 1e-7


def test_reference_of_schrodinger_is_what_split_steps_give():
    module, modes = BY_NAME["schrodinger"].module, 128
    (low, high), (begin, end) = module.BOX
    place = low + (high - low) * np.arange(modes) / modes
    wave = 2 * np.pi / (high - low) * np.fft.fftfreq(modes, 1 / modes)

    def at(time):
        points = np.column_stack([place, np.full(modes, time)])
        u, v = module.reference(torch.from_numpy(points)).T.numpy()
        return u + 1j * v

    h, steps = at(begin), 20000
    step = (end - begin) / steps
    half = np.exp(-0.25j * wave**2 * step)
    for _ in range(steps):
        h = np.fft.ifft(half * np.fft.fft(h))
        h = np.fft.ifft(half * np.fft.fft(h * np.exp(1j * step * np.abs(h) ** 2)))
    assert np.abs(h - at(end)).max() < 1e-5
    assert np.abs(at(0)).max() == pytest.approx(1 + np.sqrt(2))


def test_reference_of_helmholtz_is_a_bessel_function():
    x, _, u, _, _ = derivatives("helmholtz")
    radius = np.hypot(x[:, 0].numpy() + 0.5, x[:, 1].numpy() + 0.3)
    assert np.allclose(u[:, 0].numpy(), special.y0(20 * radius), atol=1e-13)
    step = 1e-3
    at = BY_NAME["helmholtz"].module.reference
    weights = {0: -490 / 180, 1: 1.5, 2: -0.15, 3: 1 / 90}  # sixth order
    laplace = 0
    for a in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[a] = step
        laplace = laplace + weights[0] * at(x)
        laplace = laplace + sum(
            w * (at(x + k * shift) + at(x - k * shift)) for k, w in weights.items() if k
        )
    assert (laplace / step**2 + 400 * at(x)).abs().max() < 1e-5


def test_reference_of_the_plate_is_the_one_of_textbooks_and_converges():
    """Timoshenko and Woinowsky-Krieger: 0.00126 in the middle; 0.0012653 is known since."""
    x = torch.tensor([[0.0, 0.0], [0.2, -0.1], [0.4, 0.4], [0.5, 0.1]], dtype=torch.float64)
    u = clamped_plate(x)
    assert float(u[0]) == pytest.approx(0.00126532, abs=5e-9)
    assert abs(float(u[3])) < 1e-15
    assert (u - clamped_plate(x, 24)).abs().max() < 1e-9
    count = 80  # differences of the second order, with a ghost value across each side
    second = diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(count - 1, count - 1)) * count**2
    ends = np.zeros(count - 1)
    ends[[0, -1]] = 2.0 * count**4
    fourth = second @ second + diags(ends)
    one = eye(count - 1)
    matrix = kron(fourth, one) + 2 * kron(second, second) + kron(one, fourth)
    found = spsolve(matrix.tocsc(), np.ones((count - 1) ** 2)).reshape(count - 1, -1)
    assert found[39, 39] == pytest.approx(float(u[0]), rel=3e-3)
    assert found[55, 31] == pytest.approx(float(u[1]), rel=3e-3)


def test_reference_of_kuramoto_sivashinsky_is_what_other_steps_give():
    """Strang splitting of the linear part, exact, and of Burgers' term by Runge-Kutta."""
    nu, modes, steps = 0.2, 64, 4000
    wave = np.fft.rfftfreq(modes, 1 / modes)
    place = 2 * np.pi * np.arange(modes) / modes
    step = 2 / steps
    half = np.exp((wave**2 - nu * wave**4) * step / 2)

    def slope(v):
        return -0.5j * wave * np.fft.rfft(np.fft.irfft(v, modes) ** 2)

    v = np.fft.rfft(np.cos(place) * (1 + np.sin(place)))
    for _ in range(steps):
        v = half * v
        a = slope(v)
        b = slope(v + step / 2 * a)
        c = slope(v + step / 2 * b)
        v = half * (v + step / 6 * (a + 2 * b + 2 * c + slope(v + step * c)))
    x = torch.from_numpy(np.column_stack([place, np.full(modes, 2.0)]))
    u = kuramoto_sivashinsky(x, nu)[:, 0].numpy()
    assert np.abs(np.fft.irfft(v, modes) - u).max() < 2e-5 * np.abs(u).max()


def test_reference_of_the_cylinder_solves_on_both_sides_and_has_no_jumps():
    module = BY_NAME["dielectric"].module
    _, _, _, _, curvature = derivatives("dielectric")
    assert (curvature[:, 0, 0, 0] + curvature[:, 0, 1, 1]).abs().max() < 1e-12
    angle = torch.linspace(0, 6, 30, dtype=torch.float64)
    normal = torch.stack([angle.cos(), angle.sin()], dim=1)
    inner, outer = (module.reference((0.5 + e) * normal) for e in (-1e-6, 1e-6))
    assert (inner - outer).abs().max() < 1e-5
    far = [module.reference((0.5 + e) * normal) for e in (-2e-6, 2e-6)]
    assert ((far[1] - outer) - 5 * (inner - far[0])).abs().max() < 1e-10


def test_reference_of_kovasznay_solves_the_navier_stokes_equations():
    _, _, w, slope, curvature = derivatives("kovasznay")
    speed = w[:, :2]
    for a in range(2):
        moved = (speed * slope[:, a]).sum(dim=1)
        friction = (curvature[:, a, 0, 0] + curvature[:, a, 1, 1]) / 40
        assert (moved + slope[:, 2, a] - friction).abs().max() < 1e-12
    assert (slope[:, 0, 0] + slope[:, 1, 1]).abs().max() < 1e-13


def test_reference_of_the_heat_equation_solves_it():
    _, _, _, slope, curvature = derivatives("inverse_heat")
    assert (slope[:, 0, 1] - 0.1 * curvature[:, 0, 0, 0]).abs().max() < 1e-12
    data = BY_NAME["inverse_heat"].module.samples(4000)
    noise = data[:, 2:] - BY_NAME["inverse_heat"].module.reference(data[:, :2])
    assert float(noise.std()) == pytest.approx(0.01, rel=0.05)


def test_reference_of_the_source_belongs_to_that_of_the_solution():
    _, _, w, _, curvature = derivatives("inverse_source")
    assert (curvature[:, 0, 0, 0] + curvature[:, 0, 1, 1] + w[:, 1]).abs().max() < 1e-11


def cavity(count, reynolds=100.0):
    """Return the stream function of the cavity inside, by differences and Picard's iteration.

    (psi_y d/dx - psi_x d/dy) Laplace psi = Laplace^2 psi / Re, with ghost values for the slopes.
    """
    inner, h = count - 1, 1 / count
    one, ends = eye(inner), np.zeros(inner)
    ends[[0, -1]] = 1, 1
    second = diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(inner, inner)) / h**2
    first = diags([-1.0, 1.0], [-1, 1], shape=(inner, inner)) / (2 * h)
    fourth = second @ second + diags(2 * ends / h**4)
    outward = np.zeros(inner)
    outward[[0, -1]] = -1, 1
    third = first @ second + diags(outward / h**3)
    twice = kron(fourth, one) + 2 * kron(second, second) + kron(one, fourth)
    x_slope = kron(third, one) + kron(first, second)
    y_slope = kron(second, first) + kron(one, third)
    lid = np.kron(np.ones(inner), np.eye(inner)[-1])
    psi = np.zeros(inner**2)
    for _ in range(20):
        u, v = kron(one, first) @ psi, -(kron(first, one) @ psi)
        matrix = twice / reynolds - diags(u) @ x_slope - diags(v) @ y_slope
        before = psi
        psi = spsolve(matrix.tocsc(), -2 / h**3 / reynolds * lid + v * lid / h**2)
    assert np.abs(psi - before).max() < 1e-4 * np.abs(psi).max()
    return psi.reshape(inner, inner)


def lines_of(count):
    """Return the velocities of the table by differences on a grid of that many intervals."""
    psi = np.pad(cavity(count), 1)
    points = ghia()[0].numpy()
    node = np.linspace(0, 1, count + 1)
    u = CubicSpline(node, psi[count // 2]).derivative()  # along y, at x = 1/2
    v = CubicSpline(node, psi[:, count // 2]).derivative()
    return np.concatenate([u(points[:15, 1]), -v(points[15:, 0])]), psi


@pytest.mark.slow
def test_references_of_the_cavity_are_what_differences_give():
    """Of second order: two grids, extrapolated, tell the spectral reference from the table."""
    (coarse, _), (fine, psi) = lines_of(32), lines_of(64)
    extrapolated = (4 * fine - coarse) / 3
    points, table = ghia()
    table = table.numpy()
    spectral = table_of(spectral_cavity(points)[:, 1:]).numpy()
    size = np.linalg.norm(spectral)
    assert np.linalg.norm(fine - table) < 0.03 * size
    assert np.linalg.norm(extrapolated - spectral) < 2e-3 * size
    assert np.linalg.norm(extrapolated - table) > 1e-2 * size
    assert psi.min() == pytest.approx(-0.103423, rel=1e-2)  # the vortex of their table III


def test_reference_of_the_cavity_keeps_to_its_walls_and_converges():
    side = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    zero, one = torch.zeros_like(side), torch.ones_like(side)
    for x, lid in [((side, zero), 0), ((zero, side), 0), ((one, side), 0), ((side, one), 1)]:
        w = spectral_cavity(torch.stack(x, dim=1), degree=16)
        assert w[:, [0, 2]].abs().max() < 1e-14
        assert (w[:, 1] - lid).abs().max() < 1e-14
    points, _ = ghia()
    rough, fine, finer = (table_of(spectral_cavity(points, degree=d)[:, 1:]) for d in (12, 16, 24))
    assert (fine - finer).norm() < 0.5 * (rough - finer).norm() < 5e-3 * finer.norm()


def test_reference_of_the_cavity_is_a_flow():
    """Velocities are the slopes of the stream function, by differences."""
    torch.manual_seed(0)
    x, step = 0.1 + 0.8 * torch.rand(20, 2, dtype=torch.float64), 1e-5
    shift = step * torch.eye(2, dtype=torch.float64)
    slopes = [
        (spectral_cavity(x + e, degree=16) - spectral_cavity(x - e, degree=16))[:, 0] / (2 * step)
        for e in shift
    ]
    w = spectral_cavity(x, degree=16)
    torch.testing.assert_close(w[:, 1], slopes[1], rtol=0, atol=1e-7)
    torch.testing.assert_close(w[:, 2], -slopes[0], rtol=0, atol=1e-7)
