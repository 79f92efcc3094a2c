"""Estimators: scikit-learn's own checks, and that parameters do what they say."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_swiss_roll
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kanlib import KAN, GaussNewton, MeanSquaredError, lbfgs, train_multilevel
from kanlib.estimators.classification import KANClassifier
from kanlib.estimators.regression import KANRegressor

QUICK = [
    KANRegressor((2,), n=2, r=3, schedule=(8,)),
    KANClassifier((2,), n=2, r=3, schedule=(2,)),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # they warn of what they do
@parametrize_with_checks(QUICK)
def test_estimators_pass_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def wave(points=300, noise=0.0, seed=0):
    """Return inputs (N, 2) far from [-1, 1] and sin(8 x) y of what they are mapped from."""
    rng = np.random.default_rng(seed)
    u = rng.random((points, 2))
    y = np.sin(8 * u[:, 0]) * u[:, 1] + noise * rng.standard_normal(points)
    return u * [300.0, 1e-3] + [5000.0, 0.0], 1e4 + 1e-2 * y


def halves(points=300, seed=0):
    """Return inputs (N, 2) and on which side of a parabola they are."""
    x = np.random.default_rng(seed).random((points, 2))
    return x, np.where(x[:, 1] > 4 * (x[:, 0] - 0.5) ** 2, "above", "below")


def test_regressor_fits_new_data_of_any_units():
    x, y = wave()
    model = KANRegressor(random_state=0).fit(x, y)
    assert model.score(*wave(seed=1)) > 0.999
    assert [level.n for level in model.run_.levels] == [4, 8]
    assert model.n_iter_ == 30


def test_rows_where_training_had_few_are_no_catastrophe():
    """On this fold a hidden value of new rows lies where few rows of training had theirs."""
    x, y = make_swiss_roll(500, noise=0.5, random_state=0)
    train, test = list(KFold(3, shuffle=True, random_state=1).split(x))[1]
    options = {"n": 2, "r": 3, "early_stopping": True, "validation_fraction": 0.2}
    model = KANRegressor((2,), **options, random_state=1).fit(x[train], y[train])
    assert model.score(x[test], y[test]) > 0.95


def test_regressor_is_the_network_that_kanlib_trains():
    x, y = wave(60)
    found = KANRegressor((3,), schedule=(3, 2), optimizer=lbfgs, random_state=7).fit(x, y)
    inputs, scaled = torch.tensor(x), torch.tensor((y - y.mean()) / y.std())[:, None]
    torch.manual_seed(np.random.RandomState(7).randint(2**31 - 1))
    box = [*zip(x.min(0).tolist(), x.max(0).tolist(), strict=True)]
    model = KAN([2, 3, 1], n=4, domain=(-1, 1), input_domain=box, dtype=torch.float64)
    run = train_multilevel(model, MeanSquaredError(inputs, scaled), [3, 2], progress=False)
    expected = run.model(inputs)[:, 0].detach().numpy() * y.std() + y.mean()
    np.testing.assert_allclose(found.predict(x), expected, rtol=1e-12)


def test_regressor_takes_several_targets_and_gives_them_back():
    x, y = wave(100)
    both = np.stack([y, 3 - 2 * y], axis=1)
    predicted = KANRegressor(random_state=0).fit(x, both).predict(x)
    assert predicted.shape == both.shape
    assert np.abs(predicted - both).max() < 1e-2 * np.ptp(y)


def test_a_constant_column_and_a_constant_target_are_no_obstacle():
    x = wave(50)[0]
    x[:, 1] = 1e20
    model = KANRegressor((2,), schedule=(3,), random_state=0).fit(x, np.full(50, 3.5))
    np.testing.assert_allclose(model.predict(x), 3.5, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_classifier_learns_a_curve(optimizer):
    more = {} if optimizer == "lbfgs" else {"batch_size": 50, "learning_rate": 0.03}
    epochs = (5, 5) if optimizer == "lbfgs" else (30, 10)
    model = KANClassifier((3,), schedule=epochs, optimizer=optimizer, random_state=0, **more)
    model.fit(*halves())
    assert model.score(*halves(seed=1)) > 0.93
    chances = model.predict_proba(halves()[0])
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    assert list(model.classes_) == ["above", "below"]


def test_a_seed_gives_one_network_and_leaves_torchs_generator_alone():
    x, y = halves(60)
    options = {"optimizer": "adam", "batch_size": 16, "early_stopping": True, "schedule": (3, 2)}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, other = (KANClassifier(random_state=3, **options).fit(x, y) for _ in range(2))
    np.testing.assert_array_equal(one.predict_proba(x), other.predict_proba(x))
    assert torch.equal(torch.rand(3), expected)
    third = KANClassifier(random_state=4, **options).fit(x, y)
    assert not np.array_equal(third.predict_proba(x), one.predict_proba(x))


def test_early_stopping_keeps_the_best_network_on_held_out_data():
    x, y = wave(80, noise=0.5)
    options = {"hidden": (8,), "schedule": (60, 60), "random_state": 1}
    early = KANRegressor(**options, early_stopping=True, patience=3).fit(x, y)
    late = KANRegressor(**options).fit(x, y)
    assert early.n_iter_ < late.n_iter_
    assert any("fell by less than" in level.message for level in early.run_.levels)
    new = wave(2000, seed=1)
    assert early.score(*new) > late.score(*new)


def test_early_stopping_holds_out_a_share_of_each_class():
    x, y = halves(100)
    rare = np.where(np.arange(100) < 10, "rare", y)
    model = KANClassifier((2,), schedule=(2,), early_stopping=True, random_state=0)
    codes = np.unique(rare, return_inverse=True)[1]
    parts = model._split([x, codes, x[:, 0]], None, 0)
    assert [len(part) for part in parts] == [90, 10] * 3
    assert np.array_equal(parts[4], parts[0][:, 0])  # weights go with their samples
    _, _, kept, held = model._split([x, codes], codes, 0)
    assert np.bincount(held)[-1] == 1
    assert np.bincount(kept)[-1] == 9


@pytest.mark.parametrize("options", [{}, {"optimizer": "adam"}, {"optimizer": "lbfgs"}])
def test_sample_of_weight_two_counts_as_two(options):
    """That is a check of scikit-learn, too, for the optimizers that are chosen by default."""
    x, y = wave(60, noise=1.0)
    y = 100 * (y - y.mean())
    counts = np.random.default_rng(0).integers(0, 4, 60)
    model = KANRegressor((2,), schedule=(3,), random_state=0, **options)
    repeated = clone(model).fit(np.repeat(x, counts, axis=0), np.repeat(y, counts))
    weighted = clone(model).fit(x, y, sample_weight=2.5 * counts)
    found, same = weighted.predict(x), repeated.predict(x)
    np.testing.assert_allclose(found, same, rtol=1e-8, atol=1e-8)
    assert not np.allclose(found, clone(model).fit(x, y).predict(x), rtol=1e-2)


@pytest.mark.parametrize(
    "options",
    [{"early_stopping": True, "optimizer": "adam"}, {"batch_size": 16, "optimizer": "adam"}],
)
def test_equal_weights_change_nothing(options):
    x, y = halves(60)
    model = KANClassifier((2,), schedule=(4,), random_state=0, **options)
    found = clone(model).fit(x, y, sample_weight=np.full(60, 3.0)).predict_proba(x)
    np.testing.assert_allclose(found, clone(model).fit(x, y).predict_proba(x), rtol=1e-10)


def test_estimators_work_in_pipelines_searches_and_pickles():
    x, y = wave(90)
    pipeline = make_pipeline(StandardScaler(), KANRegressor((2,), schedule=(10,), random_state=0))
    search = GridSearchCV(pipeline, {"kanregressor__r": [1, 4]}, cv=2).fit(x, y)
    assert search.best_params_ == {"kanregressor__r": 4}
    best = search.best_estimator_
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(again.predict(x), best.predict(x))
    useless = np.column_stack([x, np.random.default_rng(0).random(90)])
    fitted = clone(pipeline).fit(useless, y)
    found = permutation_importance(fitted, useless, y, n_repeats=3, random_state=0)
    assert found.importances_mean.argmin() == 2


def test_fitted_estimator_does_not_hold_the_data():
    small, large = (KANRegressor((2,), schedule=(2,)).fit(*wave(n)) for n in (50, 5000))
    assert len(pickle.dumps(large)) < len(pickle.dumps(small)) + 1000


def test_divergence_is_a_warning_of_scikit_learn():
    model = KANRegressor(optimizer="adam", learning_rate=1e300, schedule=(5,))
    with pytest.warns(ConvergenceWarning, match="loss became"):
        model.fit(*wave(50))
    assert np.isfinite(model.predict(wave(50)[0])).all()


@pytest.mark.parametrize("kind", [KANRegressor, KANClassifier])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden": 5}, TypeError, "hidden must be a list of widths, got 5"),
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"first": "relu"}, ValueError, "first must be one of"),
        ({"schedule": ()}, ValueError, "epochs must be a list of integers"),
        ({"optimizer": "sgd"}, ValueError, "optimizer must be one of"),
        ({"batch_size": 8, "optimizer": "lbfgs"}, ValueError, "batch_size must be None for"),
        ({"batch_size": 0, "optimizer": "adam"}, ValueError, "batch_size must be at least 1"),
        ({"learning_rate": 0, "optimizer": "adam"}, ValueError, "learning_rate must be a finite"),
        ({"early_stopping": "yes"}, TypeError, "early_stopping must be True or False, got 'yes'"),
        ({"early_stopping": True, "patience": 0}, ValueError, "patience must be at least 1"),
        (
            {"early_stopping": True, "validation_fraction": 1.0},
            ValueError,
            "validation_fraction must leave something to train with, got 1 of 40 samples",
        ),
    ],
)
def test_estimators_name_a_bad_parameter(kind, options, error, message):
    x, y = halves(40)
    target = y if kind is KANClassifier else x[:, 0]
    with pytest.raises(error, match=message):
        kind(**options).fit(x, target)


@pytest.mark.parametrize("optimizer", ["gauss-newton", GaussNewton()])
def test_classifier_refuses_gauss_newton(optimizer):
    with pytest.raises(ValueError, match=r"must not be Gauss-Newton for classes.*choose 'lbfgs'"):
        KANClassifier(optimizer=optimizer).fit(*halves(20))


@pytest.mark.parametrize("optimizer", ["lbfgs", lbfgs, GaussNewton()])
def test_optimizers_of_all_data_refuse_batches(optimizer):
    with pytest.raises(ValueError, match="batch_size must be None for optimizer"):
        KANRegressor(optimizer=optimizer, batch_size=10).fit(*wave(40))


@pytest.mark.parametrize("value", [0.1, 1 / 3, -1e5 / 3])
def test_rounding_of_constant_targets_is_not_learned(value):
    x, _ = wave(60)
    model = KANRegressor(schedule=(20,), random_state=0).fit(x, np.full(60, value))
    assert model.scale_ == 1
    np.testing.assert_allclose(model.predict(x), value, rtol=0, atol=1e-3)


def test_targets_without_a_finite_variance_are_refused():
    x, y = wave(60)
    with pytest.raises(ValueError, match="y must have a finite variance in float64, got values up"):
        KANRegressor(schedule=(2,)).fit(x, 1e300 * y)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_estimators_are_fitted_in_code_without_gradients(mode):
    x, y = wave(60)
    options = {"schedule": (2,), "early_stopping": True, "random_state": 0}
    expected = KANRegressor(**options).fit(x, y).predict(x)
    with mode():
        found = KANRegressor(**options).fit(x, y).predict(x)
    np.testing.assert_array_equal(found, expected)


def test_interrupt_ends_a_fit(monkeypatch):
    def interrupt(model, objective, *args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("kanlib.estimators.fitting._Mean.__call__", interrupt)
    with warnings.catch_warnings(), pytest.raises(KeyboardInterrupt):
        KANRegressor(optimizer="adam", batch_size=8).fit(*wave(20))
