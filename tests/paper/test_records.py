"""Records: JSON that is complete, checked, never half written, and says where it comes from."""

import json
import math
import os
import subprocess
import threading
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import torch

import kanlib
from kanlib.paper.experiments import EXPERIMENTS
from kanlib.paper.records import (
    RESULTS,
    Measurement,
    PaperValue,
    Provenance,
    Record,
    RecordedHistory,
    RecordedLevel,
    RecordedRun,
    add_run,
    curve,
    find_run,
    load_record,
    provenance,
    runs_of,
    save_record,
    value_at,
)


def a_level(**fields):
    counts = dict.fromkeys(["n", "num_parameters", "steps", "evaluations"], 5)
    return {**counts, **dict.fromkeys(["loss", "error", "work", "seconds"], 0.5), **fields}


def in_json(case="a", seed=1, loss=0.5, **fields):
    """Return a run as a file has it, but for its digest."""
    return {
        "case": case,
        "seed": seed,
        "config": {"n": 5},
        "num_parameters": 55,
        "status": "completed",
        "message": "",
        "levels": [a_level(loss=loss)],
        "metrics": {"train_mse": loss},
        **fields,
    }


def a_run(*arguments, **fields):
    run = in_json(*arguments, **fields)
    levels = [RecordedLevel(**level) for level in run["levels"]]
    return RecordedRun(**{**run, "levels": levels})


def a_history():
    whole, parts = [0, 1], [0.5, 0.25]
    return {"level": whole, "epoch": whole, "evaluations": whole, "work": parts, "loss": parts}


MADE = Provenance(None, None, {"kanlib": "1.0"}, "a machine", 1, "then")


def a_record(*runs):
    record = Record("regression", {"a": PaperValue(1.0, 0.5, "Table 2")}, provenance=MADE)
    for run in runs:
        add_run(record, run)
    return record


def stored(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"has {name}"))


# Runs in a record


def test_record_keeps_one_run_of_a_case_and_seed():
    record = a_record(a_run("a", 2), a_run("a", 1, 0.1), a_run("b", 1), a_run("a", 1, 0.2))
    assert [(r.case, r.seed, r.metrics["train_mse"]) for r in record.runs] == [
        ("a", 2, 0.5),
        ("b", 1, 0.5),
        ("a", 1, 0.2),
    ]
    assert [r.seed for r in runs_of(record, "a")] == [1, 2]
    assert find_run(record, "a", 1).metrics == {"train_mse": 0.2}
    assert find_run(record, "a", 3) is None
    assert runs_of(record, "c") == []


# Writing and reading


def test_record_returns_what_was_saved(tmp_path):
    path = tmp_path / "folder" / "r.json"
    record = a_record(a_run(), a_run("b", message="ü\n"))
    save_record(path, record)
    assert load_record(path, "regression") == record


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_committed_record_is_saved_as_it_was_byte_for_byte(name, tmp_path):
    save_record(tmp_path / "r.json", load_record(RESULTS / f"{name}.json", name))
    assert (tmp_path / "r.json").read_bytes() == (RESULTS / f"{name}.json").read_bytes()


def test_record_without_runs_is_one(tmp_path):
    save_record(tmp_path / "r.json", a_record())
    assert load_record(tmp_path / "r.json").runs == []


def test_record_has_one_line_a_run(tmp_path):
    path = tmp_path / "r.json"
    save_record(path, a_record(a_run("a"), a_run("b")))
    lines = path.read_text().splitlines()
    assert [json.loads(line.strip(" ,"))["case"] for line in lines if '"case"' in line] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), 1e305])
def test_numbers_that_no_record_can_hold_become_null(value, tmp_path):
    path = tmp_path / "r.json"
    history = RecordedHistory(**{**a_history(), "loss": [1.0, value]})
    save_record(path, a_record(a_run(loss=value, history=history)))
    (run,) = stored(path)["runs"]
    assert run["metrics"] == {"train_mse": None}
    assert run["levels"] == [a_level(loss=None)]
    assert run["history"]["loss"] == [1.0, None]
    (run,) = load_record(path).runs
    assert (run.levels[0].loss, run.history.loss[1]) == (None, None)


