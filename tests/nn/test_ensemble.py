"""Ensembles, against their members one by one."""

from functools import partial

import pytest
import torch
from grids import KINDS, with_grids
from torch import nn
from torch.nn.utils import parametrizations, prune

from kanlib import KAN, MLP, Ensemble, KnotGrid, train, train_multilevel
from kanlib.nn.jets import Jet, propagate

SIZES = {
    "table 2": partial(KAN, [2, 5, 1], n=5, first="affine"),
    "table 3": partial(KAN, [2, 20, 20, 1], n=5, first="linear"),
    "relu": partial(KAN, [2, 3, 1], n=6, r=3, basis="relu"),
    "normalised": partial(KAN, [2, 3, 1], n=4, normalisation="tanh", input_domain=((0, 1), (0, 2))),
    "mlp": partial(MLP, [2, 6, 1], "tanh"),
    "own grids": lambda **options: with_grids(KAN([2, 3, 1], n=4, **options), "own"),
    "free knots": lambda **options: with_grids(KAN([2, 3, 1], n=4, **options), "free"),
    "free relu": lambda **options: with_grids(
        KAN([2, 3, 1], n=2, r=3, **options), "free own"
    ).to_basis("relu"),
}


@pytest.fixture(params=SIZES)
def members(request):
    torch.manual_seed(0)
    return [SIZES[request.param](dtype=torch.float64) for _ in range(3)]


