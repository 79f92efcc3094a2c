"""The paper's problems, one a module: data or PDE, loss, and what the error is measured against.

A PDE problem offers ``residuals(model)``, the residuals of each term of the loss by name, the
``weights`` of these terms, and ``error(model)``. It is stated for jets (see
:mod:`kanlib.nn.jets`), so that an exact solution can be put into it like a network.
"""

from torch import Tensor

from kanlib._checks import as_integer


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return |value - reference| / |reference| in the Euclidean norm.

    Raises:
        ValueError: if the shapes differ, which would compare all values with all others.
    """
    if value.shape != reference.shape:
        raise ValueError(
            f"value must have the shape {tuple(reference.shape)} of the reference, got "
            f"{tuple(value.shape)}: the model must have one output"
        )
    return float((value - reference).norm() / reference.norm())


def as_seed(seed: int) -> int:
    """Return a seed as an int, or raise unless it is an integer from 0 to 2**62."""
    return as_integer("seed", seed, 0, 2**62)
