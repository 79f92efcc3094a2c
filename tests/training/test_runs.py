"""What a training returns, as type checkers see it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
from typing_extensions import assert_type

from kanlib import KAN, MLP, MeanSquaredError, Run, race, train, train_multilevel


def trained(kan: KAN, mlp: MLP, loss: MeanSquaredError) -> None:
    assert_type(train(kan, loss, 1), Run[KAN])
    assert_type(train(mlp, loss, 1).model, MLP)
    assert_type(train_multilevel(kan, loss, [1, 1]), Run[KAN])
    assert_type(race([kan], loss, [1], keep=[]), Run[KAN])
    assert_type(race({1: mlp}, loss, [1], keep=[], refine=None), Run[MLP])
    assert_type(train(kan, loss, 1).model.refine([0.5]), KAN)
    train(mlp, loss, 1).model.refine()
"""


@pytest.mark.slow
def test_run_has_the_class_of_its_model(tmp_path):
    """Perceptrons have no refine(): nn.Module says that what it lacks is a tensor or a module."""
    (tmp_path / "code.py").write_text(CODE)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", tmp_path / "code.py"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    last = CODE.count("\n")
    errors = [line.partition("code.py:")[2] for line in output.splitlines()]
    assert errors == [f'{last}: error: "Tensor" not callable  [operator]']
