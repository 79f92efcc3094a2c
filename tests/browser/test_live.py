"""The splines and networks that a page computes itself, against kanlib, to 1e-10."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from built import WIDTHS
from scipy.fft import dct
from scipy.interpolate import BSpline

from kanbook.live import live, source
from kanlib import KAN, GaussNewton, KnotGrid, MeanSquaredError, prolongation
from kanlib.splines.bspline import dense_basis, greville
from kanlib.splines.change_of_basis import ChangeOfBasis
from scripts.chromium import Chromium, Page

Script = Callable[..., Any]

GRIDS = {
    "uniform": KnotGrid.uniform(4, 5),
    "order-2": KnotGrid.uniform(2, 7, (-1.0, 1.0)),
    "order-3": KnotGrid(3, [0.0, 0.1, 0.15, 0.6, 0.65, 1.0]),
    "order-6": KnotGrid(6, [-1.0, -0.2, 0.3, 0.4]),
    "one-interval": KnotGrid(5, [0.25, 1.5]),
    "steps": KnotGrid(1, [0.0, 0.3, 0.4, 1.0]),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "one-edge": {"widths": [1, 1], "n": 7},
    "hidden": {"widths": [1, 4, 1], "n": 5, "hidden_domain": (-1.0, 1.0)},
    "graded": {"widths": [1, 3, 1], "breakpoints": [0.0, 0.1, 0.15, 0.6, 0.65, 1.0], "r": 3},
    "deep": {"widths": [1, 2, 3, 1], "n": 3, "r": 5},
}
POINTS = (np.arange(60) + 0.5) / 60
TARGETS = np.sin(5 * POINTS) + np.tanh(30 * (POINTS - 0.6))


@pytest.fixture(scope="module")
def script(browser: Chromium) -> Iterator[Script]:
    """Return a function that evaluates an expression of JavaScript over values given by name."""
    page = browser.open("about:blank", 1440)
    page.evaluate("".join(source(name) for name in ("splines", "network")))

    def run(expression: str, **values: Any) -> Any:
        names = ", ".join(values)
        plain = "(_, v) => ArrayBuffer.isView(v) ? Array.from(v) : v"
        text = page.evaluate(
            f"(({{{names}}}) => JSON.stringify({expression}, {plain}))({json.dumps(values)})"
        )
        return json.loads(text)

    yield run
    page.close()


def stored(grid: KnotGrid) -> dict[str, Any]:
    """Return a grid as the scripts hold it."""
    return {"order": grid.order, "points": grid.breakpoints.tolist()}


def network(name: str, scale: float = 0.5) -> KAN:
    """Return a random network."""
    torch.manual_seed(3)
    return KAN(**NETWORKS[name], init_scale=scale, dtype=torch.float64)


def held(model: KAN) -> dict[str, Any]:
    """Return a network as the scripts hold it, with plain lists of weights."""
    layers = list(model.spline_layers)
    return {
        "widths": list(model.widths),
        "grids": [stored(layer.grid) for layer in layers],
        "weights": [layer.weight.detach().flatten().tolist() for layer in layers],
    }


def flat(model: KAN) -> np.ndarray:
    """Return all weights of a network, in spline weights."""
    layers = model.to_basis("spline").spline_layers
    return np.concatenate([layer.weight.detach().flatten().numpy() for layer in layers])


def column(values: np.ndarray) -> torch.Tensor:
    """Return values as the inputs or targets of a network."""
    return torch.as_tensor(values)[:, None]


TYPED = "({...net, weights: net.weights.map((row) => Float64Array.from(row))})"


@pytest.mark.parametrize("name", GRIDS)
def test_basis_and_slopes_are_those_of_kanlib(name, script):
    grid = GRIDS[name]
    a, b = grid.domain
    x = np.concatenate([np.linspace(a - 0.3, b + 0.3, 41), grid.breakpoints.numpy()])
    found = script("x.map((at) => kanSplines.local(grid, at))", x=x.tolist(), grid=stored(grid))
    for key, derivative in (("values", 0), ("slopes", 1)):
        if derivative >= grid.order:
            assert all(each[key] == [0] for each in found)
            continue
        expected = dense_basis(torch.as_tensor(x), grid, derivative).numpy()
        dense = np.zeros_like(expected)
        for row, each in zip(dense, found, strict=True):
            row[each["first"] : each["first"] + grid.order] = each[key]
        np.testing.assert_allclose(dense, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", GRIDS)
def test_refinement_is_exact(name, script):
    grid = GRIDS[name]
    u = torch.randn(grid.num_basis, generator=torch.Generator().manual_seed(1)).double()
    found = script(
        "kanSplines.prolong(grid, kanSplines.halved(grid), u)", grid=stored(grid), u=u.tolist()
    )
    finer = grid.refine()
    expected = prolongation(grid, finer).apply(u)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    x = np.linspace(*grid.domain, 100)[:-1]
    np.testing.assert_allclose(
        BSpline(finer.knots.numpy(), np.array(found), grid.order - 1)(x),
        BSpline(grid.knots.numpy(), u.numpy(), grid.order - 1)(x),
        atol=1e-12,
    )


@pytest.mark.parametrize("name", [name for name in GRIDS if name != "steps"])
def test_coefficients_act_at_the_greville_points(name, script):
    found = script("kanSplines.greville(grid)", grid=stored(GRIDS[name]))
    np.testing.assert_allclose(found, greville(GRIDS[name]), atol=1e-14)


@pytest.mark.parametrize("name", GRIDS)
def test_change_of_basis_is_the_dense_matrix(name, script):
    grid = GRIDS[name]
    x = torch.linspace(-1, 2, grid.num_basis).double()
    matrix = ChangeOfBasis(grid).dense().numpy()
    for function, expected in (
        ("toRelu", matrix.T @ x.numpy()),
        ("fromRelu", np.linalg.solve(matrix.T, x)),
        ("gradientToRelu", np.linalg.solve(matrix, x)),
    ):
        found = script(f"kanSplines.{function}(grid, x)", grid=stored(grid), x=x.tolist())
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_refined_networks_are_those_of_kanlib(name, script):
    model = network(name)
    points = np.linspace(-0.2, 1.1, 50)
    expected = model(column(points)).detach().numpy()[:, 0]
    for made in ("net", "kanNetwork.refine(net)"):
        found = script(
            f"((net) => kanNetwork.predict({made}, x))({TYPED})", net=held(model), x=points.tolist()
        )
        np.testing.assert_allclose(found, expected, atol=1e-10)
    weights = script(f"kanNetwork.refine({TYPED}).weights.map((w) => [...w])", net=held(model))
    np.testing.assert_allclose(np.concatenate(weights), flat(model.refine()), atol=1e-10)


@pytest.mark.parametrize("basis", ["spline", "relu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_steps_are_those_of_kanlib(name, basis, script):
    model = network(name).to_basis(basis)
    before, rate = flat(model), 1e-3
    objective = MeanSquaredError(column(POINTS), column(TARGETS))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    objective(model).backward()
    optimizer.step()
    expected = flat(model) - before
    found = script(
        "((net) => kanNetwork.descent(net, kanNetwork.gradient(net, x, y), basis)"
        f".map((row) => [...row]))({TYPED})",
        net=held(network(name)), x=POINTS.tolist(), y=TARGETS.tolist(), basis=basis,
    )  # fmt: skip
    step = rate * np.concatenate(found)
    np.testing.assert_allclose(step, expected, rtol=0, atol=1e-10 * abs(expected).max())


@pytest.mark.parametrize("basis", ["spline", "relu"])
def test_descent_lowers_the_loss_at_every_step(basis, script):
    losses = script(
        f"((net) => {{ const way = new kanNetwork.Descent(basis);"
        " return Array.from({length: 20}, () => {"
        " net = way.step(net, x, y); return kanNetwork.loss(net, x, y); });"
        f" }})({TYPED})",
        net=held(network("hidden")), x=POINTS.tolist(), y=TARGETS.tolist(), basis=basis,
    )  # fmt: skip
    start = MeanSquaredError(column(POINTS), column(TARGETS))(network("hidden")).item()
    assert all(np.diff([start, *losses]) < 0)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_gauss_newton_steps_are_those_of_kanlib(name, steps, script):
    model = network(name)
    objective = MeanSquaredError(column(POINTS), column(TARGETS))
    optimizer = GaussNewton().bind(model, objective)
    for _ in range(steps):
        optimizer.step()
    damping, weights = script(
        "((net) => { const way = new kanNetwork.GaussNewton();"
        " for (let i = 0; i < steps; i++) net = way.step(net, x, y);"
        f" return [way.damping, net.weights.map((row) => [...row])]; }})({TYPED})",
        net=held(network(name)), x=POINTS.tolist(), y=TARGETS.tolist(), steps=steps,
    )  # fmt: skip
    expected = flat(model)
    np.testing.assert_allclose(np.concatenate(weights), expected, atol=1e-10 * abs(expected).max())
    assert damping == pytest.approx(optimizer.rate, rel=1e-6)


def test_amplitudes_are_a_cosine_transform(script):
    x = (np.arange(64) + 0.5) / 64
    values = 0.3 + 2 * np.cos(5 * np.pi * x) - 0.25 * np.cos(40 * np.pi * x) + 0.1 * x**2
    found = script("kanNetwork.amplitudes(y)", y=values.tolist())
    expected = abs(dct(values)) / 64
    expected[0] /= 2
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_starts_are_normal_numbers(script):
    draw = "((draw) => Array.from({length: 20000}, draw))(kanNetwork.normals(seed))"
    first, again, other = (np.array(script(draw, seed=seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert not (first == other).any()
    assert abs(first.mean()) < 0.03
    assert abs(first.std() - 1) < 0.02
    assert abs(np.mean(first**4) - 3) < 0.2
    assert abs(np.mean(first[1:] * first[:-1])) < 0.03


@pytest.fixture
def shown(browser: Chromium, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page with a live figure alone."""
    pages = []

    def opened(name: str, width: int = 1440, **options: Any) -> Page:
        path = tmp_path / f"{name}.html"
        head = (
            "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        )
        path.write_text(head + live(name, alt="A figure.", **options).data, encoding="utf-8")
        pages.append(browser.open(path.as_uri(), width))
        return pages[-1]

    yield opened
    for page in pages:
        assert page.console == []
        page.close()


PICTURE = """({
  curve: document.querySelector(".curve").getAttribute("d"),
  values: [...document.querySelectorAll("[role=slider]")].map((h) => Number(h.ariaValueNow)),
  at: [...document.querySelectorAll("[role=slider] circle:first-child")].map((c) => {
    const {x, y, width, height} = c.getBoundingClientRect();
    return [x + width / 2, y + height / 2];
  }),
  text: document.querySelector("figcaption").textContent,
})"""


def click(page: Page, text: str) -> None:
    """Press the button of that name."""
    names = "[...document.querySelectorAll('button')].find((b) => b.textContent === %s).click()"
    page.evaluate(names % json.dumps(text))


def rest(page: Page) -> Any:
    """Return the picture once its points lie still."""
    page.evaluate("new Promise((done) => setTimeout(done, 900))")
    return page.evaluate(PICTURE)


@pytest.mark.parametrize("order", range(2, 7))
def test_refining_leaves_the_drawn_curve_as_it_is(order, shown):
    page = shown("drag", order=order, n=5)
    start = page.evaluate(PICTURE)
    assert len(start["values"]) == 5 + order - 1
    for n in (10, 20, 40):
        click(page, "Refine")
        after = page.evaluate(PICTURE)
        assert after["curve"] == start["curve"]
        assert len(after["values"]) == n + order - 1
    click(page, "5")
    assert page.evaluate(PICTURE)["values"] == start["values"]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_point_is_pulled_by_mouse_or_finger_and_moves_the_curve_nearby_only(width, shown):
    page = shown("drag", width, order=4, n=5)
    click(page, "20")
    before = rest(page)
    x, y = before["at"][10]
    page.drag((x, y), (x, y - 60))
    after = page.evaluate(PICTURE)
    changed = np.flatnonzero(np.array(after["values"]) != np.array(before["values"]))
    assert changed.tolist() == [10]
    assert after["at"][10][1] == pytest.approx(y - 60, abs=1)
    heights = [
        np.array([float(part.split(",")[1]) for part in each["curve"][1:].split("L")])
        for each in (before, after)
    ]
    moved = np.flatnonzero(heights[0] != heights[1]) / (len(heights[0]) - 1)
    assert 7 / 20 <= moved.min() < moved.max() <= 11 / 20
    assert "on 4 of 20 intervals" in after["text"]
    page.drag((x, y + 150), (x, y + 120))  # far from any point
    assert page.evaluate(PICTURE) == after


def test_a_point_is_pulled_by_keys(shown):
    page = shown("drag", order=3, n=5)
    before = page.evaluate(PICTURE)["values"]
    page.evaluate("document.querySelector('[role=slider][tabindex=\"0\"]').focus()")
    page.press("ArrowRight")
    page.press("ArrowUp")
    after = page.evaluate(PICTURE)["values"]
    middle = len(before) // 2 + 1
    expected = [value + 0.05 * (i == middle) for i, value in enumerate(before)]
    assert after == pytest.approx(expected, abs=0.011)
    assert after[middle] > before[middle]


def test_a_spline_that_plays_refines_and_stops(shown):
    page = shown("drag", order=4, n=5, play=True)
    page.evaluate("""new Promise((done, fail) => {
      const late = setTimeout(() => fail(new Error("it does not play")), 20000);
      const look = setInterval(() => {
        if (document.querySelectorAll("[role=slider]").length < 13) return;
        clearInterval(look); clearTimeout(late); done();
      }, 50);
    })""")
    click(page, "Stop")
    still = rest(page)
    page.evaluate("new Promise((done) => setTimeout(done, 2500))")
    assert page.evaluate(PICTURE) == still


TRAINED = """({
  network: document.querySelector(".network").getAttribute("d"),
  bands: [...document.querySelectorAll(".band")].map((b) => Number(b.getAttribute("height"))),
  text: document.querySelector("figcaption").textContent,
  runs: [...document.querySelectorAll(".runs li")].map((run) => run.textContent),
})"""
FINISHED = """new Promise((done) => {
  const look = setInterval(() => {
    if (!document.querySelector("figcaption").textContent.includes("Done")) return;
    clearInterval(look); done();
  }, 50);
})"""


@pytest.mark.parametrize("width", WIDTHS)
def test_a_network_trains_by_levels_to_the_end(width, shown):
    page = shown("train", width, seed=2)
    start = page.evaluate(TRAINED)
    assert "on 5 intervals" in start["text"]
    click(page, "Start")
    page.evaluate(FINISHED)
    end = page.evaluate(TRAINED)
    assert "on 40 intervals" in end["text"]
    assert end["network"] != start["network"]
    assert sum(end["bands"]) < sum(start["bands"]) / 2
    click(page, "Reset")
    assert page.evaluate(TRAINED)["runs"][0].startswith("Gauss–Newton, by levels, rough start")
    assert page.evaluate(TRAINED)["network"] == start["network"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_step_of_training_and_a_pause(shown):
    page = shown("train", seed=2)
    start = page.evaluate(TRAINED)["network"]
    click(page, "Step")
    once = page.evaluate(TRAINED)["network"]
    assert once != start
    click(page, "gradient, spline weights")
    assert page.evaluate(TRAINED)["network"] == start
    click(page, "Start")
    page.evaluate("new Promise((done) => setTimeout(done, 500))")
    click(page, "Pause")
    paused = page.evaluate(TRAINED)["network"]
    assert paused not in (start, once)
    page.evaluate("new Promise((done) => setTimeout(done, 300))")
    assert page.evaluate(TRAINED)["network"] == paused


def test_a_prolonged_start_is_the_coarse_function(shown):
    page = shown("train", seed=2)
    coarse = page.evaluate(TRAINED)["network"]
    click(page, "40 at once")
    assert page.evaluate(TRAINED)["network"] != coarse
    click(page, "prolonged")
    fine = page.evaluate(TRAINED)
    assert (fine["network"], "on 40 intervals" in fine["text"]) == (coarse, True)


BANDS = """(() => {
  const tops = [...document.querySelectorAll(".band")].map((bar) => Number(bar.getAttribute("y")));
  const whole = [...document.querySelectorAll(".whole")].map((l) => Number(l.getAttribute("y1")));
  const [unit, low] = [...document.querySelectorAll("[aria-label^=Error] > line:not(.whole)")]
    .map((l) => Number(l.getAttribute("y1"))).sort((a, b) => a - b);
  return tops.map((top, b) => (whole[b] - top) / (low - unit) * 2);
})()"""
"""Decades of the error of each band above the target's; lines are two decades apart."""


@pytest.mark.parametrize("start", ["small", "rough"])
def test_in_relu_weights_only_the_longest_waves_fall_in_spline_weights_all_that_are_resolved(
    start, shown
):
    page, left = shown("train", seed=2), {}
    for name in ("one spline", "40 at once", start):
        click(page, name)
    for basis in ("spline", "ReLU"):
        click(page, f"gradient, {basis} weights")
        click(page, "Start")
        page.evaluate(FINISHED)
        left[basis] = page.evaluate(BANDS)
    resolved = 5  # half waves 1 to 31, on 40 intervals
    assert max(left["spline"][:resolved]) < -2
    assert left["ReLU"][0] < -0.3
    assert min(left["ReLU"][2:resolved]) > -0.3
