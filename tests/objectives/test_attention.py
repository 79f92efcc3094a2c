"""Residual-based attention, and objectives with a state in general."""

from functools import partial

import numpy as np
import pytest
import torch

from kanlib import KAN, Schedule, exponential_cycles, train, train_multilevel
from kanlib.objectives.attention import Attention
from kanlib.objectives.mean_squared_error import Stateful
from kanlib.training.checkpoints import load_checkpoint, save_checkpoint

ADAM = partial(torch.optim.Adam, lr=1e-2)
LBFGS = partial(torch.optim.LBFGS, max_iter=3, line_search_fn="strong_wolfe")
OPTIMIZERS = {"adam": ADAM, "lbfgs": LBFGS}
X = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]


class Killed(BaseException):
    """Stands for whatever ends a process."""


class Residual:
    """The mean of (lambda r)**2 with r = model - sin(9 x); raises at one evaluation."""

    def __init__(self, kill_at=None):
        self.attention = Attention(damping=0.1)
        self.after_step = self.attention.after_step
        self.state_dict = self.attention.state_dict
        self.load_state_dict = self.attention.load_state_dict
        self.kill_at, self.calls = kill_at, 0

    def __call__(self, model):
        self.calls += 1
        if self.calls == self.kill_at:
            raise Killed
        return self.attention(model(X) - torch.sin(9 * X)).square().mean()


def network():
    torch.manual_seed(0)
    return KAN([1, 3, 1], n=3, dtype=torch.float64)


def run(objective, name="adam", **options):
    return train_multilevel(
        network(),
        objective,
        [3, 0, 2, 2],
        optimizer=OPTIMIZERS[name],
        scheduler=exponential_cycles(1e-3, 2, 0.9) if name == "adam" else None,
        progress=False,
        **options,
    )


def numbers(finished):
    history = finished.history
    return history.loss, history.learning_rate, history.level, history.evaluations


# The formula


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("damping", "rate"), [(1e-2, None), (1e-3, 1e-2), (0.0, 0.5), (1.0, 0.0)])
def test_weights_follow_the_formula(damping, rate, dtype):
    attention = Attention(damping, rate)
    rng, expected = np.random.default_rng(0), np.ones((20, 1))
    for _ in range(30):
        r = rng.normal(size=(20, 1))
        weighted = attention(torch.tensor(r, dtype=dtype))
        assert weighted.dtype == dtype
        np.testing.assert_allclose(weighted, expected * r, rtol=1e-5)
        attention.after_step()
        expected *= 1 - damping
        expected += (damping if rate is None else rate) * np.abs(r) / np.abs(r).max()
        np.testing.assert_allclose(attention.weights, expected, rtol=1e-5, atol=1e-7)


def test_weights_stay_between_zero_and_one_by_default():
    attention = Attention(0.3)
    for scale in (1e-200, 1.0, 1e200, 0.0):
        attention(scale * torch.randn(50, 1, dtype=torch.float64))
        for _ in range(10):
            attention.after_step()
            assert ((attention.weights > 0) & (attention.weights <= 1 + 1e-15)).all()


def test_networks_of_an_ensemble_have_weights_of_their_own():
    together, alone = Attention(0.3), [Attention(0.3) for _ in range(4)]
    for scale in (1.0, 10.0, 0.1):
        r = scale * torch.randn(4, 20, 1, generator=torch.Generator().manual_seed(0))
        expected = torch.stack([each(r[s, :, 0]) for s, each in enumerate(alone)])
        torch.testing.assert_close(together(r)[..., 0], expected)
        for each in (together, *alone):
            each.after_step()


def test_weights_are_constants_for_the_gradient():
    attention, r = Attention(0.5), torch.tensor([[1.0], [-2.0]], requires_grad=True)
    for _ in range(3):
        gradient = torch.autograd.grad(attention(r).square().sum(), r)[0]
        torch.testing.assert_close(gradient, 2 * attention.weights**2 * r)
        attention.after_step()
        assert not attention.weights.requires_grad


# Training


def test_attention_makes_a_stateful_objective():
    assert isinstance(Residual(), Stateful)
    assert not isinstance(torch.nn.Linear(1, 1), Stateful)
    assert not isinstance(lambda model: 0, Stateful)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_a_loop_by_hand_over_all_levels(name):
    """One update a step with the residuals of its last evaluation; none at ends of levels."""
    model, weights, losses = network(), torch.ones_like(X), []
    for epochs in (3, 0, 2, 2):
        if losses:
            model = model.refine()
        optimizer = OPTIMIZERS[name]([*model.parameters()])
        for _ in range(epochs):
            residuals = []

            def closure(model=model, optimizer=optimizer, residuals=residuals, weights=weights):
                optimizer.zero_grad()
                residuals.append(model(X) - torch.sin(9 * X))
                loss = (weights * residuals[-1]).square().mean()
                loss.backward()
                return loss

            losses.append(optimizer.step(closure).item())
            size = residuals[-1].detach().abs()
            weights = 0.9 * weights + 0.1 * size / size.max()
        losses.append((weights * (model(X) - torch.sin(9 * X))).square().mean().item())
    objective = Residual()
    finished = train_multilevel(
        network(),
        objective,
        Schedule([3, 0, 2, 2]),
        optimizer=OPTIMIZERS[name],
        metrics={"loss": objective, "bare": lambda m: (m(X) - X).square().mean()},
        progress=False,
    )
    np.testing.assert_allclose(finished.history.loss, losses, rtol=1e-9)
    torch.testing.assert_close(objective.attention.weights, weights, rtol=1e-7, atol=0)


