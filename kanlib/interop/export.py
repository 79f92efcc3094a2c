"""Trained networks for other programs: plain NumPy, splines of SciPy, ONNX.

``torch.export.export(model, (x,))`` needs nothing of this: its program holds plain operators of
PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kanlib._checks import as_integer, shown
from kanlib.interop import plain
from kanlib.interop.branches import BranchedLayer
from kanlib.nn.described import alteration
from kanlib.nn.jets import Jet, propagate
from kanlib.nn.maps import InputMap, Normalisation
from kanlib.nn.networks import KAN, MLP
from kanlib.nn.spline_layer import MODULES, SplineLayer, convert_weights

if TYPE_CHECKING:
    from scipy.interpolate import BSpline

__all__ = ["to_bspline", "to_numpy", "to_onnx"]

Layer = tuple[str, dict[str, Any]]
REACH = {"linear": 1, "clamp": 0, "none": -1}


def to_numpy(model: nn.Module, file: str | Path) -> None:
    """Write a network as ``file``, its numbers, and a program of plain NumPy that evaluates it.

    The program is under a hundred lines, has the name of ``file`` with the ending .py and needs
    neither torch nor kanlib. It computes in float64.

    Args:
        model: a KAN, MLP, or nn.Sequential of layers that these have, without periodic coordinates,
            hard conditions and GELU.
        file: path of the .npz file to write.

    Raises:
        TypeError: if a layer is of another kind, or altered by hooks or an overridden forward.
        ValueError: if ``file`` does not end in .npz.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> to_numpy(KAN([2, 5, 1]), folder / "network.npz")
        >>> network = plain.Network(folder / "network.npz")  # or from network.py beside it
        >>> network(np.zeros((3, 2))).shape
        (3, 1)
    """
    if not isinstance(file, str | Path) or Path(file).suffix != ".npz":
        raise ValueError(f"file must be a path that ends in .npz, got {shown(file)}")
    arrays: dict[str, Any] = {}
    for number, (kind, numbers) in enumerate(_chain(model)):
        for name, value in numbers.items():
            array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
            arrays[f"{number}.{kind}.{name}"] = np.asarray(array, dtype=np.float64)
    np.savez(file, **arrays)
    Path(file).with_suffix(".py").write_bytes(Path(plain.__file__).read_bytes())


def to_bspline(layer: SplineLayer, output: int, input: int) -> BSpline:
    """Return the spline of an edge as an object of SciPy, on the domain of the layer.

    Outside it is NaN, while the layer continues as its ``extension`` says; a periodic one is
    periodic.

    Args:
        layer: a spline layer, of either basis, with fixed or free knots.
        output: the unit q that the edge leads to.
        input: the unit p that it comes from.

    Raises:
        TypeError: if ``layer`` is no spline layer or an index no integer.
        ValueError: if there is no such edge.

    Examples:
        >>> model = KAN([2, 5, 1], dtype=torch.float64)
        >>> spline = to_bspline(model.layers[0], output=3, input=1)
        >>> spline.derivative()(0.5).shape
        ()
    """
    from scipy.interpolate import BSpline

    if not isinstance(layer, SplineLayer):
        raise TypeError(
            f"layer must be a SplineLayer, such as one of model.spline_layers, got {shown(layer)}"
        )
    q = as_integer("output", output, 0, layer.out_features - 1)
    p = as_integer("input", input, 0, layer.in_features - 1)
    grid = layer.grids[p]
    weight = layer.coefficients()[q, p].detach().cpu().double()
    weight = convert_weights(weight, grid, layer.basis, "spline")
    beyond: Any = "periodic" if grid.periodic else False
    return BSpline(grid.knots.numpy(), weight.numpy(), grid.order - 1, extrapolate=beyond)


def to_onnx(model: nn.Module, file: str | Path, inputs: int, *, derivatives: bool = False) -> None:
    """Write a network as an ONNX model, for any number of points.

    It has the input "x" (N, P) and the output "y" (N, Q), and with ``derivatives`` also "dy_dx"
    (N, Q, P), all in the dtype of the network.

    Args:
        model: a network of P inputs.
        file: path to write to.
        inputs: number P of inputs.
        derivatives: whether to give first derivatives, too.

    Raises:
        ModuleNotFoundError: if onnx or onnxscript is missing (``pip install kanlib[interop]``).
        TypeError: if ``model`` is no module.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "network.onnx"
        >>> to_onnx(KAN([2, 5, 1]), file, inputs=2)
        >>> file.exists()
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {shown(model)}")
    like = next((p for p in model.parameters()), torch.empty(0))
    x = torch.zeros(
        2, as_integer("inputs", inputs, minimum=1), device=like.device, dtype=like.dtype
    )
    torch.onnx.export(
        _WithDerivatives(model).eval() if derivatives else model.eval(),
        (x,),
        Path(file),
        input_names=["x"],
        output_names=["y", "dy_dx"][: 1 + derivatives],
        dynamic_shapes=({0: torch.export.Dim("points")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


class _WithDerivatives(nn.Module):
    """The values (N, Q) of a network and their derivatives (N, Q, P)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        jet = propagate(self.model, Jet.at(x))
        return jet.value, torch.stack([jet.d(a) for a in range(x.shape[1])], dim=2)


def _chain(module: nn.Module) -> Iterator[Layer]:
    """Yield the layers of a network as :mod:`kanlib.interop.plain` has them."""
    altered = alteration(module) if isinstance(module, nn.Module) else ""
    if not altered:
        for known in (KAN, MLP, nn.Sequential, SplineLayer, nn.Linear):
            altered = altered or (isinstance(module, known) and alteration(module, known)) or ""
    if altered:
        raise TypeError(
            f"model must consist of plain layers, but {type(module).__name__} has {altered}: leave "
            "that out, or use to_onnx"
        )
    yield from _layers(module)


@singledispatch
def _layers(module: Any) -> Iterator[Layer]:
    raise TypeError(
        "model must be a KAN, an MLP or an nn.Sequential of their layers for plain NumPy, got "
        f"{type(module).__name__}: use to_onnx"
    )


@_layers.register
def _(module: KAN) -> Iterator[Layer]:
    for layer in module.layers:
        yield from _chain(layer)


@_layers.register
def _(module: MLP) -> Iterator[Layer]:
    yield from _chain(module.layers)


@_layers.register
def _(module: nn.Sequential) -> Iterator[Layer]:
    for layer in module:
        yield from _chain(layer)


@_layers.register
def _(module: nn.Identity) -> Iterator[Layer]:
    yield from ()


@_layers.register
def _(module: nn.Linear) -> Iterator[Layer]:
    bias = torch.zeros(len(module.weight)) if module.bias is None else module.bias
    yield "linear", {"weight": module.weight, "bias": bias}


@_layers.register
def _(module: InputMap) -> Iterator[Layer]:
    low, high = np.array(module.intervals).T
    a, b = module.domain
    slope = (b - a) / (high - low)
    yield "linear", {"weight": np.diag(slope), "bias": a - slope * low}


@_layers.register
def _(module: Normalisation) -> Iterator[Layer]:
    yield _kind(module.activation), {"scale": module.scale, "shift": module.shift}


@_layers.register(nn.ReLU)
@_layers.register(nn.Sigmoid)
@_layers.register(nn.SiLU)
@_layers.register(nn.Tanh)
def _(module: nn.Module) -> Iterator[Layer]:
    yield _kind(module), {"scale": 1.0, "shift": 0.0}


def _kind(module: nn.Module) -> str:
    return type(module).__name__.lower()


@_layers.register
def _(module: SplineLayer) -> Iterator[Layer]:
    if module.periodic:
        raise TypeError("model must have no periodic splines for plain NumPy: use to_onnx")
    basis, grids = MODULES[module.basis], module.grids
    tables = [basis.pieces(grid).expand(grid.n, -1, -1) for grid in grids]
    yield (
        "splines",
        {
            "breakpoints": torch.stack([grid.breakpoints for grid in grids]),
            "coefficients": basis.polynomials(
                module.coefficients().detach().cpu().double(), torch.stack(tables)
            ),
            "reach": REACH[module.extension],
        },
    )


@_layers.register
def _(module: BranchedLayer) -> Iterator[Layer]:
    if not isinstance(module.activation, nn.SiLU):
        raise TypeError("model must have SiLU beside its splines for plain NumPy: use to_onnx")
    ((_, numbers),) = _chain(module.splines)
    if isinstance(module.map, InputMap):  # the polynomials stay, on intervals that are mapped back
        (a, b), (low, high) = module.map.domain, np.array(module.map.intervals).T[..., None]
        share = (numbers["breakpoints"].numpy() - a) / (b - a)
        numbers["breakpoints"] = low * (1 - share) + high * share
    elif not isinstance(module.map, nn.Identity):
        raise TypeError(
            f"model must have no {type(module.map).__name__} before splines for plain NumPy: use "
            "to_onnx"
        )
    yield "branched", {**numbers, "weight": module.base.weight, "bias": module.base.bias}
