"""Runs on a Dask cluster: a worker is killed in the middle, and nothing is lost or run twice."""

import json
import os
import signal
import threading
import time

import pytest
from distributed import LocalCluster

from kanlib.__main__ import main
from kanlib.paper import runner
from kanlib.paper.records import load_record
from kanlib.training.checkpoints import load_checkpoint
from tests.paper.test_runner import comparable, record_of

pytestmark = pytest.mark.slow
CASE = "spline-multilevel"
run_job, computed = runner._run_job, runner._computed


def level_of(checkpoint):
    try:
        return load_checkpoint(checkpoint)["state"]["level"]
    except (OSError, ValueError):
        return -1


def kill_at_level_two(job):
    while level_of(job.checkpoint) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def noted(job):
    """Train, and note where from."""
    note = {"resume": job.resume, "level": level_of(job.checkpoint)}
    (job.out.parent / f"{job.seed}-{time.time_ns()}.json").write_text(json.dumps(note))
    return computed(job)


def unlucky_job(job, elsewhere=False):
    """Run in a worker; the first try of seed 2 dies with it on the way, whenever it ends."""
    runner._computed = noted
    tried = job.out.parent / "tried"
    first = job.seed == 2 and not tried.exists()
    if first:
        tried.touch()
        threading.Thread(target=kill_at_level_two, args=(job,), daemon=True).start()
    found = run_job(job, elsewhere)
    if first:
        time.sleep(60)
    return found


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    options = {"threads_per_worker": 1, "dashboard_address": ":0"}
    folder = tmp_path_factory.mktemp("dask")
    with LocalCluster(n_workers=2, local_directory=str(folder), **options) as cluster:
        yield cluster.scheduler_address


def test_killed_worker_loses_nothing_and_runs_nothing_twice(scheduler, tmp_path, monkeypatch):
    alone = record_of(tmp_path / "alone.json", CASE, seeds=(1, 2))
    monkeypatch.setattr(runner, "_run_job", unlucky_job)
    out = tmp_path / "r.json"
    found = record_of(out, CASE, seeds=(1, 2), scheduler=scheduler)
    found.sort(key=lambda run: run.seed)
    assert [*map(comparable, found)] == [*map(comparable, alone)]
    assert sorted(run.seed for run in load_record(out).runs) == [1, 2]
    notes = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("[12]-*.json"))]
    assert [note["level"] for note in notes] == [-1, -1, 2]  # seed 2 goes on from level 2
    assert not [*tmp_path.glob(".*")]  # checkpoints


def test_command_line_runs_on_a_cluster(scheduler, tmp_path, capsys):
    arguments = ["run", "regression", "--case", "mlp-5", "--seed", "4", "--quick"]
    arguments += ["--out", str(tmp_path / "r.json"), "--scheduler", scheduler]
    assert main(arguments) == 0
    assert "mlp-5 seed 4" in capsys.readouterr().out
    assert main([*arguments, "--workers", "2"]) == 1
    assert "workers must be left out" in capsys.readouterr().err


def test_mistakes_with_clusters_are_named(tmp_path):
    with pytest.raises(ConnectionError, match="does not answer"):
        record_of(tmp_path / "r.json", "mlp-5", scheduler="nonsense")
    options = {"threads_per_worker": 2, "dashboard_address": ":0", "processes": False}
    threads = pytest.raises(ValueError, match="one thread each")
    with LocalCluster(n_workers=1, **options) as cluster, threads:
        record_of(tmp_path / "r.json", "mlp-5", scheduler=cluster.scheduler_address)
