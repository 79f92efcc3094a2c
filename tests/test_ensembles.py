"""Ensembles, against their members one by one."""

from functools import partial

import pytest
import torch

from kanlib import KAN, MLP, train, train_multilevel
from kanlib.derivatives import Jet, propagate
from kanlib.ensembles import Ensemble

SIZES = {
    "table 2": partial(KAN, [2, 5, 1], n=5, first="affine"),
    "table 3": partial(KAN, [2, 20, 20, 1], n=5, first="linear"),
    "relu": partial(KAN, [2, 3, 1], n=6, r=3, basis="relu"),
    "normalised": partial(KAN, [2, 3, 1], n=4, normalisation="tanh", input_domain=((0, 1), (0, 2))),
    "mlp": partial(MLP, [2, 6, 1], "tanh"),
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
    with pytest.raises(ValueError, match="member 1 differs from member 0"):
        Ensemble([KAN([2, 1], n=4), KAN([2, 1], n=5)])
    with pytest.raises(ValueError, match=r"\(N, P\) .* or \(1, N, P\), one for each.*\(2, 5, 2\)"):
        Ensemble([KAN([2, 1])])(torch.rand(2, 5, 2))
