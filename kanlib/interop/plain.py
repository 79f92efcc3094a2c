"""A trained network in plain NumPy: this file and an .npz of its numbers is all it takes.

With ``network = Network("network.npz")``, ``network(x)`` has the values (N, Q) at points (N, P) and
``network.jacobian(x)`` these and the derivatives (N, Q, P). It is free to use and to change.
"""

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Pair = tuple[Array, Array]


class Network:
    """A chain of layers, read from a file of arrays "layer.kind.name"."""

    def __init__(self, file: str) -> None:
        found: dict[tuple[int, str], dict[str, Array]] = {}
        with np.load(file, allow_pickle=False) as stored:
            for key in stored.files:
                number, kind, name = key.split(".")
                found.setdefault((int(number), kind), {})[name] = stored[key]
        self.layers = [(kind, found[number, kind]) for number, kind in sorted(found)]

    def __call__(self, x: Array) -> Array:
        """Return the values (N, Q) at points (N, P)."""
        return self.jacobian(x)[0]

    def jacobian(self, x: Array) -> Pair:
        """Return the values (N, Q) and their derivatives (N, Q, P) at points (N, P)."""
        slope = np.broadcast_to(np.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
        for kind, numbers in self.layers:
            x, slope = RULES[kind](x, slope, **numbers)
        return x, slope


def linear(x: Array, slope: Array, weight: Array, bias: Array) -> Pair:
    """Map by a matrix (Q, P) and a bias (Q,)."""
    return x @ weight.T + bias, weight @ slope


def pointwise(function: Callable[[Array], Pair]) -> Callable[..., Pair]:
    """Return the rule of a function of entries that gives values and derivatives."""

    def rule(x: Array, slope: Array, scale: Array, shift: Array) -> Pair:
        y, dy = function(x)
        return scale * y + shift, (scale * dy)[..., None] * slope

    return rule


def splines(x: Array, slope: Array, breakpoints: Array, coefficients: Array, reach: Array) -> Pair:
    """Sum splines with breakpoints (P, n + 1), on interval m sum_k coefficients[q, p, m, k] v**k.

    There v is from 0 to 1; outside they are linear (reach 1), constant (0) or zero (-1).
    """
    y, rates, k = np.zeros((len(x), len(coefficients))), [], np.arange(coefficients.shape[-1])
    for p, t in enumerate(breakpoints):
        inside = np.clip(x[:, p], t[0], t[-1])
        outside = (x[:, p] - inside)[:, None]
        m = np.clip(np.searchsorted(t, inside, side="right") - 1, 0, len(t) - 2)
        width = (t[m + 1] - t[m])[:, None]
        v = (inside - t[m])[:, None] / width
        value = np.einsum("qnk,nk->nq", coefficients[:, p, m], v**k)
        powers = k * v ** np.maximum(k - 1, 0) / width
        rate = np.einsum("qnk,nk->nq", coefficients[:, p, m], powers)
        y = y + np.where((outside != 0) & (reach < 0), 0.0, value + (reach > 0) * rate * outside)
        rates.append(np.where((outside != 0) & (reach < 1), 0.0, rate))
    return y, np.stack(rates, axis=2) @ slope


def sigmoid(z: Array) -> Pair:
    """Return 1 / (1 + exp(-z)) and its derivative."""
    y = 0.5 + 0.5 * np.tanh(0.5 * z)
    return y, y * (1 - y)


def silu(z: Array) -> Pair:
    """Return z / (1 + exp(-z)) and its derivative."""
    y, dy = sigmoid(z)
    return z * y, y + z * dy


def branched(x: Array, slope: Array, weight: Array, bias: Array, **numbers: Array) -> Pair:
    """Add to splines a linear map of silu(x)."""
    (y, dy), (z, dz) = splines(x, slope, **numbers), silu(x)
    return y + z @ weight.T + bias, dy + weight @ (dz[..., None] * slope)


RULES: dict[str, Callable[..., Pair]] = {"linear": linear, "splines": splines, "branched": branched}
RULES |= {"sigmoid": pointwise(sigmoid), "silu": pointwise(silu)}
RULES["tanh"] = pointwise(lambda z: (np.tanh(z), 1 - np.tanh(z) ** 2))
RULES["relu"] = pointwise(lambda z: (np.maximum(z, 0), (z > 0).astype(z.dtype)))