def test_numbers_keep_seven_digits_and_integers_all(tmp_path):
    save_record(tmp_path / "r.json", a_record(a_run(seed=2**60 + 1, loss=math.pi * 1e-9)))
    (run,) = load_record(tmp_path / "r.json").runs
    assert run.seed == 2**60 + 1
    assert run.metrics["train_mse"] == 3.141593e-9


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
            sizes.add(len(load_record(path).runs))

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
    paper = {"a": {"mean": 1.0, "stdev": 0.5, "source": "Table 2"}}
    head = {"schema": 1, "experiment": "regression", "paper": paper, "provenance": asdict(MADE)}
    record = {**head, "runs": [in_json()], **fields}
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
    return path


@pytest.mark.parametrize("field", ["schema", "experiment", "provenance", "paper", "runs"])
@pytest.mark.parametrize("value", [None, 1.5, True])
def test_record_lacking_a_field_is_refused(field, value, tmp_path):
    path = changed(tmp_path / "r.json", **{field: value})
    with pytest.raises(
        ValueError, match=rf": {field} (is missing|must be an? .*, got .*); restore"
    ):
        load_record(path)


@pytest.mark.parametrize("field", [*in_json(), None])
def test_run_lacking_a_field_is_refused(field, tmp_path):
    bad = {k: v for k, v in in_json().items() if k != field} if field else "no run"
    path = changed(tmp_path / "r.json", runs=[in_json(), bad])
    what = f"{field} is missing" if field else "it must be an object, got 'no run'"
    with pytest.raises(ValueError, match=rf"run 1 of record .*r\.json is not .*: {what}; restore"):
        load_record(path)


WRONG = {
    "huge seed as a text": ({"seed": "1"}, "seed must be an integer, got '1'"),
    "seed": ({"seed": 1.0}, "seed must be an integer, got 1.0"),
    "truth": ({"num_parameters": True}, "num_parameters must be an integer, got True"),
    "metrics": ({"metrics": [1.0]}, r"metrics must be an object, got \[1.0\]"),
    "metric": ({"metrics": {"error": "0.5"}}, "metrics.error must be a number, got '0.5'"),
    "large": ({"metrics": {"error": 10**400}}, "metrics.error must be a number, got 1000"),
    "lists": ({"metrics": {"error": [0.5]}}, r"metrics.error must be a number, got \[0.5\]"),
    "level": ({"levels": [a_level(), 7]}, r"levels\[1\] must be an object, got 7"),
    "loss": ({"levels": [a_level(loss="x")]}, r"levels\[0\].loss must be a number, got 'x'"),
    "n": ({"levels": [a_level(n=4.0)]}, r"levels\[0\].n must be an integer, got 4.0"),
    "no work": (
        {"levels": [{k: v for k, v in a_level().items() if k != "work"}]},
        r"levels\[0\].work is missing",
    ),
    "history": ({"history": []}, r"history must be an object, got \[\]"),
    "epoch": (
        {"history": {**a_history(), "epoch": [0, None]}},
        r"history.epoch\[1\] must be an integer, got None",
    ),
    "errors": (
        {"history": {**a_history(), "errors": [0.5]}},
        r"history.errors\[0\] must be a list, got 0.5",
    ),
    "row": (
        {"history": {**a_history(), "errors": [[0.5, 1]]}},
        r"history.errors\[0\] must have 3 entries, got \[0.5, 1\]",
    ),
    "entry": (
        {"history": {**a_history(), "errors": [[0.5, 1.5, 0.1]]}},
        r"history.errors\[0\]\[1\] must be an integer, got 1.5",
    ),
    "solutions": (
        {"solutions": {"1": [], "one": []}},
        "names in solutions must be integers, got 'one'",
    ),
    "dirty": (
        {"provenance": {**asdict(MADE), "dirty": 1}},
        "provenance.dirty must be true or false, got 1",
    ),
    "unknown": ({"levels": [a_level(epoch=5)]}, r"levels\[0\].epoch is unknown"),
    "lengths": (
        {"history": {**a_history(), "epoch": [0]}},
        "a with seed 1, was changed after it was written",
    ),
}


