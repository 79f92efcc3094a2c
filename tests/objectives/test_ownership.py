"""What changes from step to step belongs to one owner."""

import copy
import gc
import pickle
from dataclasses import dataclass

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


def loss_of(**options):
    return ResidualLoss(value=term(), **options)


#: For each kind: a new part, the loss that changes it, and the words of the error.
KINDS = {
    "attention": (
        Attention,
        lambda part: ResidualLoss(a=term(attention=part)),
        "attention must not .* Term: give each term one Attention",
    ),
    "causal": (
        lambda: Causal((0, 1)),
        lambda part: ResidualLoss(a=term(causal=part)),
        "causal must not .* Term: give each term one Causal",
    ),
    "balance": (
        Balance,
        lambda part: loss_of(balance=part),
        "balance must not .* give each loss a Balance",
    ),
    "term that is attended to": (
        lambda: term(attention=Attention()),
        lambda part: ResidualLoss(value=part),
        "'value' must not be shared, .* ResidualLoss: .* build one for each loss",
    ),
    "causal term": (
        lambda: term(causal=Causal((0, 1))),
        lambda part: ResidualLoss(value=part),
        "'value' must not be shared, .* build one for each loss",
    ),
    "moving term": (
        moving,
        lambda part: ResidualLoss(value=part),
        "'value' must not be shared, .* build one for each loss",
    ),
}


def stepped(loss):
    """Take a step, after which the parts of a loss change."""
    train(KAN([2, 1], n=3), loss, 1, progress=False)


@pytest.mark.parametrize(("new", "take", "error"), KINDS.values(), ids=KINDS)
def test_part_with_a_state_is_changed_by_its_last_owner_alone(new, take, error):
    part = new()
    former = take(part)
    stepped(former)
    owner = take(part)  # as when a cell is run again
    stepped(owner)
    with pytest.raises(ValueError, match=error):
        stepped(former)
    stepped(owner)
    stepped(copy.deepcopy(former))  # a copy has parts of its own
    del owner
    gc.collect()
    stepped(former)  # nobody else has them now


@pytest.mark.parametrize(("new", "take", "error"), KINDS.values(), ids=KINDS)
def test_shallow_copies_share_their_parts(new, take, error):
    loss = take(new())
    shallow = copy.copy(loss)
    if "Term:" in error:  # the loss has the term, and so may change it
        shallow.terms = {"a": copy.copy(loss.terms["a"])}
    with pytest.raises(ValueError, match="must not be shared"):
        stepped(shallow)
    stepped(loss)


def test_a_loss_that_could_not_be_built_owns_nothing():
    attention, moves = Attention(), moving()
    with pytest.raises(TypeError):
        Term(value, "points", attention=attention)
    with pytest.raises(TypeError):
        ResidualLoss(a=moves, balance=3)
    stepped(ResidualLoss(a=moves, b=term(attention=attention)))


@dataclass
class Halves:
    """A balance of one's own, which has no hash."""

    factors: dict

    def after_step(self, model, objective, parts, residuals):
        self.factors = dict.fromkeys(parts(), 0.5)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Slots(Halves):
    """One that cannot be referred to weakly."""

    __slots__ = ("factors",)


@pytest.mark.parametrize("kind", [Halves, Slots])
def test_balances_of_any_class_are_taken(kind):
    loss = loss_of(balance=kind({}))
    stepped(loss)
    assert loss.weights == {"value": 0.5}


def test_losses_that_share_a_balance_would_change_each_other():
    """What the error prevents: a step of one loss moves the weights of the other."""
    terms = {"a": term(), "b": Term(lambda u, x: 9 * u.d(0), X)}
    one, other = (ResidualLoss(**terms, balance=Balance()) for _ in range(2))
    other.balance = one.balance
    before = other.weights
    stepped(one)
    assert other.weights != before
    with pytest.raises(ValueError, match="balance must not be shared"):
        stepped(other)


def test_what_does_not_change_may_be_shared():
    fixed, sampler = term(), Sampler([(0, 1), (0, 1)], 9, dtype=torch.float64)
    ResidualLoss(a=fixed, b=fixed)
    ResidualLoss(a=fixed)
    Term(value, sampler), Term(value, sampler)  # a draw depends on its number alone


def test_one_loss_cannot_hold_a_part_twice():
    twice = moving()
    with pytest.raises(ValueError, match="term 'b' must be another one than term 'a'"):
        ResidualLoss(a=twice, b=twice)


def test_owners_leave_no_trace_in_the_part():
    part, owner = Attention(), Balance()
    claim(part, owner, "attention")
    claim(part, owner, "attention")
    assert vars(pickle.loads(pickle.dumps(part))) == vars(part)
    claim(None, owner, "attention")
