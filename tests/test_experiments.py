"""The cases of the paper, and runs that are recorded, killed, resumed and shared among workers."""

import json
import multiprocessing
import os
import re
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kanlib import MeanSquaredError, experiments, runner
from kanlib.experiments import EXPERIMENTS, find_case, find_experiment
from kanlib.problems.regression import regression
from kanlib.records import load_record
from kanlib.runner import run_and_record

REGRESSION = EXPERIMENTS["regression"]
#: Table 2 of the paper: parameters, mean and standard deviation of the mean squared error.
TABLE_2 = {
    "relu-coarse": (55, 1.10e-2, 8.32e-3),
    "relu-fine": (230, 1.35e0, 1.50e-1),
    "relu-multilevel": (230, 1.06e-2, 8.03e-3),
    "spline-coarse": (55, 1.65e-3, 4.18e-5),
    "spline-fine": (230, 2.54e-3, 5.64e-3),
    "spline-multilevel": (230, 3.67e-5, 7.19e-5),
    "mlp-5": (20, 2.94e-2, 1.60e-2),
    "mlp-30": (120, 1.02e-3, 9.42e-4),
    "mlp-20-20": (500, 3.33e-4, 2.92e-4),
}
#: A fine epoch costs 8 coarse ones.
TABLE_2_EPOCHS = {"coarse": (128,), "fine": (16,), "multilevel": (32, 16, 8, 4)}


@pytest.fixture
def small(monkeypatch):
    """Make quick runs tiny: 60 points, one epoch on each level."""
    monkeypatch.setattr(experiments, "QUICK_POINTS", 60)
    monkeypatch.setattr(experiments, "QUICK_DIVISOR", 1000)


def record_of(out, *cases, seeds=(1,), **options):
    options = {"quick": True, **options}
    return [*run_and_record("regression", cases, seeds, out, **options)]


def comparable(run):
    """Return a run without times."""
    levels = [{k: v for k, v in level.items() if k != "seconds"} for level in run["levels"]]
    return {**run, "levels": levels, "provenance": None}


# Cases


def test_cases_have_the_values_of_table_2():
    assert {name for name, case in REGRESSION.cases.items() if case.paper} == set(TABLE_2)
    for name, (_, mean, stdev) in TABLE_2.items():
        assert find_case("regression", name).paper == {"mean": mean, "stdev": stdev}
    assert REGRESSION.source == "Table 2"
    assert REGRESSION.seeds == (1234, 1235, 1236, 1237, 1238)


@pytest.mark.parametrize("name", TABLE_2)
def test_cases_have_the_schedules_of_table_2(name):
    case = find_case("regression", name)
    basis, kind = name.split("-")[0], name.split("-")[-1]
    assert case.epochs == ((128,) if basis == "mlp" else TABLE_2_EPOCHS[kind])
    assert case.network["widths"] == {
        "mlp-5": [2, 5, 1],
        "mlp-30": [2, 30, 1],
        "mlp-20-20": [2, 20, 20, 1],
    }.get(name, [2, 5, 1])
    if basis != "mlp":
        assert case.network["n"] == (40 if kind == "fine" else 5)
        assert case.network.get("basis", "spline") == basis


def test_cases_do_equal_work_unless_their_name_says_otherwise():
    for name, case in REGRESSION.cases.items():
        work = sum(e * 2 ** (case.start_level + k) for k, e in enumerate(case.epochs))
        assert work == (60 * 8 if "epochs60" in name else 128), name


def parameters(name, case):
    """Return the number of parameters on the last level, counted by hand."""
    if name in TABLE_2:
        return TABLE_2[name][0]
    n = case.network["n"] * 2 ** (len(case.epochs) - 1)
    return 15 * (n + 3) if name.startswith("fullspline") else 15 + 5 * (n + 3)


@pytest.mark.parametrize("name", REGRESSION.cases)
def test_case_runs_and_has_the_right_size(name, small, tmp_path):
    case = find_case("regression", name)
    (run,) = record_of(tmp_path / "r.json", name)
    assert run["status"] == "completed"
    assert run["num_parameters"] == run["levels"][-1]["num_parameters"] == parameters(name, case)
    assert [v["n"] for v in run["levels"]] == [
        case.network["n"] * 2**k if "n" in case.network else None for k in range(len(case.epochs))
    ]
    cost = 2**case.start_level
    assert [v["work"] for v in run["levels"]] == [cost * 2**k for k in range(len(case.epochs))]
    history = run["history"]["loss"]
    assert history[-1] < history[0]
    assert run["levels"][-1]["loss"] == run["metrics"]["train_mse"] == history[-1]
    assert run["levels"][-1]["error"] == run["metrics"]["test_mse"]