@pytest.mark.parametrize(("fields", "text"), WRONG.values(), ids=WRONG)
def test_run_with_a_wrong_type_is_refused_in_one_sentence(fields, text, tmp_path):
    path = changed(tmp_path / "r.json", runs=[in_json(**fields)])
    with pytest.raises(ValueError, match=rf"run 0 of record .*r\.json.*{text}.*restore") as caught:
        load_record(path)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_number_that_json_or_floats_lack_is_refused(text, tmp_path):
    path = changed(tmp_path / "r.json", runs=[in_json(metrics={"error": 12321})])
    path.write_text(path.read_text().replace("12321", text))
    with pytest.raises(ValueError, match=r"r\.json is (not of kanlib|truncated or)"):
        load_record(path)


def test_wrong_value_of_the_paper_is_refused(tmp_path):
    path = changed(tmp_path / "r.json", paper={"a": {"mean": "1", "stdev": 0.5, "source": ""}})
    with pytest.raises(ValueError, match=r"paper\.a\.mean must be a number, got '1'; restore"):
        load_record(path)


def test_run_that_is_there_twice_is_refused(tmp_path):
    path = changed(tmp_path / "r.json", runs=[in_json(), in_json("b"), in_json(loss=0.1)])
    with pytest.raises(ValueError, match=r"run 2 of .* is a second one of a with seed 1: remove"):
        load_record(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"loss": 0.25', '"loss": 2.5'), ("[0.5, 0.25]", "[0.5, 0.26]"), ('"n": 5', '"n": 6')],
)
def test_run_that_was_changed_after_it_was_written_is_refused(old, new, tmp_path):
    path = tmp_path / "r.json"
    save_record(
        path, a_record(a_run("b"), a_run(loss=0.25, history=RecordedHistory(**a_history())))
    )
    text = path.read_text()
    assert '"digest": "' in text
    before, after = text.rsplit(old, 1)
    path.write_text(before + new + after)
    with pytest.raises(ValueError, match=r"run 1 of .*, a with seed 1, was changed after it was"):
        load_record(path)


def test_digest_does_not_depend_on_the_order_of_fields_or_on_the_kind_of_keys(tmp_path):
    path = tmp_path / "r.json"
    record = a_record(a_run(solutions={level: [0.5] for level in (2, 10, 1)}))
    save_record(path, record)
    (run,) = stored(path)["runs"]
    assert [*run["solutions"]] == ["2", "10", "1"]
    changed(path, runs=[dict(reversed(run.items()))])
    assert load_record(path) == record


def test_record_of_another_schema_is_refused(tmp_path):
    path = changed(tmp_path / "r.json", schema=2)
    with pytest.raises(ValueError, match="has schema 2, this version reads 1: run the experiment"):
        load_record(path)


def test_record_of_another_experiment_is_refused(tmp_path):
    path = changed(tmp_path / "r.json", experiment="poisson")
    assert load_record(path).experiment == "poisson"
    with pytest.raises(ValueError, match="belongs to experiment 'poisson', not 'regression': choo"):
        load_record(path, "regression")


# Where a record comes from


def test_provenance_tells_versions_machine_and_date():
    made = provenance()
    assert made.versions["torch"] == torch.__version__
    assert made.versions["numpy"] == np.__version__
    assert made.threads == torch.get_num_threads()
    age = datetime.now(timezone.utc) - datetime.fromisoformat(made.date)
    assert timedelta(seconds=-2) < age < timedelta(minutes=5)
    json.dumps(asdict(made))


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_provenance_tells_commit_and_uncommitted_changes(tmp_path, monkeypatch):
    module = tmp_path / "kanlib" / "__init__.py"
    module.parent.mkdir()
    module.write_text("first")
    monkeypatch.setattr("kanlib.__file__", str(module))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert (provenance().commit, provenance().dirty) == (None, None)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert (provenance().commit, provenance().dirty) == (commit, False)
    (tmp_path / "elsewhere").write_text("not part of the package")
    assert provenance().dirty is False
    module.write_text("second")
    assert (provenance().commit, provenance().dirty) == (commit, True)


def test_provenance_counts_changes_in_folders_beside_kanlib(tmp_path, monkeypatch):
    module = an_installed_kanlib(tmp_path, monkeypatch)
    script = tmp_path / "programs" / "run.py"
    script.parent.mkdir()
    script.write_text("first")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    assert provenance("programs").dirty is False
    script.write_text("second")
    assert (provenance().dirty, provenance("programs").dirty) == (False, True)
    assert provenance("programs").commit is not None
    module.write_text("second")
    assert provenance().dirty is True


