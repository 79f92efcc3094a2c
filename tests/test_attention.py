"""Residual-based attention, against eq. (42) written out in NumPy."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from kanlib import KAN, train, train_multilevel
from kanlib.attention import Attention
from kanlib.objectives import Stateful

ADAM = partial(torch.optim.Adam, lr=1e-2)


class Residual:
    """Attention on the residual of a regression."""

    def __init__(self, damping=0.1, stop_at=None):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(30, 2, generator=generator, dtype=torch.float64)
        self.y = torch.sin(5 * self.x[:, :1])
        self.attention, self.calls, self.stop_at = Attention(damping), 0, stop_at
        self.state_dict = self.attention.state_dict
        self.load_state_dict = self.attention.load_state_dict

    def __call__(self, model):
        return self.attention(model(self.x) - self.y).square().mean()

    def after_step(self):
        self.attention.after_step()
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt


def network():
    torch.manual_seed(0)
    return KAN([2, 3, 1], n=3, dtype=torch.float64)


@pytest.mark.parametrize("rate", [None, 0.3])
def test_weights_follow_equation_42(rate):
    attention, rng = Attention(0.2, rate), np.random.default_rng(0)
    expected = np.ones(5)
    for _ in range(4):
        r = rng.normal(size=5)
        weighted = attention(torch.tensor(r))
        np.testing.assert_allclose(weighted, expected * r, rtol=1e-14)
        attention.after_step()
        expected = 0.8 * expected + (0.2 if rate is None else rate) * abs(r) / abs(r).max()
    np.testing.assert_allclose(attention.weights, expected, rtol=1e-14)


def test_residuals_of_zero_keep_weights_finite():
    attention = Attention(0.5)
    attention(torch.zeros(3))
    attention.after_step()
    assert torch.equal(attention.weights, torch.full((3,), 0.5))


def test_weights_are_constants_for_the_gradient():
    attention = Attention(0.5)
    r = torch.tensor([1.0, 2.0], requires_grad=True)
    for _ in range(2):
        attention(r)
        attention.after_step()
    attention(r).sum().backward()
    assert torch.equal(r.grad, attention.weights)


def test_only_steps_change_the_weights():
    objective = Residual()
    run = train(network(), objective, 3, optimizer=ADAM, progress=False)
    assert objective.calls == 3
    before = objective.attention.weights.clone()
    with torch.no_grad():
        objective(run.model)
    assert torch.equal(objective.attention.weights, before)


def test_weights_are_kept_across_refinement():
    objective = Residual()
    run = train_multilevel(network(), objective, [3, 2], optimizer=ADAM, progress=False)
    assert objective.calls == 5
    history = run.history
    assert history.loss[4] == pytest.approx(history.loss[3], rel=1e-12)
    other = Residual()
    train(network(), other, 3, optimizer=ADAM, progress=False)
    assert not torch.equal(objective.attention.weights, other.attention.weights)


@pytest.mark.parametrize("stop_at", [2, 4])
def test_resumed_run_ends_with_the_same_weights(tmp_path, stop_at):
    whole, first, rest = Residual(), Residual(stop_at=stop_at), Residual()
    expected = train_multilevel(network(), whole, [3, 3], optimizer=ADAM, progress=False)
    options = {"optimizer": ADAM, "progress": False, "checkpoint": tmp_path / "c.pt"}
    interrupted = train_multilevel(network(), first, [3, 3], checkpoint_every=0, **options)
    assert interrupted.status == "interrupted"
    found = train_multilevel(network(), rest, [3, 3], resume=True, **options)
    assert torch.equal(rest.attention.weights, whole.attention.weights)
    assert found.history.loss == expected.history.loss


def test_objective_of_the_test_is_stateful_and_a_function_is_not():
    assert isinstance(Residual(), Stateful)
    assert not isinstance(lambda model: model, Stateful)


def test_attention_names_the_mistake():
    with pytest.raises(ValueError, match=r"damping must be finite and from 0 to 1.0, got 2.0"):
        Attention(2.0)
    with pytest.raises(ValueError, match="rate must be finite"):
        Attention(0.1, float("inf"))
    with pytest.raises(RuntimeError, match="call the objective"):
        Attention().after_step()
    attention = Attention()
    attention(torch.ones(3))
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(4,\): use one Attention"):
        copy.copy(attention)(torch.ones(4))