def test_smooth_starts_are_the_start_of_the_coarse_network(small, tmp_path):
    same = ["spline-coarse", "spline-multilevel", "spline-fine-prolonged", "relu-samestart-coarse"]
    runs = record_of(tmp_path / "r.json", *same, "spline-fine")
    losses = [run["history"]["loss"][0] for run in runs]
    assert losses[:4] == pytest.approx([losses[0]] * 4, rel=1e-9)
    assert losses[4] != pytest.approx(losses[0], rel=1e-3)


def test_metrics_are_errors_on_training_and_test_set(small):
    case = find_case("regression", "spline-coarse")
    run, metrics = REGRESSION.execute(case, 3, quick=True, progress=False)
    data = regression(3, 60, 60)
    for name, x, y in (("train_mse", data.x, data.y), ("test_mse", data.x_test, data.y_test)):
        error = run.model(x).detach().numpy() - y.numpy()
        assert metrics[name] == pytest.approx(np.mean(error**2), rel=1e-12)


def test_full_runs_use_the_points_and_epochs_of_the_paper(monkeypatch):
    seen = {}

    def sizes(seed, points, test, **_):
        seen["points"] = (points, test)
        return regression(seed, 20, 20)

    def epochs(model, objective, schedule, **_):
        seen["epochs"] = schedule.epochs
        raise ZeroDivisionError

    monkeypatch.setattr(experiments, "regression", sizes)
    monkeypatch.setattr(experiments, "train_multilevel", epochs)
    case = find_case("regression", "spline-multilevel")
    for quick, expected in ((False, (20_000, (32, 16, 8, 4))), (True, (2000, (8, 4, 2, 1)))):
        with pytest.raises(ZeroDivisionError):
            REGRESSION.execute(case, 1, quick=quick)
        assert (seen["points"], seen["epochs"]) == ((expected[0],) * 2, expected[1])


def test_tight_cases_let_lbfgs_go_below_the_default_tolerances(small, monkeypatch):
    made = []
    monkeypatch.setattr(
        experiments, "lbfgs", lambda p, **o: made.append(o) or torch.optim.LBFGS(p, **o)
    )
    for name in ("spline-coarse", "spline-coarse-tight"):
        REGRESSION.execute(find_case("regression", name), 1, quick=True, progress=False)
    assert made == [{}, {"tolerance_grad": 1e-14, "tolerance_change": 1e-16}]


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"experiment must be one of \['regression'.*got 'no'"):
        find_experiment("no")
    with pytest.raises(ValueError, match=r"case of regression must be one of .*mlp-5.*got 'no'"):
        find_case("regression", "no")


# Recording


def test_record_holds_settings_levels_history_and_provenance(small, tmp_path):
    out = tmp_path / "folder" / "r.json"
    returned = record_of(out, "spline-multilevel", "mlp-5", seeds=(2, 1))
    record = load_record(out, "regression")
    assert [(r["case"], r["seed"]) for r in record["runs"]] == [
        ("spline-multilevel", 2),
        ("spline-multilevel", 1),
        ("mlp-5", 2),
        ("mlp-5", 1),
    ]
    assert [r["metrics"].keys() for r in returned] == [{"train_mse", "test_mse"}] * 4
    run = record["runs"][0]
    assert run["config"]["network"] == find_case("regression", "spline-multilevel").network
    assert run["config"]["quick"] is True
    assert [level["steps"] for level in run["levels"]] == [1, 1, 1, 1]
    assert {len(v) for v in run["history"].values()} == {8}
    assert run["provenance"]["versions"]["torch"] == torch.__version__
    assert record["paper"]["mlp-5"] == {"mean": 2.94e-2, "stdev": 1.60e-2, "source": "Table 2"}
    assert record["paper"].keys() == TABLE_2.keys()
    assert [*out.parent.iterdir()] == [out]  # neither checkpoints nor their folder


def test_runs_of_one_seed_are_the_same(small, tmp_path):
    (first,) = record_of(tmp_path / "1.json", "spline-fine")
    (second,) = record_of(tmp_path / "2.json", "spline-fine")
    assert comparable(first) == comparable(second)
    (other,) = record_of(tmp_path / "2.json", "spline-fine", seeds=(2,))
    assert other["metrics"] != first["metrics"]


