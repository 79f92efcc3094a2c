"""The film of an error: its record, and how it is made."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kanbook import film
from kanlib.paper.experiments.second_order import EXPERIMENT
from kanlib.paper.problems.burgers import exact


def test_codes_hold_the_error_within_half_a_step():
    error = 10 ** torch.linspace(-8.9, 0, 64 * 48, dtype=torch.float64)
    held = film.Frame(5, 0, 0.0, film.encoded(-error)).codes().ravel()
    assert held == pytest.approx(film.code(error.log10()).numpy(), abs=0.5)
    assert film.Frame(5, 0, 0.0, film.encoded(0 * error)).codes().max() == 0


@pytest.mark.parametrize("name", film.CASES)
def test_frames_of_the_record_agree_with_their_errors(name):
    """The maps have other points than the errors, and a code is 12 % wide."""
    norm = float(exact(film.points()).square().mean().sqrt())
    frames = film.load()[name]
    assert [frame.work for frame in frames] == sorted(frame.work for frame in frames)
    for frame in frames:
        errors = 10.0 ** (frame.codes() / film.PER_DECADE + film.FLOOR)
        found = float(np.sqrt(np.mean(errors**2))) / norm
        assert found == pytest.approx(frame.error, rel=0.4)


def test_points_are_those_of_the_map():
    x, t = film.points().reshape(*film.POINTS[::-1], 2).unbind(-1)
    assert x[0].diff().min() > 0 == x[:, 0].diff().abs().max()
    assert t[:, 0].diff().min() > 0 == t[0].diff().abs().max()


def test_frames_are_taken_over_the_levels(monkeypatch):
    case = replace(
        EXPERIMENT.cases["burgers-levels"], epochs=(2, 2), points=(60, 60), every=(3, 3), keep=(1,)
    )
    monkeypatch.setitem(EXPERIMENT.cases, "burgers-levels", case)
    frames = film.filmed("burgers-levels", 1, 10**9)
    assert [(frame.n, frame.work) for frame in frames] == [
        *((6, 6 * step) for step in range(3)),
        (12, 24),
        (12, 36),
    ]
    assert frames[-1].error < frames[0].error
