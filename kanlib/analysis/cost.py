"""What a spline layer costs: five ways to evaluate it, counted, timed and compared (section 2.3).

"one by one"   the recursion as it is written (eq. 2): each B-spline calls its two parents;
"cox-de boor"  the recursion level by level, all B-splines at once;
"relu, A b"    truncated powers (eq. 3), then A applied to their values at every point;
"relu, A w"    truncated powers, and A folded into the weights, w = A^T u, once a batch;
"local"        the layer itself: only the r polynomials of the interval that holds a point.

All evaluate the same layer with the same weights, in plain PyTorch; on the CPU the fused kernels of
``kanlib.kernels.operator`` do the local evaluation faster. Operations are counted as PyTorch
executes them, also backward; seconds are measured for all methods in turn, in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kanlib._checks import Basis, as_integer, check_input, check_types
from kanlib.kernels import operator, reference
from kanlib.nn.spline_layer import MODULES, SplineLayer, convert_weights
from kanlib.splines import bspline, truncated_power
from kanlib.splines.change_of_basis import ChangeOfBasis
from kanlib.splines.knots import KnotGrid

__all__ = [
    "Operations",
    "count_operations",
    "evaluate",
    "float32_error",
    "measure",
    "one_by_one",
    "step",
]

#: The ways to evaluate a layer whose cost is counted.
Method = Literal["one by one", "cox-de boor", "relu, A b", "relu, A w", "local"]
METHODS: tuple[Method, ...] = get_args(Method)


def one_by_one(x: Tensor, grid: KnotGrid) -> Tensor:
    """Evaluate the B-splines by the recursion (eq. 2), each on its own and nothing shared.

    A B-spline of order r takes 2**r - 1 evaluations of lower or equal order.

    Args:
        x: points of shape (...) in [a, b).
        grid: the knot grid.

    Returns:
        Values of shape (..., n + r - 1).

    Examples:
        >>> one_by_one(torch.tensor([0.25]), KnotGrid.uniform(2, 2))
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    check_types(one_by_one, locals())
    t = grid.knots.tolist()

    def b(i: int, r: int) -> Tensor:
        if r == 1:
            return ((x >= t[i]) & (x < t[i + 1])).to(x)
        rising = (x - t[i]) / (t[i + r - 1] - t[i]) * b(i, r - 1)
        falling = (t[i + r] - x) / (t[i + r] - t[i + 1]) * b(i + 1, r - 1)
        return rising + falling

    return torch.stack([b(i, grid.order) for i in range(grid.num_basis)], dim=-1)


def evaluate(layer: SplineLayer, x: Tensor, method: Method = "local") -> Tensor:
    """Evaluate a layer at points of its domain by one of ``METHODS``.

    Weights in the other basis than that of the method are converted first, once for all points.

    Args:
        layer: the layer, its weights in either basis.
        x: points of shape (..., P) in [a, b).
        method: one of ``METHODS``.

    Returns:
        Values of shape (..., Q).

    Raises:
        ValueError: if ``method`` is unknown.

    Examples:
        >>> layer = SplineLayer(2, 3, KnotGrid.uniform(4, 8), dtype=torch.float64)
        >>> x = torch.rand(5, 2, dtype=torch.float64)
        >>> all(torch.allclose(evaluate(layer, x, method), layer(x)) for method in METHODS)
        True
    """
    check_types(evaluate, locals())
    check_input(x, layer.in_features, layer.weight)
    grid, weight = layer.grid, layer.coefficients()
    if grid.periodic:
        x = layer.entering(x[None])[0]
    if method == "local":
        (points,), table = layer.pieces()
        index, powers = reference.power_jets(x[None], points, grid.order, (), layer.extension)
        coefficients = MODULES[layer.basis].polynomials(weight, table)
        return reference.by_intervals(index, powers, coefficients)[0]
    if method == "one by one":
        values = one_by_one(x, grid)
    elif method == "cox-de boor":
        values = bspline.cox_de_boor(x, grid)
    else:
        values = truncated_power.dense_basis(x, grid, extension="clamp")
    if method == "relu, A b":
        values = ChangeOfBasis(grid).apply(values)
    basis: Basis = "relu" if method == "relu, A w" else "spline"
    weight = convert_weights(weight, grid, layer.basis, basis)
    return values.flatten(-2) @ weight.flatten(1).T