def test_resume_keeps_runs_with_the_same_settings_only(small, tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    record_of(out, "mlp-5", "spline-fine")
    executed = []

    def execute(case, seed, **options):
        executed.append((case.description, seed))
        return REGRESSION.execute(case, seed, **options)

    changed = replace(find_case("regression", "spline-fine"), epochs=(17,))
    cases = {**REGRESSION.cases, "spline-fine": changed}
    watched = replace(REGRESSION, execute=execute, cases=cases)
    monkeypatch.setitem(EXPERIMENTS, "regression", watched)
    runs = record_of(out, "mlp-5", "spline-fine", seeds=(1, 2), resume=True)
    assert (runs[0]["case"], runs[0]["seed"]) == ("mlp-5", 1)
    assert executed == [
        (cases["mlp-5"].description, 2),
        (changed.description, 1),
        (changed.description, 2),
    ]
    executed.clear()
    record_of(out, "mlp-5")
    assert executed == [(cases["mlp-5"].description, 1)]
    assert len(load_record(out)["runs"]) == 4


def test_cases_and_seeds_named_twice_run_once(small, tmp_path):
    assert len(record_of(tmp_path / "r.json", "mlp-5", "mlp-5", seeds=(1, 1))) == 1


def test_runs_that_others_add_meanwhile_are_kept(small, tmp_path):
    out = tmp_path / "r.json"
    runs = run_and_record("regression", ["mlp-5"], [1, 2], out, quick=True)
    next(runs)
    record_of(out, "mlp-5", seeds=(3,))
    assert [run["seed"] for run in runs] == [2]
    assert sorted(run["seed"] for run in load_record(out)["runs"]) == [1, 2, 3]


def test_diverged_run_is_recorded_as_such(small, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "lbfgs", partial(torch.optim.SGD, lr=1e6))
    out = tmp_path / "r.json"
    cases = {"mlp-5": replace(find_case("regression", "mlp-5"), epochs=(40_000,))}
    monkeypatch.setitem(EXPERIMENTS, "regression", replace(REGRESSION, cases=cases))
    with pytest.warns(RuntimeWarning, match="training diverged"):
        (run,) = record_of(out, "mlp-5")
    assert run["status"] == "diverged"
    assert re.fullmatch(r"loss became .* at level 0, epoch \d+, step \d+", run["message"])
    (stored,) = json.loads(out.read_text())["runs"]
    assert stored["status"] == "diverged"
    assert stored["metrics"]["train_mse"] == pytest.approx(run["metrics"]["train_mse"], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cases": ["mlp-5", "no"]}, "case of regression must be one of .*; got 'no'"),
        ({"seeds": [1, -1]}, "seed must be an integer from 0 .*, got -1"),
        ({"workers": 0}, "workers must be at least 1 process, got 0"),
    ],
)
def test_mistakes_are_named_before_anything_runs(change, text, tmp_path):
    options = {"cases": ["mlp-5"], "seeds": [1], "out": tmp_path / "r.json", **change}
    with pytest.raises(ValueError, match=text):
        next(run_and_record("regression", **options))
    assert [*tmp_path.iterdir()] == []


def test_record_that_cannot_be_written_is_known_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_run_job", lambda job: pytest.fail("it ran"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write .*r\.json .*: choose"):
        record_of(tmp_path / "file" / "r.json", "mlp-5")


def test_damaged_record_is_not_overwritten(tmp_path):
    out = tmp_path / "r.json"
    out.write_text('{"runs": [')
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"r\.json is truncated"):
            record_of(out, "mlp-5", resume=resume)
    assert out.read_text() == '{"runs": ['


# Killed and resumed


class Killed(BaseException):
    """Stands for kill -9 inside one process."""


def stop_at(monkeypatch, number, error):
    """Let the evaluation of that number, of any objective, raise an error."""
    calls = iter(range(1, 10**9))

    class Stopping(MeanSquaredError):
        def __call__(self, model):
            if next(calls) == number:
                raise error
            return super().__call__(model)

    monkeypatch.setattr(experiments, "MeanSquaredError", Stopping)


