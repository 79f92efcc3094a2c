"""The paper's problems, one a module: data or PDE, loss, and what the error is measured against.

A PDE problem offers ``residuals(model)``, the residuals of each term of the loss by name, the
``weights`` of these terms, and ``error(model)``. It is stated for jets (see
:mod:`kanlib.derivatives`), so that an exact solution can be put into it like a network.
"""

from torch import Tensor


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return |value - reference| / |reference| in the Euclidean norm."""
    return float((value - reference).norm() / reference.norm())
