"""The benchmark of tables: its scores, its records, and pykan where it is installed."""

import json
import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold

from benchmarks import tables
from kanlib.estimators.regression import KANRegressor
from kanlib.paper.records import RESULTS

QUICK = ["gradient boosting", "ridge regression"]


def test_run_is_recorded_and_not_repeated(tmp_path):
    out = tmp_path / "t.json"
    arguments = ["--rows", "60", "--seeds", "3", "--out", str(out), "--only"]
    tables.main([*arguments, QUICK[1]])
    first = json.loads(out.read_text())["runs"]
    tables.main([*arguments, *QUICK])
    content = json.loads(out.read_text())
    assert content["runs"][: len(first)] == first
    found = {(run["table"], run["regressor"]) for run in content["runs"]}
    assert found == {(table, name) for table in tables.tables(60) for name in QUICK}
    assert len(content["runs"]) == len(found)
    assert all(len(run["scores"]) == len(run["seconds"]) == 3 for run in content["runs"])
    assert "scikit-learn" in content["provenance"]["versions"]


def test_scores_are_those_of_data_that_were_not_seen():
    """An oracle: each fold predicted by hand from the other two, without the pipeline."""
    x, y = tables.tables(90)["Friedman 1"]
    expected = []
    for train, test in KFold(3, shuffle=True, random_state=7).split(x):
        shift, scale = x[train].mean(0), x[train].std(0)
        line = RidgeCV().fit((x[train] - shift) / scale, y[train])
        expected.append(r2_score(y[test], line.predict((x[test] - shift) / scale)))
    found = tables.solve("ridge regression", x, y, 7)
    assert found["scores"] == pytest.approx(expected, abs=1e-5)
    assert found["fits at the limit"] == 0


def test_network_of_kanlib_is_scored():
    x, y = tables.tables(60)["Friedman 3"]
    found = tables.solve("KANRegressor", x, y, 0)
    assert len(found["scores"]) == 3
    assert 0 < max(found["scores"]) < 1
    assert min(found["seconds"]) > 0


def test_tables_have_noise_and_repeat():
    for name, (x, y) in tables.tables(100).items():
        again = tables.tables(100)[name]
        assert np.array_equal(x, again[0])
        assert np.array_equal(y, again[1])
        assert x.shape[0] == len(y) == 100
    x, t = tables.tables(400)["Swiss roll"]
    off = np.hypot(x[:, 0] - t * np.cos(t), x[:, 2] - t * np.sin(t))
    assert 0.4 < off.mean() < 0.9  # 0.5 sqrt(pi / 2) is expected


def test_pykan_learns_in_units_of_its_own(monkeypatch):
    pytest.importorskip("kan")
    x = np.random.default_rng(0).uniform(-1, 1, (80, 2))
    y = 1e4 + 100 * np.sin(3 * x[:, 0]) + 50 * x[:, 1]
    model = tables.Pykan(hidden=2, steps=8).fit(1e-3 * x, y)
    assert model.whole_
    assert model.score(1e-3 * x, y) > 0.95
    assert torch.get_default_dtype() == torch.float32
    monkeypatch.setattr(tables, "LIMIT", 0.5)
    model = tables.Pykan(hidden=2, steps=10_000).fit(x, y)
    assert not model.whole_
    assert np.isfinite(model.predict(x)).all()


def test_record_is_whole_and_from_a_commit():
    content = json.loads((RESULTS / "tables.json").read_text(encoding="utf-8"))
    assert content["provenance"]["dirty"] is False
    found = [(run["table"], run["regressor"], run["seed"]) for run in content["runs"]]
    whole = {
        (table, name, seed)
        for table in tables.tables(10)
        for name in tables.REGRESSORS
        for seed in tables.SEEDS
    }
    assert len(found) == len(whole)
    assert {*found} == whole


def test_setting_of_kanlib_is_that_of_the_page():
    page = json.loads((RESULTS.parent / "other-peoples-code.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in page["cells"] if cell["cell_type"] == "code"]
    written = re.search(r"^kan = (KANRegressor\(.*?^\))", "\n".join(code), flags=re.M | re.S)[1]
    assert repr(eval(written, {"KANRegressor": KANRegressor})) == repr(
        tables.regressor("KANRegressor", 0)
    )
