"""Other libraries, computing the function of a given KAN with its weights.

Each entry of :data:`TORCH` returns a module. jaxKAN brings its own framework and returns a step.
A library that is not installed, or does not run, raises; the benchmark reports that and goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks import DOMAIN
from kanlib import KAN

PACKAGES = ("inkan", "pykan", "jaxkan")


def inkan(model: KAN, compile_basis: bool = False) -> nn.Module:
    """Return the network of inkan, its residual branch at zero."""
    from inkan import KANNetwork

    peer = KANNetwork(model.widths, model.n, grid_range=DOMAIN, compile_basis=compile_basis)
    with torch.no_grad():
        for theirs, ours in zip(peer.layers, model.spline_layers, strict=True):
            theirs.weight.zero_()
            theirs.spline_weight.copy_(ours.weight)
    return peer


def pykan(model: KAN) -> nn.Module:
    """Return the network of pykan in its fastest mode, its residual branch at zero."""
    import kan

    peer = kan.KAN(
        width=[*model.widths],
        grid=model.n,
        k=3,
        grid_range=[*DOMAIN],
        auto_save=False,
        symbolic_enabled=False,
        save_act=False,
    ).speed()
    _copy_weights(model, peer)
    return peer


def pykan_refinement(model: KAN, x: Tensor) -> tuple[nn.Module, Callable[[], nn.Module]]:
    """Return pykan's network, and what refines it to twice the intervals, from samples.

    This is its ``refine`` without the files that it writes.
    """
    import kan

    def network(n: int) -> nn.Module:
        options = {"grid": n, "k": 3, "grid_range": [*DOMAIN], "auto_save": False}
        return kan.KAN(width=[*model.widths], symbolic_enabled=False, **options)

    coarse = network(model.n)
    _copy_weights(model, coarse)

    def refine() -> nn.Module:
        return network(2 * model.n).initialize_from_another_model(coarse, x)

    return coarse, refine


def _copy_weights(model: KAN, peer: Any) -> None:
    with torch.no_grad():
        for theirs, ours in zip(peer.act_fun, model.spline_layers, strict=True):
            theirs.coef.copy_(ours.weight.permute(1, 0, 2))
            theirs.scale_sp.fill_(1.0)
            theirs.scale_base.zero_()


TORCH = {"inkan": inkan, "pykan": pykan}


class JaxKAN:
    """The network of jaxKAN under jax.jit, on as many threads as torch uses."""

    def __init__(self, model: KAN, x: Tensor, y: Tensor) -> None:
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(allowed)[: torch.get_num_threads()])
        try:  # the threads of jax are as many as there are processors when it starts
            import jax

            jax.devices()
        finally:
            os.sched_setaffinity(0, allowed)
        from flax import nnx
        from jax import numpy as jnp
        from jaxkan.models.KAN import KAN as Network

        options = {"k": 3, "G": model.n, "grid_range": DOMAIN}
        self.network = Network(model.widths, "spline", options)
        for theirs, ours in zip(self.network.layers, model.spline_layers, strict=True):
            theirs.c_basis[...] = jnp.asarray(ours.weight.detach().numpy())
            theirs.c_res[...] = jnp.zeros_like(theirs.c_res[...])
        self.x, self.y = jnp.asarray(x.numpy()), jnp.asarray(y.numpy())

        def loss(network: Any, x: Any, y: Any) -> Any:
            return ((network(x) - y) ** 2).mean()

        self._gradient: Callable[..., Any] = nnx.jit(nnx.value_and_grad(loss))
        self._wait: Callable[[Any], Any] = jax.block_until_ready

    def outputs(self) -> Tensor:
        """Return the network's values."""
        return torch.tensor(self.network(self.x).tolist())

    def step(self) -> object:
        """Run forward and backward."""
        return self._wait(self._gradient(self.network, self.x, self.y))
