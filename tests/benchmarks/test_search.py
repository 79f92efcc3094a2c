"""The benchmark of hyperparameter search: what it records, and that halving does less work."""

import json

import optuna

from benchmarks import search


def test_quick_search_writes_a_record(tmp_path):
    file = tmp_path / "s.json"
    search.main(["--quick", "--out", str(file)])
    record = json.loads(file.read_text())
    whole, rungs = record["searches"]
    assert (whole["search"], rungs["search"]) == ("all levels", "halving")
    assert all(t["state"] == "complete" and t["work"] == 3.0 for t in whole["trials"])
    assert record["provenance"]["versions"]["optuna"] == optuna.__version__


def test_trial_that_is_pruned_ends_with_its_level():
    class Always(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return True

    trials = search.search(0, Always(), 2, [2, 2, 2])
    assert [t["state"] for t in trials] == ["pruned", "pruned"]
    assert [(t["levels"], t["work"], t["error"]) for t in trials] == [(1, 2.0, None)] * 2
