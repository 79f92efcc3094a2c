"""The gallery: equations solved by short programs, one a module, each to be copied and run.

A module has a box, a reference and ``solve``. The record ``book/results/gallery.json`` keeps how
well each did; ``python -m kanbook.gallery``, in the folder ``book``, computes what it lacks.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from kanlib.paper.records import RESULTS, RecordedRun

RECORD = RESULTS / "gallery.json"
#: Errors are measured on a grid of this many points along each coordinate.
POINTS = 101


@dataclass(frozen=True)
class Example:
    """An equation of the gallery.

    Attributes:
        name: name of its module.
        title: what the page calls it.
        target: the relative error that was aimed at.
        outputs: what the network gives.
    """

    name: str
    title: str
    target: float
    outputs: tuple[str, ...] = ("u",)

    @property
    def module(self) -> ModuleType:
        """The module."""
        return importlib.import_module(f"{__name__}.{self.name}")

    @property
    def settings(self) -> dict[str, Any]:
        """The defaults of ``solve``: numbers of starts, epochs and points."""
        parameters = inspect.signature(self.module.solve).parameters
        return {name: parameter.default for name, parameter in parameters.items()}

    @property
    def inputs(self) -> Callable[[Tensor], Tensor] | None:
        """What the network sees of points, if not the coordinates."""
        return getattr(self.module, "inputs", None)

    def grid(self, points: int = POINTS) -> Tensor:
        """Return a grid of points (points ** 2, 2) over the box."""
        ends = self.module.BOX
        axes = [torch.linspace(a, b, points, dtype=torch.float64, device="cpu") for a, b in ends]
        return torch.cartesian_prod(*axes)

    @torch.no_grad()
    def errors(self, model: nn.Module) -> dict[str, float]:
        """Return the relative L2 error of all outputs, and of each if there are several.

        A module that is compared at some points only has ``errors`` of its own.
        """
        if hasattr(self.module, "errors"):
            own: dict[str, float] = self.module.errors(model)
            return own
        x = self.grid()
        exact = self.module.reference(x)
        off = model(x if self.inputs is None else self.inputs(x)) - exact
        found = {"error": float(off.norm() / exact.norm())}
        if len(self.outputs) > 1:
            each = (off.norm(dim=0) / exact.norm(dim=0)).tolist()
            found |= {
                f"error {name}": value for name, value in zip(self.outputs, each, strict=True)
            }
        return found

    def network(self, run: RecordedRun) -> nn.Module:
        """Return the network of a recorded run."""
        ((n, weights),) = run.solutions.items()
        model = self.module.network()
        while model.n < n:
            model = model.refine()
        values = dict(zip(dict(model.named_parameters()), weights, strict=True))
        state = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        model.load_state_dict(state, strict=False)
        return model


EXAMPLES = [
    Example("kdv", "Korteweg–de Vries equation", 1e-4),
    Example("kuramoto_sivashinsky", "Kuramoto–Sivashinsky equation", 1e-4),
    Example("schrodinger", "Schrödinger's equation", 1e-4, ("u", "v")),
    Example("helmholtz", "Helmholtz equation", 1e-4),
    Example("plate", "Clamped plate", 1e-4),
    Example("dielectric", "Circular interface", 1e-4),
    Example("kovasznay", "Kovasznay's flow", 1e-4, ("u", "v", "p")),
    Example("cavity", "Lid-driven cavity", 1e-3, ("psi", "p")),
    Example("inverse_heat", "Inverse heat problem", 1e-3),
    Example("inverse_source", "Inverse source problem", 1e-3, ("u", "s")),
]
