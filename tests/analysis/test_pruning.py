"""Pruning: what is left is the function less what was taken, and it trains, refines and loads."""

import copy

import numpy as np
import pytest
import torch

from kanlib import (
    KAN,
    Ensemble,
    GaussNewton,
    Jet,
    MeanSquaredError,
    ResidualLoss,
    Term,
    propagate,
    train,
    train_multilevel,
)
from kanlib.analysis.importance import importance
from kanlib.analysis.pruning import count_edges, prune
from kanlib.training.jacobian import jacobian

pytestmark = pytest.mark.usefixtures("float64")


def data(count=300):
    torch.manual_seed(0)
    x = torch.rand(count, 3)
    return MeanSquaredError(x, torch.exp(torch.sin(4 * x[:, :1]) + x[:, 1:2] ** 2))


@pytest.fixture(scope="module", params=["spline", "relu"])
def trained(request):
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    run = train(KAN([3, 3, 1], n=4), data(), 40, optimizer=GaussNewton(), progress=False)
    torch.set_default_dtype(torch.float32)
    return run.model.to_basis(request.param)


def test_pruned_network_tells_its_losses(trained):
    objective = data()
    found = prune(trained, objective, threshold=0.02)
    assert found.before == objective(trained).item()
    assert found.after == objective(found.model).item()
    assert found.edges == (12, count_edges(found.model))
    assert found.edges[1] < 12
    assert "loss" in repr(found)
    variance = float(objective.y.var())
    assert found.after < found.before + (12 * 0.02) ** 2 * variance


def test_input_without_effect_is_found_and_taken_out(trained):
    objective = data()
    found = prune(trained, objective, threshold=0.02, inputs=True)
    assert found.inputs == [0, 1]
    whole = prune(trained, objective, threshold=0.02).model
    torch.testing.assert_close(found.model(objective.x[:, found.inputs]), whole(objective.x))


def test_removal_of_one_edge_is_the_effect_that_importance_says(trained):
    x = data().x
    worth = importance(trained, x)
    smallest = min(float(each.removal.min()) for each in worth.layers)
    found = prune(trained, data(), threshold=smallest * (1 + 1e-9))
    assert found.edges == (12, 11)
    y, other = trained(x).detach().numpy(), found.model(x).detach().numpy()
    change = np.sqrt(((y - other) ** 2).mean() / y.var())
    assert change == pytest.approx(smallest, rel=1e-5)


def test_nothing_goes_at_threshold_zero(trained):
    x = data().x
    found = prune(trained, data(), threshold=0.0)
    assert found.edges == (12, 12)
    assert torch.equal(found.model(x), trained(x))
    assert all(layer.mask is None for layer in found.model.spline_layers)


def test_everything_but_a_path_goes_at_a_high_threshold(trained):
    found = prune(trained, data(), threshold=100.0, inputs=True)
    assert found.model.widths == [1, 1, 1]
    assert found.edges[1] == 2


@pytest.mark.parametrize("solver", ["cholesky", "qr", "cg"])
def test_masked_edges_stay_zero_under_training_and_refinement(trained, solver):
    pruned = prune(trained, data(), threshold=0.02)
    run = train_multilevel(
        pruned.model, data(), [3, 3], optimizer=GaussNewton(solver=solver), progress=False
    )
    assert run.loss < pruned.after
    for before, layer in zip(pruned.model.spline_layers, run.model.spline_layers, strict=True):
        if before.mask is not None:
            assert torch.equal(layer.mask, before.mask)
            assert torch.count_nonzero(layer.weight[~layer.mask]) == 0
    assert count_edges(run.model) == pruned.edges[1]


def test_masked_edges_stay_zero_under_adam_with_weight_decay(trained):
    model = prune(trained, data(), threshold=0.02).model
    masks = [layer.mask for layer in model.spline_layers if layer.mask is not None]
    assert masks
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        data()(model).backward()
        optimizer.step()
    for layer in model.spline_layers:
        if layer.mask is not None:
            assert torch.count_nonzero(layer.weight[~layer.mask]) == 0


def test_jacobian_of_a_masked_network_is_that_of_autograd(trained):
    model, objective = prune(trained, data(20), threshold=0.02).model, data(20)
    values = {name: p.detach() for name, p in model.named_parameters()}

    def residual(values):
        y = torch.func.functional_call(model, values, (objective.x,))
        return (y - objective.y).flatten() / len(objective.x) ** 0.5

    parts = torch.func.jacrev(residual)(values)
    expected = torch.cat([parts[name].flatten(1) for name in values], dim=1)
    found = jacobian(model, objective).dense()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_refined_masked_network_is_the_same_function(trained):
    model, x = prune(trained, data(), threshold=0.02).model, data().x
    for other in (model.refine(), model.to_basis("spline"), model.free("input").fixed()):
        torch.testing.assert_close(other(x), model(x), rtol=1e-9, atol=1e-9)
        masks = [layer.mask for layer in other.spline_layers]
        for one, two in zip(masks, model.spline_layers, strict=True):
            assert (one is None) == (two.mask is None)
            assert one is None or torch.equal(one, two.mask)


def test_masked_network_is_saved_and_loaded(trained, tmp_path):
    model, x = prune(trained, data(), threshold=0.02).model, data().x
    torch.save(model.state_dict(), tmp_path / "pruned.pt")
    other = KAN(model.widths, n=4, basis=next(model.spline_layers).basis)
    other.load_state_dict(torch.load(tmp_path / "pruned.pt"))
    assert torch.equal(other(x), model(x))
    assert count_edges(other) == count_edges(model)
    fresh = KAN(model.widths, n=4, basis=next(model.spline_layers).basis)
    other.load_state_dict(fresh.state_dict())
    assert all(layer.mask is None for layer in other.spline_layers)
    again = copy.deepcopy(model)
    for layer in again.spline_layers:
        layer.reset_parameters()
    assert all(
        layer.mask is None or torch.count_nonzero(layer.weight[~layer.mask]) == 0
        for layer in again.spline_layers
    )


