"""Records: JSON that is complete, checked, never half written, and says where it comes from."""

import json
import math
import os
import subprocess
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import torch

import kanlib
from kanlib.records import (
    add_run,
    curve,
    find_run,
    load_record,
    new_record,
    provenance,
    runs_of,
    save_record,
    value_at,
)

RESULTS = Path(__file__).parents[1] / "book" / "results"


def a_run(case="a", seed=1, loss=0.5, **fields):
    return {
        "case": case,
        "seed": seed,
        "config": {"n": 5},
        "num_parameters": 55,
        "status": "completed",
        "message": "",
        "levels": [{"n": 5, "loss": loss}],
        "metrics": {"train_mse": loss},
        **fields,
    }


def a_record(*runs):
    record = new_record("regression", {"a": {"mean": 1.0, "stdev": 0.5}})
    for run in runs:
        add_run(record, run)
    return record


def stored(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"has {name}"))


# Runs in a record


def test_record_keeps_one_run_of_a_case_and_seed():
    record = a_record(a_run("a", 2), a_run("a", 1, 0.1), a_run("b", 1), a_run("a", 1, 0.2))
    assert [(r["case"], r["seed"], r["metrics"]["train_mse"]) for r in record["runs"]] == [
        ("a", 2, 0.5),
        ("b", 1, 0.5),
        ("a", 1, 0.2),
    ]
    assert [r["seed"] for r in runs_of(record, "a")] == [1, 2]
    assert find_run(record, "a", 1)["metrics"] == {"train_mse": 0.2}
    assert find_run(record, "a", 3) is None
    assert runs_of(record, "c") == []


# Writing and reading


def test_record_returns_what_was_saved(tmp_path):
    path = tmp_path / "folder" / "r.json"
    record = a_record(a_run(), a_run("b", message="ü\n"))
    save_record(path, record)
    again = load_record(path, "regression")
    assert again.pop("provenance")["versions"]["kanlib"] == kanlib.__version__
    assert again == record
    save_record(path, again)
    assert load_record(path)["runs"] == record["runs"]


def test_record_without_runs_is_one(tmp_path):
    save_record(tmp_path / "r.json", a_record())
    assert load_record(tmp_path / "r.json")["runs"] == []


def test_record_has_one_line_a_run(tmp_path):
    path = tmp_path / "r.json"
    save_record(path, a_record(a_run("a"), a_run("b")))
    lines = path.read_text().splitlines()
    assert [json.loads(line.strip(" ,"))["case"] for line in lines if '"case"' in line] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_numbers_that_are_not_finite_become_null(value, tmp_path):
    path = tmp_path / "r.json"
    levels = [{"loss": value, "history": (1.0, value)}]
    save_record(path, a_record(a_run(loss=value, levels=levels)))
    (run,) = stored(path)["runs"]
    assert run["metrics"] == {"train_mse": None}
    assert run["levels"] == [{"loss": None, "history": [1.0, None]}]


def test_numbers_keep_seven_digits_and_integers_all(tmp_path):
    save_record(tmp_path / "r.json", a_record(a_run(seed=2**60 + 1, loss=math.pi * 1e-9)))
    (run,) = load_record(tmp_path / "r.json")["runs"]
    assert run["seed"] == 2**60 + 1
    assert run["metrics"]["train_mse"] == 3.141593e-9


def test_value_without_json_form_leaves_the_old_record(tmp_path):
    path = tmp_path / "r.json"
    save_record(path, a_record(a_run()))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_record(path, a_record(a_run(loss=torch.zeros(()))))
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_save_that_is_cut_off_leaves_the_old_record(call, tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    save_record(path, a_record(a_run()))
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            save_record(path, a_record(a_run(), a_run("b")))
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_readers_always_find_a_whole_record(tmp_path):
    path = tmp_path / "r.json"
    save_record(path, a_record(a_run()))
    sizes, done = set(), threading.Event()

    def read():
        while not done.is_set():
            sizes.add(len(load_record(path)["runs"]))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for size in range(1, 15):
        save_record(path, a_record(*(a_run("a", seed) for seed in range(size))))
    done.set()
    for reader in readers:
        reader.join()
    assert sizes <= set(range(1, 15))


# Files that are no records


def test_missing_record_is_reported_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist: create it with pyth"):
        load_record(tmp_path / "none.json")


def test_truncated_record_is_refused_at_any_length(tmp_path):
    path = tmp_path / "r.json"
    save_record(path, a_record(a_run()))
    content = path.read_bytes().rstrip()
    for length in range(0, len(content), 20):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"r\.json is truncated or not JSON.*restore or del"):
            load_record(path)


