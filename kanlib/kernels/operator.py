"""The operation behind every spline layer, and the choice between its back ends.

"torch" is the reference, ``kanlib.kernels.reference.evaluate``. "numba" is a fused kernel for
the CPU (``pip install kanlib[fast]``): it works on one point and one edge after the other, so that
nothing but the inputs and outputs goes through memory. "triton" is the same for CUDA devices;
Triton comes with PyTorch's builds for them on Linux. Both are registered as the operators
``kanlib::splines`` and ``kanlib::splines_backward``: autograd, vmap and torch.compile see an
ordinary operator. Second derivatives of its gradients go through the reference, and so do
transformations of torch.func other than vmap. So does torch.export, whose programs hold plain
operators of PyTorch, and run where kanlib is not.

Layers compute in the dtype of their weights, and in float32 where that is half precision or
torch.autocast lowers it. The fused kernels never use TF32. In the reference,
``torch.backends.cuda.matmul.allow_tf32`` and ``torch.set_float32_matmul_precision`` decide, which
kanlib does not touch. "numba" gives the same bits for any number of threads. "triton" adds up the
gradient in the weights in any order, or after ``torch.use_deterministic_algorithms(True)`` in a
fixed one, see ``kanlib.kernels.gpu_triton``.

The GPU kernels are compared with the reference on the CPU, by Triton's interpreter, and compiled
for compute capability 8.0. They have not been run or timed on a GPU yet, and run only where
``backend("triton")`` asks for them.
"""

from __future__ import annotations

import functools
import importlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kanlib._checks import autocast_dtype, check_option
from kanlib.kernels import reference
from kanlib.kernels.chain_rule import HIGHEST, Higher, flattened, unflattened
from kanlib.kernels.interrupts import deferred
from kanlib.kernels.reference import Splines

__all__ = ["backend", "has_numba", "has_triton"]

BACKENDS = ("auto", "torch", "numba", "triton")
#: The package that each fused back end needs, and how to get it.
PACKAGES = {
    "numba": "pip install kanlib[fast]",
    "triton": "it comes with PyTorch for CUDA on Linux, or by itself: pip install triton",
}
#: The choices by which each kind of device takes its fused kernels, and the types these know.
CHOICES = {"cpu": ("auto", "numba"), "cuda": ("triton",)}
DTYPES = (torch.float32, torch.float64)
#: The highest order of derivatives that they propagate.
ORDERS = {"cpu": HIGHEST, "cuda": 2}
_log = logging.getLogger(__name__)


class _Choice(threading.local):
    """The back end that a thread has chosen."""

    def __init__(self) -> None:
        self.name = "auto"  # torch.compile guards what is in the instance, and not in the class