def test_records_of_the_book_lie_beside_the_package():
    assert Path(__file__).resolve().parents[2] / "book" / "results" == RESULTS
    assert (RESULTS / "regression.json").is_file()


def an_installed_kanlib(folder, monkeypatch):
    """Lay files of kanlib in a folder and return the first of them."""
    module = folder / "kanlib" / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text("installed")
    monkeypatch.setattr("kanlib.__file__", str(module))
    return module


def a_repository(folder):
    folder.mkdir(exist_ok=True)
    git(folder, "init", "-q")
    git(folder, "commit", "-qm", "mine", "--allow-empty")


@pytest.mark.parametrize(
    ("place", "vendored"), [(".venv/site", False), (".venv/site", True), (".", False)]
)
def test_provenance_names_no_commit_of_another_repository(place, vendored, tmp_path, monkeypatch):
    """Neither of one around an environment, nor of one into which kanlib was merely copied."""
    project = tmp_path / "project"
    a_repository(project)
    an_installed_kanlib(project / place, monkeypatch)
    if vendored:
        git(project, "add", ".")
        git(project, "commit", "-qm", "vendored")
    made = provenance()
    assert (made.commit, made.dirty) == (None, None)
    assert made.versions["kanlib"] == kanlib.__version__


def test_provenance_in_a_hook_of_another_repository_is_that_of_kanlib(tmp_path, monkeypatch):
    a_repository(tmp_path / "other")
    ours = tmp_path / "ours"
    a_repository(ours)
    an_installed_kanlib(ours, monkeypatch)
    git(ours, "add", ".")
    git(ours, "commit", "-qm", "kanlib")
    commit = git(ours, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / ".git" / "index"))
    assert provenance().commit == commit


def test_record_keeps_its_provenance_until_a_run_is_added(tmp_path):
    path = tmp_path / "r.json"
    save_record(path, a_record())
    save_record(path, load_record(path))
    assert load_record(path).provenance == MADE


def test_provenance_without_git_says_so(monkeypatch):
    monkeypatch.setenv("PATH", str(Path("/nonexistent")))
    assert (provenance().commit, provenance().dirty) == (None, None)


def test_curve_counts_epochs_through_all_levels():
    works, epochs, errors = [0.0, 1.0, 2.0, 2.0, 8.0], [0, 1, 2, 0, 3], [0.9, 0.8, 0.7, 0.7, 0.1]
    history = RecordedHistory(
        work=[0.0, 2.0, 2.0, 8.0],
        epoch=[0, 2, 0, 3],
        loss=[4.0, 3.0, 3.0, 1.0],
        errors=[*map(Measurement, works, epochs, errors)],
    )
    run = a_run(history=history)
    assert curve(run) == ([0, 2, 2, 5], [4.0, 3.0, 3.0, 1.0])
    assert curve(run, "error") == ([0, 1, 2, 2, 5], [0.9, 0.8, 0.7, 0.7, 0.1])
    assert curve(run, "error", "work") == ([0.0, 1.0, 2.0, 2.0, 8.0], [0.9, 0.8, 0.7, 0.7, 0.1])
    with pytest.raises(ValueError, match=r"figure must be .*'losses'"):
        curve(run, "losses")
    for bare in (a_run(), a_run(history=RecordedHistory(**a_history()))):
        with pytest.raises(ValueError, match="run a with seed 1 has no error recorded along the"):
            curve(bare, "error")
    assert [value_at(run, "error", work) for work in (0, 1.5, 2.0, 9.0)] == [0.9, 0.8, 0.7, 0.1]
    assert value_at(run, "loss", 7.9) == 3.0
    with pytest.raises(ValueError, match=r"work must be at least 0, .* got -1"):
        value_at(run, "error", -1)


def test_curve_of_a_committed_run_ends_with_its_loss_and_error():
    record = load_record(RESULTS / "poisson.json", "poisson")
    for run in runs_of(record, "spline-multilevel"):
        epochs, losses = curve(run)
        assert epochs[-1] == sum(level.steps for level in run.levels) == 5000
        assert losses[-1] == run.metrics["loss"]
        assert curve(run, "error")[0][-1] == 5000
        assert curve(run, "error")[1][-1] == run.metrics["error"]