FOREIGN = {
    "binary": b"\x80\x04\xff\xfe",
    "text": b"hello",
    "deep": b"[" * 100_000,
    "list": b"[]",
    "number": b"1",
    "object": b"{}",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_file_is_refused(content, tmp_path):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"record .*r\.json is (truncated or not JSON|not of kan)"):
        load_record(path)


def changed(path, **fields):
    record = {**a_record(a_run()), "provenance": {}, **fields}
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
    return path


@pytest.mark.parametrize("field", ["schema", "experiment", "provenance", "paper", "runs"])
@pytest.mark.parametrize("value", [None, 1.5])
def test_record_lacking_a_field_is_refused(field, value, tmp_path):
    path = changed(tmp_path / "r.json", **{field: value})
    with pytest.raises(ValueError, match=rf"lacks {field}, or holds other types there; restore"):
        load_record(path)


@pytest.mark.parametrize("field", [*a_run(), None])
def test_run_lacking_a_field_is_refused(field, tmp_path):
    bad = {k: v for k, v in a_run().items() if k != field} if field else "no run"
    path = changed(tmp_path / "r.json", runs=[a_run(), bad])
    with pytest.raises(
        ValueError, match=rf"run 1 of record .*r\.json is not .*lacks {field or ''}"
    ):
        load_record(path)


def test_record_of_another_schema_is_refused(tmp_path):
    path = changed(tmp_path / "r.json", schema=2)
    with pytest.raises(ValueError, match="has schema 2, this version reads 1: run the experiment"):
        load_record(path)


def test_record_of_another_experiment_is_refused(tmp_path):
    path = changed(tmp_path / "r.json", experiment="poisson")
    assert load_record(path)["experiment"] == "poisson"
    with pytest.raises(ValueError, match="belongs to experiment 'poisson', not 'regression': choo"):
        load_record(path, "regression")


# Where a record comes from


def test_provenance_tells_versions_machine_and_date():
    made = provenance()
    assert made["versions"]["torch"] == torch.__version__
    assert made["versions"]["numpy"] == np.__version__
    assert made["threads"] == torch.get_num_threads()
    age = datetime.now(timezone.utc) - datetime.fromisoformat(made["date"])
    assert timedelta(seconds=-2) < age < timedelta(minutes=5)
    json.dumps(made)


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_provenance_tells_commit_and_uncommitted_changes(tmp_path, monkeypatch):
    module = tmp_path / "kanlib" / "records.py"
    module.parent.mkdir()
    module.write_text("first")
    monkeypatch.setattr("kanlib.records.__file__", str(module))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert [provenance()[key] for key in ("commit", "dirty")] == [None, None]
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert [provenance()[key] for key in ("commit", "dirty")] == [commit, False]
    (tmp_path / "elsewhere").write_text("not part of the package")
    assert provenance()["dirty"] is False
    module.write_text("second")
    assert [provenance()[key] for key in ("commit", "dirty")] == [commit, True]


def test_provenance_without_git_says_so(monkeypatch):
    monkeypatch.setenv("PATH", str(Path("/nonexistent")))
    assert [provenance()[key] for key in ("commit", "dirty")] == [None, None]


def test_curve_counts_epochs_through_all_levels():
    history = {
        "work": [0.0, 2.0, 2.0, 8.0],
        "epoch": [0, 2, 0, 3],
        "loss": [4.0, 3.0, 3.0, 1.0],
        "errors": [[0.0, 0, 0.9], [1.0, 1, 0.8], [2.0, 2, 0.7], [2.0, 0, 0.7], [8.0, 3, 0.1]],
    }
    run = {"history": history}
    assert curve(run) == ([0, 2, 2, 5], [4.0, 3.0, 3.0, 1.0])
    assert curve(run, "error") == ([0, 1, 2, 2, 5], [0.9, 0.8, 0.7, 0.7, 0.1])
    assert curve(run, "error", "work") == ([0.0, 1.0, 2.0, 2.0, 8.0], [0.9, 0.8, 0.7, 0.7, 0.1])
    with pytest.raises(ValueError, match=r"figure must be .*'losses'"):
        curve(run, "losses")
    assert [value_at(run, "error", work) for work in (0, 1.5, 2.0, 9.0)] == [0.9, 0.8, 0.7, 0.1]
    assert value_at(run, "loss", 7.9) == 3.0
    with pytest.raises(ValueError, match=r"work must be at least 0, .* got -1"):
        value_at(run, "error", -1)


def test_curve_of_a_committed_run_ends_with_its_loss_and_error():
    record = load_record(RESULTS / "poisson.json", "poisson")
    for run in runs_of(record, "spline-multilevel"):
        epochs, losses = curve(run)
        assert epochs[-1] == sum(level["steps"] for level in run["levels"]) == 5000
        assert losses[-1] == run["metrics"]["loss"]
        assert curve(run, "error")[0][-1] == 5000
        assert curve(run, "error")[1][-1] == run["metrics"]["error"]
