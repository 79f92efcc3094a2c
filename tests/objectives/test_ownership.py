"""What changes from step to step belongs to one owner."""

import copy
import gc
import pickle

import pytest
import torch

from kanlib import KAN, Attention, Balance, Causal, ResidualLoss, Sampler, Term, train
from kanlib.objectives.ownership import claim

pytestmark = pytest.mark.usefixtures("float64")
X = torch.rand(9, 2, dtype=torch.float64)


def value(u, x):
    return u.value - x[:, :1]


def term(**options):
    return Term(value, X, directions=(), **options)


def moving():
    return Term(value, Sampler([(0, 1), (0, 1)], 9, dtype=torch.float64), directions=())


#: For each kind: a new part, what takes it, and the words of the error.
KINDS = {
    "attention": (Attention, lambda part: term(attention=part), "give each term an Attention"),
    "causal": (lambda: Causal((0, 1)), lambda part: term(causal=part), "give each term a Causal"),
    "balance": (
        Balance,
        lambda part: ResidualLoss(value=term(), balance=part),
        "give each loss a Balance of its own",
    ),
    "term that is attended to": (
        lambda: term(attention=Attention()),
        lambda part: ResidualLoss(value=part),
        "build one for each loss",
    ),
    "causal term": (
        lambda: term(causal=Causal((0, 1))),
        lambda part: ResidualLoss(value=part),
        "build one for each loss",
    ),
    "moving term": (moving, lambda part: ResidualLoss(value=part), "build one for each loss"),
}


@pytest.mark.parametrize(("new", "take", "remedy"), KINDS.values(), ids=KINDS)
def test_part_with_a_state_has_one_owner(new, take, remedy):
    part = new()
    owner = take(part)
    with pytest.raises(ValueError, match=f"must not be shared.*in use: .*{remedy}"):
        take(part)
    take(copy.deepcopy(part))  # a copy is another part
    del owner
    gc.collect()
    take(part)  # its owner is gone


def test_losses_that_share_a_balance_would_change_each_other():
    """What the error prevents: a step of one loss moves the weights of the other."""
    terms = {"a": term(), "b": Term(lambda u, x: 9 * u.d(0), X)}
    one, other = (ResidualLoss(**terms, balance=Balance()) for _ in range(2))
    other.balance = one.balance
    before = other.weights
    train(KAN([2, 1], n=3), one, 1, progress=False)
    assert other.weights != before


def test_what_does_not_change_may_be_shared():
    fixed, sampler = term(), Sampler([(0, 1), (0, 1)], 9, dtype=torch.float64)
    ResidualLoss(a=fixed, b=fixed)
    ResidualLoss(a=fixed)
    Term(value, sampler), Term(value, sampler)  # a draw depends on its number alone


def test_one_loss_cannot_hold_a_part_twice():
    twice = moving()
    with pytest.raises(ValueError, match="term 'b' must not be shared"):
        ResidualLoss(a=twice, b=twice)


def test_owners_leave_no_trace_in_the_part():
    part, owner = Attention(), Balance()
    claim(part, owner, "attention", "")
    claim(part, owner, "attention", "")
    assert vars(pickle.loads(pickle.dumps(part))) == vars(part)
    claim(None, owner, "attention", "")
