"""The programs of the page "Other people's code" for other libraries, where these are installed.

They are in an environment of their own: `make test-peers`.
"""

import json
import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "book" / "other-peoples-code.ipynb"


def programs():
    """Return the programs of the page by the library that they import."""
    cells = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return {re.search(r"(?:import|from) (deepxde|pina|lightning)\b", f)[1]: f for f in found}


def line(x):
    return torch.sin(torch.pi * x)


def square(x):
    return -torch.sin(torch.pi * x).prod(1, keepdim=True)


def product(x):
    return torch.sin(3 * x).prod(1, keepdim=True)


#: What each program learns, where, in how many dimensions, in which type, on how many intervals at
#: the end, and to which error.
SOLUTIONS = {
    "deepxde": (line, (-1, 1), 1, torch.float64, 8, 0.005),
    "pina": (square, (0, 1), 2, torch.float32, 6, 0.01),
    "lightning": (product, (-1, 1), 2, torch.float32, 12, 0.05),
}


def test_page_has_a_program_for_each_library():
    assert {*programs()} == {*SOLUTIONS}


@pytest.mark.filterwarnings("default")  # theirs
@pytest.mark.parametrize("library", SOLUTIONS)
def test_program_of_the_page_trains_and_refines(library, tmp_path, monkeypatch):
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found = {}
    try:
        exec(compile(programs()[library], f"the program for {library}", "exec"), found)
    finally:
        torch.set_default_dtype(torch.float32)  # DeepXDE has another
    exact, (low, high), dimension, dtype, n, error = SOLUTIONS[library]
    x = low + (high - low) * torch.rand(500, dimension).to(dtype)
    network = getattr(found["model"], "network", found["model"])
    with torch.no_grad():
        assert (found["model"](x) - exact(x)).square().mean().sqrt() < error
    assert network.n == n