def test_evaluations_that_are_no_steps_change_nothing():
    model, objective = network(), Residual()
    assert train(model, objective, 0, progress=False).history.evaluations[-1] > 0
    assert torch.equal(objective.attention.weights, torch.ones_like(X))
    train(model, objective, 4, optimizer=ADAM, progress=False)
    before = objective.attention.weights.clone()
    loss = objective(model)
    train(model, objective, 0, progress=False)
    assert torch.equal(objective.attention.weights, before)
    assert objective(model) == loss


def test_a_step_evaluates_the_objective_once():
    objective = Residual()
    train(network(), objective, 5, optimizer=ADAM, progress=False)
    assert objective.calls == 5 + 1  # the last is the loss at the end


def test_a_step_that_is_undone_leaves_the_weights():
    objective = Residual(kill_at=4)
    with pytest.raises(Killed):
        train(network(), objective, 5, optimizer=ADAM, progress=False)
    again = Residual()
    train(network(), again, 3, optimizer=ADAM, progress=False)
    assert torch.equal(objective.attention.weights, again.attention.weights)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resume_after_a_kill_at_any_evaluation_ends_with_the_same_numbers(name, tmp_path):
    whole = Residual()
    expected = run(whole, name)
    for number in range(1, whole.calls + 1):
        options = {"checkpoint": tmp_path / f"{number}.pt", "checkpoint_every": 0.0}
        with pytest.raises(Killed):
            run(Residual(kill_at=number), name, **options)
        again = Residual()
        assert numbers(run(again, name, resume=True, **options)) == numbers(expected)
        assert torch.equal(again.attention.weights, whole.attention.weights)


@pytest.mark.parametrize("stop_at", [2, 3, 5])
def test_resume_after_ctrl_c_in_an_update_ends_with_the_same_numbers(stop_at, tmp_path):
    whole, stopped, again, steps = Residual(), Residual(), Residual(), []
    expected = run(whole)

    def update():
        stopped.attention.after_step()
        steps.append(1)
        if len(steps) == stop_at:
            raise KeyboardInterrupt

    stopped.after_step = update
    options = {"checkpoint": tmp_path / "c.pt", "checkpoint_every": 0.0}
    assert run(stopped, **options).status == "interrupted"
    assert numbers(run(again, resume=True, **options)) == numbers(expected)
    assert torch.equal(again.attention.weights, whole.attention.weights)


def test_checkpoint_of_an_objective_without_state_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    run(lambda model: Residual()(model), checkpoint=path)
    with pytest.raises(ValueError, match=r"c\.pt .*objective"):
        run(Residual(), checkpoint=path, resume=True)
    run(Residual(), checkpoint=tmp_path / "d.pt")
    state = load_checkpoint(tmp_path / "d.pt")
    save_checkpoint(tmp_path / "d.pt", {**state, "objective": {}})
    with pytest.raises(ValueError, match=r"d\.pt is damaged: it lacks 'weights'; delete"):
        run(Residual(), checkpoint=tmp_path / "d.pt", resume=True)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": -0.1}, r"damping must be a finite number of at least 0, got -0\.1"),
        ({"damping": 1.5}, r"damping must be .* got 1\.5"),
        ({"damping": float("nan")}, "damping must be .* got nan"),
        ({"rate": -1.0}, r"rate must be a finite number of at least 0, got -1\.0"),
        ({"rate": float("inf")}, "rate must be a finite number .* got inf"),
    ],
)
def test_attention_refuses_bad_rates(options, message):
    with pytest.raises(ValueError, match=message):
        Attention(**options)


def test_attention_refuses_other_points():
    attention = Attention()
    attention(torch.ones(5, 1))
    with pytest.raises(ValueError, match=r"shape \(5, 1\), got \(4, 1\): use one Attention for"):
        attention(torch.ones(4, 1))
    with pytest.raises(ValueError, match=r"shape \(5, 1\), got \(5,\): use one Attention for"):
        attention(torch.ones(5))


def test_update_needs_an_evaluation():
    with pytest.raises(RuntimeError, match="after_step needs an evaluation before it"):
        Attention().after_step()