def test_masked_networks_make_an_ensemble(trained):
    model, x = prune(trained, data(), threshold=0.02).model, data().x
    ensemble = Ensemble([model, copy.deepcopy(model)])
    torch.testing.assert_close(ensemble(x)[1], model(x), rtol=1e-12, atol=1e-12)
    if any(layer.mask is not None for layer in model.spline_layers):
        plain = KAN(model.widths, n=4, basis=next(model.spline_layers).basis)
        with pytest.raises(ValueError, match="differs from member 0 in the pruned edges"):
            Ensemble([model, plain])


def test_jets_and_vmap_of_a_masked_network(trained):
    model, x = prune(trained, data(), threshold=0.02).model, data(20).x
    u = propagate(model, Jet.at(x, pairs=[(0, 0)]))
    hessian = torch.func.vmap(torch.func.hessian(lambda z: model(z[None])[0, 0]))(x)
    torch.testing.assert_close(u.d(0, 0)[:, 0], hessian[:, 0, 0], rtol=1e-7, atol=1e-8)


def test_affine_networks_lose_hidden_units_and_inputs():
    torch.manual_seed(5)
    model = KAN([3, 4, 1], n=4, first="affine").calibrate_(data().x)
    with torch.no_grad():
        model.layers[0].weight[:, 2] = 1e-4
        model.layers[1].weight[:, 1] = 0.3
    found = prune(model, data(), threshold=0.01, inputs=True)
    assert found.inputs == [0, 1]
    assert found.units[1] == [0, 2, 3]
    assert found.model.layers[0].weight.shape == (3, 2)
    assert found.after == pytest.approx(found.before, rel=0.02)
    x = data().x
    change = (found.model(x[:, :2]) - model(x)).norm() / model(x).norm()
    assert change.item() < 0.01


def test_input_domain_and_names_are_those_of_what_stays():
    torch.manual_seed(6)
    model = KAN([3, 2, 2], n=4, input_domain=[(0, 1), (0, 2), (0, 3)], outputs=("u", "v"))
    smaller = model.select([[2, 0], [1, 0], [1]])
    assert smaller.outputs == ("v",)
    assert smaller.layers[0].intervals == [(0, 3), (0, 1)]
    same = model.select([[0, 2, 1], [0, 1], [1]])
    x = torch.rand(10, 3)
    torch.testing.assert_close(same(x[:, [0, 2, 1]])[:, 0], model(x)[:, 1])
    free = model.free("input").select([[2, 0], [1, 0], [0, 1]])
    assert free.layers[1].knots.logits.shape == (2, 4)


def test_residual_loss_needs_points_and_prunes():
    x = torch.rand(50, 1)
    loss = ResidualLoss(fit=Term(lambda u, x: u.value - x, x))
    model = KAN([1, 2, 1], n=4)
    with pytest.raises(ValueError, match="x must be given, as the objective has no x"):
        prune(model, loss)
    assert prune(model, loss, x, threshold=0.5).after >= 0


def test_bad_masks_and_selections_are_named():
    layer = next(KAN([2, 3], n=4).spline_layers)
    with pytest.raises(ValueError, match=r"mask must have shape \(Q, P\) = \(3, 2\)"):
        layer.masked(torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match="mask must be a tensor of bool"):
        layer.masked(torch.ones(3, 2))
    with pytest.raises(ValueError, match="inputs must hold different integers from 0 to 1"):
        layer.select([0, 0], [0])
    with pytest.raises(ValueError, match=r"units must hold a list for each of the widths \[2, 3\]"):
        KAN([2, 3], n=4).select([[0]])


def test_means_of_inputs_before_a_map_without_bias_are_kept():
    torch.manual_seed(8)
    x = torch.rand(200, 2)
    x[:, 1] = 5 + 1e-3 * x[:, 1]
    model = KAN([2, 3, 1], n=4, first="linear", domain=(-10, 10))
    y = model(x).detach()
    promised = float(importance(model, x).layers[0].units[1])
    found = prune(model, MeanSquaredError(x, y), threshold=promised * (1 + 1e-9))
    assert found.inputs == [0]
    change = ((found.model(x) - y).square().mean() / y.var(correction=0)).sqrt().item()
    assert change == pytest.approx(promised, rel=1e-6)
    assert prune(model, MeanSquaredError(x, y), threshold=0.0).model.layers[0].bias is None


def test_zero_columns_of_a_map_are_no_edges():
    torch.manual_seed(9)
    x = data().x
    model = KAN([3, 3, 1], n=4, first="affine").calibrate_(x)
    with torch.no_grad():
        model.layers[0].weight[:, 2] = 1e-6
    found = prune(model, MeanSquaredError(x, model(x).detach()), threshold=1e-3)
    assert found.inputs == [0, 1]
    assert found.edges == (12, 9)


def test_widths_are_those_of_the_network_whatever_its_first_layer():
    x = torch.rand(50, 2)
    model = KAN([2, 3, 1], n=4, periodic=[0])
    found = prune(model, MeanSquaredError(x, model(x).detach()), threshold=0.0)
    assert found.widths == [2, 3, 1]
    assert "[2, 3, 1] -> [2, 3, 1]" in repr(found)
