"""Make tests/interop/pykan.pt, networks of pykan 0.2.8 with their values, in its environment.

.venv-bench/bin/python tests/interop/make_pykan.py tests/interop/pykan.pt
"""

import sys

import torch
from kan import KAN


def trained(width, samples, **options):
    """Return a network with weights far from their start and grids that follow the samples."""
    model = KAN(width=width, seed=1, auto_save=False, **options)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "symbolic" not in name and "grid" not in name and "mask" not in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(0.3 * noise)
    if samples is not None:
        model.update_grid_from_samples(samples)
    return model


def main(file):
    """Write the file."""
    torch.set_default_dtype(torch.float64)
    x = 3 * torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    found = {"x": x}
    models = {
        "plain": trained([2, 3, 1], None, grid=3, k=3),
        "adapted": trained([2, 3, 2], x, grid=4, k=2, grid_eps=0.3),
        "identity": trained([2, 2], None, grid=3, k=3, base_fun="identity"),
        "zero": trained([2, 2], None, grid=3, k=1, base_fun="zero"),
        "symbolic": trained([2, 2], None, grid=3, k=3),
        "product": trained([2, [1, 1], 1], None, grid=3, k=3),
    }
    models["adapted"].act_fun[0].mask.data[0, 1] = 0.0
    models["symbolic"].fix_symbolic(0, 0, 0, "sin", fit_params_bool=False)
    for name, model in models.items():
        with torch.no_grad():
            found[name] = {"state": model.state_dict(), "y": model(x)}
    torch.save(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
