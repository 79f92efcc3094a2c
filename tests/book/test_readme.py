"""What README prints and promises: its blocks run, its bound on refinement holds."""

import re
from pathlib import Path

import pytest
import torch

import kanlib
from kanlib import KAN

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def shortened(block: str) -> str:
    """Return the block with one epoch on each level."""
    return re.sub(r"\[\d\d(, \d+)+\]", lambda list_: re.sub(r"\d+", "1", list_[0]), block)


def test_a_shortened_block_differs_in_its_epochs_only():
    assert (
        shortened("(KAN([2, 5, 1]), Schedule([32, 8, 4])") == "(KAN([2, 5, 1]), Schedule([1, 1, 1])"
    )


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_runs_alone_and_completes(number):
    names = {}
    exec(shortened(BLOCKS[number]), names)
    assert names["run"].status == "completed"


@pytest.mark.slow
def test_blocks_run_as_printed_in_turn():
    torch.manual_seed(0)
    names = {}
    for block in BLOCKS:
        exec(block, names)
        losses = [level.loss for level in names["run"].levels]
        assert names["run"].status == "completed"
        assert losses[-1] < losses[0]


def test_classes_that_readme_calls_are_importable():
    called = {*re.findall(r"`[^`\n]*?\b([A-Z]\w+)[.\w]*\(", README)}
    assert {"Ensemble", "Jet"} <= called
    assert called <= {*kanlib.__all__}


@pytest.mark.parametrize("r", [2, 4, 7])
@pytest.mark.parametrize("domain", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_refinement_keeps_to_the_printed_bound(dtype, domain, r):
    found = re.search(r"at most (\S+) \(float64\) or (\S+) \(float32\)", README)
    bound = float(found[1 if dtype == torch.float64 else 2])
    a, b = domain
    torch.manual_seed(r)
    model = fine = KAN([2, 20, 20, 1], n=5, r=r, domain=domain, dtype=dtype)
    x = a + (b - a) * (3 * torch.rand(300, 2, dtype=dtype) - 1)
    with torch.no_grad():
        y = model(x)
        while fine.n < 320:
            fine = fine.refine()
            change = (fine(x) - y).abs().max() / y.abs().max()
            assert change <= bound
