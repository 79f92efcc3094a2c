"""Runs that are recorded, killed, resumed and shared among workers."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from kanlib import MeanSquaredError
from kanlib.paper import runner
from kanlib.paper.experiments import EXPERIMENTS, find_case
from kanlib.paper.experiments import regression as experiments
from kanlib.paper.records import PaperValue, RecordedRun, load_record, save_record
from kanlib.paper.runner import run_and_record
from kanlib.training.files import locked

REGRESSION = EXPERIMENTS["regression"]


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
    levels = [replace(level, seconds=0.0) for level in run.levels]
    return replace(run, levels=levels, provenance=None)


# Recording


def test_record_holds_settings_levels_history_and_provenance(small, tmp_path):
    out = tmp_path / "folder" / "r.json"
    returned = record_of(out, "spline-multilevel", "mlp-5", seeds=(2, 1))
    record = load_record(out, "regression")
    assert [(r.case, r.seed) for r in record.runs] == [
        ("spline-multilevel", 2),
        ("spline-multilevel", 1),
        ("mlp-5", 2),
        ("mlp-5", 1),
    ]
    assert [r.metrics.keys() for r in returned] == [{"train_mse", "test_mse"}] * 4
    run = record.runs[0]
    assert run.config["network"] == find_case("regression", "spline-multilevel").network
    assert run.config["quick"] is True
    assert [level.steps for level in run.levels] == [1, 1, 1, 1]
    columns = {name: rows for name, rows in vars(run.history).items() if name != "errors"}
    assert {len(rows) for rows in columns.values()} == {8}
    measured = run.history.errors[1::2]
    assert [(row.epoch, row.error) for row in measured] == [(1, lv.error) for lv in run.levels]
    assert run.provenance.versions["torch"] == torch.__version__
    assert record.paper["mlp-5"] == PaperValue(2.94e-2, 1.60e-2, "Table 2")
    assert "spline-fine-prolonged" not in record.paper
    assert [*out.parent.iterdir()] == [out]  # neither checkpoints nor their folder


def test_runs_of_one_seed_are_the_same(small, tmp_path):
    (first,) = record_of(tmp_path / "1.json", "spline-fine")
    (second,) = record_of(tmp_path / "2.json", "spline-fine")
    assert comparable(first) == comparable(second)
    (other,) = record_of(tmp_path / "2.json", "spline-fine", seeds=(2,))
    assert other.metrics != first.metrics


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
    assert (runs[0].case, runs[0].seed) == ("mlp-5", 1)
    assert executed == [
        (cases["mlp-5"].description, 2),
        (changed.description, 1),
        (changed.description, 2),
    ]
    executed.clear()
    record_of(out, "mlp-5")
    assert executed == [(cases["mlp-5"].description, 1)]
    assert len(load_record(out).runs) == 4


def test_cases_and_seeds_named_twice_run_once(small, tmp_path):
    assert len(record_of(tmp_path / "r.json", "mlp-5", "mlp-5", seeds=(1, 1))) == 1


def test_runs_that_others_add_meanwhile_are_kept(small, tmp_path):
    out = tmp_path / "r.json"
    runs = run_and_record("regression", ["mlp-5"], [1, 2], out, quick=True)
    next(runs)
    record_of(out, "mlp-5", seeds=(3,))
    assert [run.seed for run in runs] == [2]
    assert sorted(run.seed for run in load_record(out).runs) == [1, 2, 3]


def test_diverged_run_is_recorded_as_such(small, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "paper_lbfgs", partial(torch.optim.SGD, lr=1e6))
    out = tmp_path / "r.json"
    cases = {"mlp-5": replace(find_case("regression", "mlp-5"), epochs=(40_000,))}
    monkeypatch.setitem(EXPERIMENTS, "regression", replace(REGRESSION, cases=cases))
    with pytest.warns(RuntimeWarning, match="training diverged"):
        (run,) = record_of(out, "mlp-5")
    assert run.status == "diverged"
    assert re.fullmatch(r"loss became .* at level 0, epoch \d+, step \d+", run.message)
    (stored,) = json.loads(out.read_text())["runs"]
    assert stored["status"] == "diverged"
    assert stored["metrics"]["train_mse"] == pytest.approx(run.metrics["train_mse"], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cases": ["mlp-5", "no"]}, "case of regression must be one of .*; got 'no'"),
        ({"seeds": [1, -1]}, "seed must be at least 0, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
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


# Several processes, and several scales, with one record


def finished(out, case, seed, resume):
    (run,) = record_of(out, case, seeds=(seed,), resume=resume)
    return run


@pytest.mark.slow
def test_processes_with_one_record_lose_no_run(small, tmp_path):
    out = tmp_path / "r.json"
    context = multiprocessing.get_context("fork")
    seeds = [range(10 * k, 10 * k + 6) for k in range(3)]
    workers = [
        context.Process(target=record_of, args=(out, "mlp-5"), kwargs={"seeds": s}) for s in seeds
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    found = sorted(run.seed for run in load_record(out).runs)
    assert found == [seed for s in seeds for seed in s]
    assert [*tmp_path.iterdir()] == [out]


def test_provenance_is_asked_for_before_the_lock_is_taken(small, tmp_path, monkeypatch):
    made, events = runner.provenance, []

    @contextlib.contextmanager
    def watched(path, *arguments):
        events.append(f"lock {Path(path).suffix}")
        with locked(path, *arguments):
            yield
        events.append(f"free {Path(path).suffix}")

    monkeypatch.setattr(runner, "provenance", lambda: events.append("git") or made())
    monkeypatch.setattr(runner, "locked", watched)
    record_of(tmp_path / "r.json", "mlp-5")
    assert events[-4:] == ["git", "lock .json", "free .json", "free .pt"]


@pytest.mark.parametrize("resume", [True, False])
def test_second_process_with_the_same_run_waits_for_the_first(small, resume, tmp_path, capfd):
    out = tmp_path / "r.json"
    job = runner._Job(
        "regression",
        "mlp-5",
        1,
        runner._settings("regression", "mlp-5", True, "cpu"),
        out,
        False,
        False,
    )
    results = []
    second = threading.Thread(target=lambda: results.append(finished(out, "mlp-5", 1, resume)))
    with locked(job.checkpoint):  # the first is at work
        second.start()
        deadline = time.monotonic() + 60
        while not (told := capfd.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert told == "another process computes mlp-5 with seed 1: waiting for it\n"
        assert not results
        run = runner._computed(job)
        runner._add(job, run)
    second.join()
    assert results[0].metrics == pytest.approx(run.metrics, rel=1e-6)
    assert [*tmp_path.iterdir()] == [out]


def test_result_is_recorded_before_the_next_in_line_looks(small, tmp_path, monkeypatch):
    out, computed, results = tmp_path / "r.json", runner._computed, []
    second = threading.Thread(target=lambda: results.append(finished(out, "mlp-5", 1, True)))
    calls = []

    def first(job):
        calls.append(job)
        if len(calls) == 1:
            second.start()
        return computed(job)

    @contextlib.contextmanager
    def lingering(path, *arguments):
        """Let the other have the lock before this thread goes on."""
        with locked(path, *arguments):
            yield
        if Path(path).suffix == ".pt" and threading.current_thread() is not second:
            second.join()

    monkeypatch.setattr(runner, "_computed", first)
    monkeypatch.setattr(runner, "locked", lingering)
    record_of(out, "mlp-5")
    assert len(calls) == 1
    assert results == load_record(out).runs
    assert [*tmp_path.iterdir()] == [out]


def test_run_that_waited_is_taken_from_the_record_on_resume(small, tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    (run,) = record_of(out, "mlp-5")
    monkeypatch.setattr(runner, "_computed", lambda job: pytest.fail("it ran again"))
    job = runner._Job("regression", "mlp-5", 1, run.config, out, True, False)
    assert runner._run_job(job)[1] == load_record(out).runs[0]


def test_resume_that_does_nothing_leaves_the_file_as_it_was(small, tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    record_of(out, "mlp-5")
    before = (out.read_bytes(), out.stat().st_mtime_ns, out.stat().st_ino)
    monkeypatch.setattr(
        "kanlib.paper.records.provenance", lambda: pytest.fail("it asked for the date")
    )
    record_of(out, "mlp-5", resume=True)
    assert (out.read_bytes(), out.stat().st_mtime_ns, out.stat().st_ino) == before


@pytest.mark.parametrize("resume", [True, False])
def test_quick_run_does_not_replace_a_full_one(small, resume, tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    record_of(out, "mlp-5")
    record = load_record(out)
    record.runs[0].config["quick"] = False
    save_record(out, record)
    before = out.read_bytes()
    monkeypatch.setattr(runner, "_run_job", lambda job: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"holds the full run of mlp-5 with seed 1, .* --out"):
        record_of(out, "mlp-5", "spline-coarse", seeds=(2, 1), resume=resume)
    assert out.read_bytes() == before


def test_quick_run_does_not_replace_a_full_one_that_came_meanwhile(small, tmp_path):
    out = tmp_path / "r.json"
    runs = run_and_record("regression", ["mlp-5"], [1, 2], out, quick=True)
    run = next(runs)
    record = replace(load_record(out), runs=[replace(run, seed=2)])
    record.runs[0].config["quick"] = False
    save_record(out, record)
    with pytest.raises(ValueError, match=r"holds the full run of mlp-5 with seed 2"):
        next(runs)
    assert load_record(out).runs[0].config["quick"] is False


def test_home_and_links_lead_to_one_record(small, tmp_path, monkeypatch):
    home, out = tmp_path / "home", tmp_path / "data" / "r.json"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    home.mkdir()
    (home / "link.json").symlink_to(out)
    stop_at(monkeypatch, 20, Killed())
    with pytest.raises(Killed):
        record_of(Path("~/link.json"), "mlp-5")
    monkeypatch.undo()
    monkeypatch.setattr(experiments, "QUICK_POINTS", 60)
    monkeypatch.setattr(experiments, "QUICK_DIVISOR", 1000)
    assert len([*tmp_path.glob("data/.r.checkpoints/mlp-5-*.pt")]) == 1
    record_of(out, "mlp-5", resume=True)
    assert [*out.parent.iterdir()] == [out]
    assert [*home.iterdir()] == [home / "link.json"]
    assert {*tmp_path.iterdir()} == {home, out.parent}


@pytest.mark.parametrize(
    "change", [{"quick": False}, {"device": "cuda"}, {"epochs": [9]}, {"network": {"n": 6}}]
)
def test_other_settings_have_another_checkpoint(change, tmp_path):
    settings = runner._settings("regression", "mlp-5", True, "cpu")
    jobs = [
        runner._Job(name, "mlp-5", seed, found, tmp_path / "r.json", True, True)
        for name, seed, found in (
            ("regression", 1, settings),
            ("regression", 2, settings),
            ("poisson", 1, settings),
            ("regression", 1, {**settings, **change}),
        )
    ]
    assert len({job.checkpoint for job in jobs}) == 4
    assert replace(jobs[0], settings={**settings}).checkpoint == jobs[0].checkpoint


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
    assert load_record(out).runs == []
    (checkpoint,) = tmp_path.glob(".r.checkpoints/spline-multilevel-1-*.pt")
    left = checkpoint.with_name(f".{checkpoint.name}.{'0f' * 8}.part")
    left.write_text("by kill -9 during a write")
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


def job_result(job):
    return job, RecordedRun(
        case="mlp-5",
        seed=job.seed,
        config={},
        num_parameters=20,
        status="completed",
        message=str(torch.get_num_threads()),
        levels=[],
        metrics={},
    )


def stub_job(job):
    """Run in a worker in place of a training: sleep, die or finish at once."""
    seed, folder = job.seed, job.out.parent
    (folder / f"{seed}.pid").write_text(str(os.getpid()))
    if seed >= 90:
        time.sleep(600)
    if seed == 66:
        os.kill(os.getpid(), signal.SIGKILL)
    result = job_result(job)
    runner._add(*result)
    return result


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
    assert first.seed == 1
    assert first.message == "1"  # one thread
    pid = pid_of(tmp_path, 90)
    assert alive(pid)
    os.kill(pid, signal.SIGINT)  # Ctrl-C reaches the whole group; the parent decides
    time.sleep(0.1)
    assert alive(pid)
    runs.close()
    assert wait_until(lambda: not alive(pid))
    assert [run.seed for run in load_record(tmp_path / "r.json").runs] == [1]


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
    together.sort(key=lambda run: run.seed)
    assert [*map(comparable, together)] == [*map(comparable, alone)]
    assert len(load_record(tmp_path / "2.json").runs) == 2