def step(layers: Sequence[SplineLayer], x: Tensor, method: Method = "local") -> Tensor:
    """Run a network forward and backward: gradients of its summed outputs in all weights.

    Between layers a sigmoid maps back to (0, 1), so that all methods compute the same function.

    Args:
        layers: spline layers on [0, 1].
        x: points of shape (..., P) in [0, 1).
        method: one of ``METHODS``.

    Returns:
        Outputs of shape (..., Q).

    Examples:
        >>> grid = KnotGrid.uniform(4, 8)
        >>> layers = [SplineLayer(2, 3, grid), SplineLayer(3, 1, grid)]
        >>> step(layers, torch.rand(5, 2)).shape
        torch.Size([5, 1])
        >>> layers[0].weight.grad.shape
        torch.Size([3, 2, 11])
    """
    check_types(step, locals())
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    for layer in layers:
        layer.weight.grad = None
    for i, layer in enumerate(layers):
        x = evaluate(layer, torch.sigmoid(x) if i else x, method)
    x.sum().backward()
    return x.detach()


class Operations(NamedTuple):
    """Operations that PyTorch executed.

    Attributes:
        elementwise: one for each element of an elementwise result, and of what is summed.
        products: 2mnk for the product of an (m, n) and an (n, k) matrix.
        moved: elements written by copies, look-ups, searches and fills.
        launches: calls of a kernel; views are free.

    Examples:
        >>> a = torch.rand(2, 3, dtype=torch.float64)
        >>> count_operations(lambda: a @ a.T).products
        24
    """

    elementwise: int
    products: int
    moved: int
    launches: int


class _Counter(TorchDispatchMode):
    """Count every operation below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.elementwise = self.products = self.moved = self.launches = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet, aten = func.overloadpacket, torch.ops.aten
        if func.is_view or packet is aten._unsafe_view:
            return out
        self.launches += 1
        if packet in flop_registry:
            self.products += flop_registry[packet](*args, **kwargs, out_val=out)
        elif packet in (aten.sum, aten.cumsum):
            self.elementwise += args[0].numel()
        elif packet is aten.index_add:
            self.elementwise += args[3].numel()
        elif torch.Tag.pointwise in func.tags and packet is not aten.clone:
            self.elementwise += out.numel()
        else:
            self.moved += out.numel()
        return out


def count_operations(function: Callable[[], object]) -> Operations:
    """Call a function and count the operations that PyTorch executes, also in backward passes.

    Layers are evaluated by their reference back end: a fused kernel would hide its operations.

    Args:
        function: called once without arguments.

    Returns:
        The counts.

    Examples:
        >>> a, b = torch.rand(2, 3), torch.rand(3, 4)
        >>> count_operations(lambda: torch.relu(a @ b).sum())
        Operations(elementwise=16, products=48, moved=0, launches=3)
    """
    check_types(count_operations, locals())
    with operator.backend("torch"), _Counter() as counter:
        function()
    return Operations(counter.elementwise, counter.products, counter.moved, counter.launches)


def measure(
    functions: Mapping[str, Callable[[], object]], repeats: int = 10
) -> dict[str, list[float]]:
    """Measure the wall time of some functions side by side.

    The functions take turns, so that a disturbance of the machine hits them alike; a first round
    is not counted, and the device is waited for.

    Args:
        functions: called without arguments, by name.
        repeats: rounds that count, at least 1.

    Returns:
        Seconds of every round, by name.

    Raises:
        TypeError: if ``repeats`` is not an integer.
        ValueError: if ``repeats`` is below 1.

    Examples:
        >>> found = measure({"sum": lambda: sum(range(10)), "nothing": lambda: None}, repeats=3)
        >>> {name: len(seconds) for name, seconds in found.items()}
        {'sum': 3, 'nothing': 3}
    """
    check_types(measure, locals())
    repeats = as_integer("repeats", repeats, minimum=1)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            _synchronise()
            start = time.perf_counter()
            function()
            _synchronise()
            seconds[name].append(time.perf_counter() - start)
    return {name: rounds[1:] for name, rounds in seconds.items()}


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def float32_error(
    grid: KnotGrid, method: Method, basis: Basis = "spline", points: int = 1000
) -> float:
    """Return the largest error of a B-spline of the grid, evaluated in float32.

    The B-splines are the outputs of a layer with one input and unit spline weights.

    Args:
        grid: the knot grid.
        method: one of ``METHODS``.
        basis: the basis in which the layer stores its weights, "spline" or "relu".
        points: number of points, spread evenly over [a, b].

    Returns:
        The largest difference to float64 arithmetic at the same points.

    Examples:
        >>> grid = KnotGrid.uniform(4, 40)
        >>> float32_error(grid, "local") < 1e-6
        True
        >>> float32_error(grid, "relu, A b") > 1e-3
        True
    """
    check_types(float32_error, locals())
    points = as_integer("points", points, minimum=1)
    a, b = grid.domain
    x = (
        a
        + (b - a)
        * (torch.arange(points, dtype=torch.float64, device="cpu")[:, None] + 0.5)
        / points
    )
    x = x.float()
    layer = SplineLayer(1, grid.num_basis, grid, device="cpu", dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(grid.num_basis, device="cpu")[:, None])
        exact = layer(x.double())
        rounded = evaluate(layer.to_basis(basis).float(), x, method)
    return float((rounded - exact).abs().max())