@pytest.mark.parametrize("error", [Killed(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("number", [1, 20, 60, 90])
def test_stopped_run_resumes_to_the_same_record(small, number, error, tmp_path, monkeypatch):
    (whole,) = record_of(tmp_path / "whole.json", "spline-multilevel")
    out = tmp_path / "r.json"
    with monkeypatch.context() as patch:
        stop_at(patch, number, error)
        with pytest.raises(type(error)):
            record_of(out, "spline-multilevel")
    assert load_record(out)["runs"] == []
    (checkpoint,) = tmp_path.glob(".r.checkpoints/spline-multilevel-1-*.pt")
    (checkpoint.parent / f".{checkpoint.name}.left").write_text("by kill -9 during a write")
    (again,) = record_of(out, "spline-multilevel", resume=True)
    assert comparable(again) == comparable(whole)
    assert not checkpoint.parent.exists()


def test_run_without_resume_starts_anew(small, tmp_path, monkeypatch):
    (whole,) = record_of(tmp_path / "whole.json", "spline-multilevel")
    out = tmp_path / "r.json"
    with monkeypatch.context() as patch:
        stop_at(patch, 60, Killed())
        with pytest.raises(Killed):
            record_of(out, "spline-multilevel")
    (checkpoint,) = tmp_path.glob(".r.checkpoints/*.pt")
    checkpoint.write_text("damaged")
    with pytest.raises(ValueError, match=r"checkpoint .*\.pt is truncated, foreign"):
        record_of(out, "spline-multilevel", resume=True)
    (again,) = record_of(out, "spline-multilevel")
    assert comparable(again) == comparable(whole)


def test_checkpoint_of_other_settings_is_not_touched(small, tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    stop_at(monkeypatch, 20, Killed())
    for seed in (1, 2):
        with pytest.raises(Killed):
            record_of(out, "mlp-5", seeds=(seed,))
        stop_at(monkeypatch, 20, Killed())
    stop_at(monkeypatch, 0, Killed())
    record_of(out, "mlp-5", seeds=(1,), resume=True)
    (left,) = tmp_path.glob(".r.checkpoints/*.pt")
    assert left.name.startswith("mlp-5-2-")


# Workers


def job_result(seed, folder):
    run = {
        "case": "mlp-5",
        "seed": seed,
        "config": {},
        "num_parameters": 20,
        "status": "completed",
        "message": str(torch.get_num_threads()),
        "levels": [],
        "metrics": {},
    }
    return run, folder / "none.pt"


def stub_job(job):
    """Run in a worker in place of a training: sleep, die or finish at once."""
    seed, folder = job[2], job[4].parent.parent
    (folder / f"{seed}.pid").write_text(str(os.getpid()))
    if seed >= 90:
        time.sleep(600)
    if seed == 66:
        os.kill(os.getpid(), signal.SIGKILL)
    return job_result(seed, folder)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def pid_of(folder, seed):
    file = folder / f"{seed}.pid"
    assert wait_until(lambda: file.exists() and file.read_text())
    return int(file.read_text())


@pytest.fixture
def stubbed(monkeypatch):
    monkeypatch.setattr(runner, "_run_job", stub_job)


@pytest.mark.slow
def test_workers_end_with_the_loop_over_their_runs(stubbed, tmp_path):
    runs = run_and_record("regression", ["mlp-5"], [1, 90], tmp_path / "r.json", workers=2)
    first = next(runs)
    assert first["seed"] == 1
    assert first["message"] == "1"  # one thread
    pid = pid_of(tmp_path, 90)
    assert alive(pid)
    os.kill(pid, signal.SIGINT)  # Ctrl-C reaches the whole group; the parent decides
    time.sleep(0.1)
    assert alive(pid)
    runs.close()
    assert wait_until(lambda: not alive(pid))
    assert [run["seed"] for run in load_record(tmp_path / "r.json")["runs"]] == [1]


@pytest.mark.slow
def test_worker_that_is_killed_is_reported(stubbed, tmp_path):
    with pytest.raises(ChildProcessError, match=r"worker process was killed.*--resume and fewer"):
        record_of(tmp_path / "r.json", "mlp-5", seeds=(66,), workers=2)


def run_with_a_worker(folder):
    runner._run_job = stub_job
    record_of(folder / "r.json", "mlp-5", seeds=(91,), workers=2)


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    context = multiprocessing.get_context("forkserver")
    parent = context.Process(target=run_with_a_worker, args=(tmp_path,))
    parent.start()
    pid = pid_of(tmp_path, 91)
    assert alive(pid)
    parent.kill()
    parent.join()
    assert wait_until(lambda: not alive(pid))


@pytest.mark.slow
def test_workers_give_the_same_record(tmp_path):
    alone = record_of(tmp_path / "1.json", "mlp-5", seeds=(1, 2))
    together = record_of(tmp_path / "2.json", "mlp-5", seeds=(1, 2), workers=2)
    together.sort(key=lambda run: run["seed"])
    assert [*map(comparable, together)] == [*map(comparable, alone)]
    assert len(load_record(tmp_path / "2.json")["runs"]) == 2