_choice = _Choice()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the back end of spline layers and Jacobians within a ``with`` block of this thread.

    "auto", the default, takes the fused kernel for the CPU where it can be used, and elsewhere the
    reference; so does "numba", which raises where it cannot. "triton" takes the fused kernel for
    tensors on CUDA devices. All else goes through the reference, "torch".

    Args:
        name: "auto", "torch", "numba" or "triton".

    Raises:
        ValueError: if ``name`` is unknown.
        ModuleNotFoundError: if it is "numba" or "triton" and that is not installed.
        RuntimeError: if that is installed and cannot be used here.

    Examples:
        >>> from kanlib import KAN
        >>> with backend("torch"):
        ...     KAN([2, 5, 1])(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """
    check_option("name", name, BACKENDS)
    if name in PACKAGES:
        _require(name)
    before, _choice.name = _choice.name, name
    try:
        yield
    finally:
        _choice.name = before


def _require(name: str) -> None:
    """Raise unless a fused back end can be used."""
    device = "cpu" if name == "numba" else "cuda"
    obstacle = _obstacle(device, torch.float32)
    if obstacle is not None and _is_missing(obstacle):
        raise ModuleNotFoundError(f"backend {name!r} needs {name}: {PACKAGES[name]}")
    if obstacle is not None:
        raise RuntimeError(
            f"backend {name!r} cannot be used, {_text(obstacle)}: mend the installation of "
            f"{name}, or choose 'torch'"
        ) from obstacle
    if name == "triton" and not torch.cuda.is_available():
        raise RuntimeError("backend 'triton' needs a CUDA device, and there is none: choose 'auto'")


def has_numba() -> bool:
    """Return whether the fused kernels for the CPU can be used.

    Examples:
        >>> from kanlib import KAN
        >>> with backend("numba" if has_numba() else "torch"):
        ...     KAN([2, 5, 1])(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """
    return _usable("cpu", torch.float32)


def has_triton() -> bool:
    """Return whether the fused kernels for CUDA devices are installed.

    Examples:
        >>> from kanlib import KAN
        >>> with backend("triton" if has_triton() and torch.cuda.is_available() else "torch"):
        ...     KAN([2, 5, 1])(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """
    return _usable("cuda", torch.float32)


@functools.cache
def _obstacle(device: str, dtype: torch.dtype) -> Exception | None:
    """Return why the fused kernels of a device cannot be used, or None; what is wrong is told once.

    Those of the CPU are compiled, or read from the cache, and run on one point.
    """
    obstacle: Exception | None = None
    try:
        with deferred():  # an interrupt would leave modules behind that are half imported
            launcher = _launcher(device)
        launcher.try_out(dtype)
    except Exception as error:
        obstacle = error
    if obstacle is not None and _is_missing(obstacle):
        _log.info("no fused kernels for %s, %s", device, _text(obstacle))
    elif obstacle is not None:
        warnings.warn(
            f"spline layers go through plain PyTorch, which is slower: the fused kernels for "
            f"{device} and {dtype} cannot be used, {_text(obstacle)}. Mend that and start anew, or "
            "choose kanlib.kernels.operator.backend('torch')",
            RuntimeWarning,
            stacklevel=2,
        )
    return obstacle


def _usable(device: str, dtype: torch.dtype) -> bool:
    """Return whether the fused kernels of a device can be used; a constant to torch.compile."""
    return _obstacle(device, dtype) is None


# So does torch.compiler.assume_constant_result, after an import that takes as long as torch's own.
_usable.__dict__["_dynamo_marked_constant"] = True


def _is_missing(obstacle: Exception) -> bool:
    """Return whether a fused back end is not installed, as opposed to broken."""
    return isinstance(obstacle, ModuleNotFoundError) and obstacle.name in PACKAGES


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


@functools.cache
def _launcher(device: str) -> Any:
    """Return the module that runs the fused kernels, imported at the first use."""
    return importlib.import_module(
        "kanlib.kernels.cpu" if device == "cpu" else "kanlib.kernels.gpu_triton"
    )


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which layers of a type compute: for half precision, single precision.

    Terms of a polynomial are far larger than its values where spacings are small.
    """
    return dtype if dtype.itemsize >= 4 else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which torch.autocast changes nothing on a device."""
    if autocast_dtype(device) is None:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def evaluate(z: Tensor, splines: Splines, higher: Higher = ()) -> Tensor:
    """Evaluate a layer of splines and propagate derivatives through it, by the chosen back end.

    Args:
        z: channels of the inputs, (C, ..., P), see :func:`kanlib.kernels.reference.evaluate`.
        splines: the splines of the layer.
        higher: the directions of each higher derivative.

    Returns:
        Channels of the outputs, (C, ..., Q).
    """
    if not _fits(z, max([1, *map(len, higher)])):
        return reference.evaluate(z, splines, higher)
    network = splines.mapped(lambda tensor: tensor[None])
    y: Tensor = fused(z.reshape(1, len(z), -1, z.shape[-1]), *network, flattened(higher))
    return y.view(*z.shape[:-1], len(splines.weight))


def _fits(z: Tensor, order: int) -> bool:
    """Return whether a fused kernel is to be used; if one could be and is not, the log says why."""
    device, known = z.device.type, z.dtype in DTYPES
    low = order <= ORDERS.get(device, 0)
    if _choice.name not in CHOICES.get(device, ()) or torch.compiler.is_exporting():
        return False
    if not _usable(device, z.dtype if known else torch.float32):
        return False
    if torch.compiler.is_compiling():
        return known and low
    others = _transformations() - {torch._C._functorch.TransformType.Vmap}
    if not known:
        _tell(f"they compute in float32 and float64, not in {z.dtype}")
    elif not low:
        _tell(f"those for {device} know no derivatives of order {order}")
    elif others:
        _tell(f"they have no rule for {', '.join(sorted(kind.name for kind in others))}")
    return known and low and not others


@functools.cache
def _tell(reason: str) -> None:
    """Log once why the reference does what fused kernels are there for."""
    _log.info("spline layers go through plain PyTorch, not through the fused kernels: %s", reason)


def differentiates(v: Tensor) -> bool:
    """Return whether derivatives in v may be asked for; transformations hide that from v."""
    return v.requires_grad or torch.compiler.is_compiling() or bool(_transformations())


def may_read(*tensors: Tensor) -> bool:
    """Return whether fused kernels for the CPU that are no operators of torch may read tensors.

    They are chosen, and know the types, and nothing differentiates or batches what they do.

    Args:
        tensors: contiguous tensors.
    """
    like = tensors[0]
    known = like.device.type == "cpu" and like.dtype in DTYPES
    plain = all(x.dtype == like.dtype and not x.requires_grad for x in tensors)
    chosen = _choice.name in CHOICES["cpu"]
    return known and plain and chosen and not differentiates(like) and has_numba()


def _transformations() -> set[Any]:
    """Return the kinds of the transformations of torch.func and of forward mode at work."""
    functorch = torch._C._functorch
    kinds = {level.key() for level in functorch.get_interpreter_stack() or []}
    if torch.autograd.forward_ad._current_level >= 0:
        kinds.add(functorch.TransformType.Jvp)
    return kinds


#: Operators take channels z (S, C, B, P) and splines of S networks, whose tensors come first,
#: then the options and the directions of the higher derivatives, flattened.
_GIVEN = (
    "Tensor z, Tensor weight, Tensor breakpoints, Tensor? table, bool uniform, str extension, "
    "int[] higher"
)
_TENSORS = 4


@torch.library.custom_op(
    "kanlib::splines", mutates_args=(), device_types="cpu", schema=f"({_GIVEN}) -> Tensor"
)
def fused(z: Tensor, *given: Any) -> Tensor:
    """Map channels z (S, C, B, P) by the splines of S networks to (S, C, B, Q)."""
    return _forward("cpu", z, *given)


@torch.library.custom_op(
    "kanlib::splines_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor grad, {_GIVEN}, bool to_z, bool to_weight) -> (Tensor, Tensor)",
)
def fused_backward(grad: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """Return the gradients in z and in the weights; those not asked for are empty."""
    return _backward("cpu", grad, *given)


def _forward(device: str, z: Tensor, *given: Any) -> Tensor:
    y: Tensor = _launcher(device).forward(z, Splines(*given[:-1]), unflattened(given[-1]))
    return y


def _backward(device: str, grad: Tensor, z: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    *splines, higher, to_z, to_weight = given
    slopes: tuple[Tensor, Tensor] = _launcher(device).backward(
        grad, z, Splines(*splines), unflattened(higher), to_z, to_weight
    )
    return slopes


fused.register_kernel("cuda", functools.partial(_forward, "cuda"))
fused_backward.register_kernel("cuda", functools.partial(_backward, "cuda"))


@fused.register_fake
def _(z: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return z.new_empty(*z.shape[:3], weight.shape[1])


@fused_backward.register_fake
def _(grad: Tensor, z: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    to_z, to_weight = options[-2:]
    return z.new_empty(z.shape if to_z else 0), z.new_empty(weight.shape if to_weight else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:_TENSORS])
    ctx.options = inputs[_TENSORS:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of `fused`; if they are to be differentiated, by the reference."""
    given = *ctx.saved_tensors, *ctx.options
    needed = ctx.needs_input_grad[:2]
    if not torch.is_grad_enabled():
        slopes = fused_backward(grad, *given, *needed)
        chosen = (slope if asked else None for slope, asked in zip(slopes, needed, strict=True))
        return *chosen, *[None] * (len(given) - 2)
    if not torch.compiler.is_compiling():
        _tell("their gradients are differentiated")
    variables = [v for v, asked in zip(given, needed, strict=False) if asked]
    with without_autocast(grad.device):
        y = _by_reference(*given)
        found = iter(torch.autograd.grad(y, variables, grad, create_graph=True))
    return *(next(found) if asked else None for asked in needed), *[None] * (len(given) - 2)


def _by_reference(z: Tensor, *given: Any) -> Tensor:
    """Return what `fused` returns, in plain PyTorch."""
    splines, higher = Splines(*given[:-1]), unflattened(given[-1])

    def network(s: int) -> Tensor:
        return reference.evaluate(z[s], splines.mapped(lambda v: v[s % len(v)]), higher)

    return torch.stack([network(s) for s in range(len(z))])


fused.register_autograd(_gradients, setup_context=_save)


def _stacked(
    size: int, dims: Sequence[int | None], tensors: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Let the first dimension of tensors (S or 1, ...) run over the batch of vmap and S."""
    fronted = [
        tensor if tensor is None else tensor[None] if dim is None else tensor.movedim(dim, 0)
        for dim, tensor in zip(dims, tensors, strict=True)
    ]
    networks = fronted[0].shape[1]  # type: ignore[union-attr]
    return [
        v if v is None else v.expand(size, networks, *v.shape[2:]).flatten(0, 1) for v in fronted
    ]


@fused.register_vmap
def _(info: Any, dims: Any, *inputs: Any) -> tuple[Tensor, int]:
    tensors, options = inputs[:_TENSORS], inputs[_TENSORS:]
    if dims[1:4] == (None, None, None):  # only points: they join the others
        z = tensors[0].movedim(dims[0], 2)
        y = fused(z.flatten(2, 3), *tensors[1:], *options)
        return y.unflatten(2, z.shape[2:4]), 2
    y = fused(*_stacked(info.batch_size, dims[:_TENSORS], tensors), *options)
    return y.unflatten(0, (info.batch_size, len(y) // info.batch_size)), 0


@fused_backward.register_vmap
def _(info: Any, dims: Any, *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    tensors = _stacked(info.batch_size, dims[: 1 + _TENSORS], inputs[: 1 + _TENSORS])
    by_z, by_weight = (
        slope.unflatten(0, (info.batch_size, len(slope) // info.batch_size))
        if slope.ndim > 1
        else slope
        for slope in fused_backward(*tensors, *inputs[1 + _TENSORS :])
    )
    return (by_z, by_weight), tuple(0 if slope.ndim > 1 else None for slope in (by_z, by_weight))