def points(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def test_ensemble_evaluates_each_member(members):
    shared, own = points(20, 2), points(3, 20, 2)
    ensemble = Ensemble(members)
    assert torch.allclose(ensemble(shared), torch.stack([m(shared) for m in members]), rtol=1e-13)
    each = torch.stack([m(x) for m, x in zip(members, own, strict=True)])
    assert torch.allclose(ensemble(own), each, rtol=1e-13)


def test_ensemble_propagates_the_jet_of_each_member(members):
    jets = [Jet.at(x, pairs=[(0, 0), (0, 1)]) for x in points(3, 20, 2)]
    own = Jet(torch.stack([j.channels for j in jets], dim=1), 2, jets[0].pairs)
    for jet, inputs in ((jets[0], [jets[0]] * 3), (own, jets)):
        found = propagate(Ensemble(members), jet).channels
        each = [propagate(m, j).channels for m, j in zip(members, inputs, strict=True)]
        assert torch.allclose(found, torch.stack(each, dim=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_training_at_once_gives_the_networks_of_training_one_by_one(members, optimizer):
    x, y = points(3, 50, 2), points(3, 50, 1)
    optimizer = partial(optimizer, lr=1e-2)

    def sum_of_losses(ensemble):
        return (ensemble(x) - y).square().mean((1, 2)).sum()

    run = train(Ensemble(members), sum_of_losses, 20, optimizer=optimizer, progress=False)
    for member, trained, xs, ys in zip(members, run.model.members(), x, y, strict=True):
        train(
            member,
            lambda m, xs=xs, ys=ys: (m(xs) - ys).square().mean(),
            20,
            optimizer=optimizer,
            progress=False,
        )
        for mine, theirs in zip(member.parameters(), trained.parameters(), strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_multilevel_training_refines_every_member():
    torch.manual_seed(0)
    members = [KAN([2, 3, 1], n=4, dtype=torch.float64) for _ in range(2)]
    x, y = points(50, 2), points(50, 1)
    run = train_multilevel(
        Ensemble(members),
        lambda ensemble: (ensemble(x) - y).square().mean((1, 2)).sum(),
        [3, 3],
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        refine=Ensemble.refine,
        progress=False,
    )
    assert run.model.n == 8
    assert run.history.loss[4] == pytest.approx(run.history.loss[3], rel=1e-12)
    assert [m.n for m in run.model.members()] == [8, 8]


@pytest.mark.parametrize("kind", KINDS)
def test_refined_ensemble_holds_the_refined_members(kind):
    torch.manual_seed(0)
    members = [KAN([2, 3, 1], n=4, dtype=torch.float64) for _ in range(2)]
    members = [with_grids(member, kind) for member in members]
    if "free" in kind:  # the knots of each are where it moved them
        with torch.no_grad():
            members[1].layers[0].knots.logits.mul_(0.5)
    x, fine = points(30, 2), Ensemble(members).refine()
    assert fine.n == 14
    for member, finer, y in zip(members, fine.members(), fine(x), strict=True):
        assert torch.allclose(y, member(x), rtol=1e-9, atol=1e-12)
        for old, new in zip(member.spline_layers, finer.spline_layers, strict=True):
            assert not any(a.missing_from(b) for a, b in zip(old.grids, new.grids, strict=True))


def test_members_on_different_grids_are_refused():
    members = [with_grids(KAN([2, 3, 1], n=4), "own", seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match="differs from member 0 in the breakpoints of"):
        Ensemble(members)


def test_members_are_copies(members):
    ensemble = Ensemble(members)
    before = members[0](points(5, 2))
    with torch.no_grad():
        for stack in ensemble.stacked:
            stack += 1.0
    assert torch.equal(members[0](points(5, 2)), before)


def test_ensemble_moves_to_another_dtype_with_its_tables(members):
    ensemble = Ensemble(members).float()
    assert ensemble(points(5, 2).float()).dtype == torch.float32


def test_ensemble_names_the_mistake():
    with pytest.raises(ValueError, match="at least one network, got none"):
        Ensemble([])
    with pytest.raises(ValueError, match="member 1 differs from member 0 in the n of"):
        Ensemble([KAN([2, 1], n=4), KAN([2, 1], n=5)])
    with pytest.raises(ValueError, match=r"\(N, P\) .* or \(1, N, P\), one for each.*\(2, 5, 2\)"):
        Ensemble([KAN([2, 1])])(torch.rand(2, 5, 2))
    with pytest.raises(TypeError, match="members must be a list of networks, got KAN"):
        Ensemble(KAN([2, 1]))
    with pytest.raises(TypeError, match=r"members\[0\] must be a Module, got 1"):
        Ensemble([1, 2])


# Members and states of other functions


class Twice(KAN):
    def forward(self, x):
        return 2 * super().forward(x)


def scaled(factor):
    """Return a network with a number that shows in no repr."""

    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor, self.line = factor, nn.Linear(2, 1)

        def forward(self, x):
            return self.factor * self.line(x)

    scaled.kind = getattr(scaled, "kind", Scaled)
    return scaled.kind(factor)


def changed(change, model=None):
    model = KAN([2, 3, 1], n=4, first="affine") if model is None else model
    change(model)
    return model


def normed(mean):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    model[1].running_mean += mean
    return model


PLAIN = {"widths": [2, 3, 1], "n": 4}
OTHER = {
    "n": {"n": 5},
    "breakpoints": {"breakpoints": [0, 0.2, 0.5, 0.7, 1]},
    "basis": {"basis": "relu"},
    "domain": {"domain": (0, 2)},
    "hidden_domain": {"hidden_domain": (0, 2)},
    "extension": {"extension": "clamp"},
    "order": {"r": 3},
    "normalisation": {"normalisation": "tanh"},
    "input_domain": {"input_domain": [(0, 1), (0, 2)]},
    "first": {"first": "affine"},
}


@pytest.mark.parametrize("options", [*OTHER.values()], ids=[*OTHER])
def test_members_and_states_that_are_other_functions_are_refused(options):
    one, other = KAN(**PLAIN), KAN(**{**PLAIN, **options})
    for members in ([one, other], [other, one]):
        with pytest.raises(ValueError, match="member 1 differs from member 0 in"):
            Ensemble(members)
    with pytest.raises(RuntimeError):
        Ensemble([one]).load_state_dict(Ensemble([other]).state_dict())


PAIRS = {
    "breakpoints": lambda last: KAN([2, 1], breakpoints=[0, 0.2, 0.5, 0.8 if last else 0.7, 1]),
    "class": lambda last: (Twice if last else KAN)([2, 1]),
    "activation": lambda last: MLP([2, 3, 1], "tanh" if last else "relu"),
    "normalisation": lambda last: KAN([2, 3, 1], normalisation="tanh" if last else "sigmoid"),
    "slope": lambda last: nn.Sequential(nn.Linear(2, 1), nn.LeakyReLU(0.1 if last else 0.2)),
    "number": lambda last: scaled(1.0 + last),
    "hook": lambda last: changed(
        lambda m: m.layers[0].register_forward_hook(lambda *_: None) if last else None
    ),
    "frozen": lambda last: changed(lambda m: m.layers[0].bias.requires_grad_(not last)),
    "buffer": lambda last: normed(float(last)),
    "dtype": lambda last: KAN([2, 1], dtype=torch.float64 if last else torch.float32),
}


@pytest.mark.parametrize("build", [*PAIRS.values()], ids=[*PAIRS])
def test_members_that_differ_where_no_shape_tells_are_refused(build):
    Ensemble([build(False), build(False)])
    Ensemble([build(True), build(True)]) if build is not PAIRS["hook"] else None
    with pytest.raises(ValueError, match="member 2 differs from member 0 in"):
        Ensemble([build(False), build(False), build(True)])


def test_members_may_come_from_different_initial_draws():
    grid = KnotGrid.uniform(4, 8)
    refined = KAN([2, 1], n=4, init_scale=0.3).refine()
    drawn = KAN([2, 1], n=8, prolonged_from=2, init_basis="relu")
    ensemble = Ensemble([refined, drawn])
    x = torch.rand(5, 2)
    torch.testing.assert_close(ensemble(x), torch.stack([refined(x), drawn(x)]))
    assert [m.layers[0].grid.n for m in ensemble.members()] == [grid.n] * 2


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (partial(MLP, [2, 3, 1], "relu"), partial(MLP, [2, 3, 1], "tanh"), "activation = tanh"),
        (partial(KAN, [2, 1]), partial(KAN, [2, 1], extension="clamp"), "extension = clamp"),
        (partial(KAN, [2, 1]), partial(Twice, [2, 1]), "class = Twice"),
    ],
)
def test_states_of_another_function_are_refused(one, other, text):
    ensemble = Ensemble([one(), one()])
    with pytest.raises(RuntimeError, match=text):
        ensemble.load_state_dict(Ensemble([other(), other()]).state_dict())
    fresh = Ensemble([one(), one()])
    fresh.load_state_dict(ensemble.state_dict())
    x = torch.rand(5, 2)
    assert torch.equal(fresh(x), ensemble(x))


def test_members_with_weights_computed_from_others():
    torch.manual_seed(0)
    x = torch.rand(5, 2)
    members = [nn.Sequential(nn.Linear(2, 3), nn.Tanh()) for _ in range(2)]
    for member in members:
        parametrizations.weight_norm(member[0])
    ensemble = Ensemble(members)
    torch.testing.assert_close(ensemble(x), torch.stack([m(x) for m in members]))
    pruned = nn.Sequential(nn.Linear(2, 3))
    prune.random_unstructured(pruned[0], "weight", 0.4)
    with pytest.raises(ValueError, match=r"cannot honour 'weight' of Linear.*prune\.remove"):
        Ensemble([pruned])


def test_ensemble_of_networks_with_hooks_has_the_jets_of_its_members():
    members = [KAN([2, 3, 1], n=4, first="affine", dtype=torch.float64) for _ in range(2)]
    for member in members:
        member.layers[0].register_forward_hook(torch_sin)
    jet = Jet.at(points(9, 2), pairs=[(0, 1)])
    expected = torch.stack([propagate(m, jet).channels for m in members], dim=1)
    torch.testing.assert_close(propagate(Ensemble(members), jet).channels, expected)


def torch_sin(module, inputs, output):
    return output.sin()


def test_refined_ensemble_keeps_its_class_and_derivatives_that_do_not_exist_are_refused():
    class Mean(Ensemble):
        def forward(self, x):
            return super().forward(x).mean(0)

    mean, x = Mean([KAN([2, 1], n=4, r=2) for _ in range(3)]), torch.rand(5, 2)
    torch.testing.assert_close(mean.refine()(x), mean(x))
    jet = propagate(Ensemble(mean.members()), Jet.at(x, pairs=[(0, 0)]))
    with pytest.raises(ValueError, match="does not exist"):
        jet.d(0, 0)


def test_ensemble_has_the_fourth_derivatives_of_its_members():
    members = [KAN([2, 3, 1], n=4, r=6, dtype=torch.float64) for _ in range(3)]
    jet = Jet.at(torch.rand(9, 2, dtype=torch.float64), pairs=[(0, 0, 0), (0, 0, 1, 1)])
    u = propagate(Ensemble(members), jet)
    for directions in ((0, 0, 0), (0, 0, 1), (0, 0, 1, 1)):
        each = torch.stack([propagate(member, jet).d(*directions) for member in members])
        torch.testing.assert_close(u.d(*directions), each, rtol=1e-12, atol=1e-12)
