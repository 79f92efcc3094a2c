"""The command line: what it prints, what it returns, what it leaves behind."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from kanlib.__main__ import main
from kanlib.paper import runner
from kanlib.paper.experiments import EXPERIMENTS
from kanlib.paper.experiments import regression as experiments
from kanlib.paper.records import load_record, save_record
from kanlib.training.checkpoints import load_checkpoint

REGRESSION = EXPERIMENTS["regression"]


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Return a function from arguments to exit status, standard output and standard error.

    Quick runs are tiny, and default files land in an empty folder, outside of the repository.
    """
    monkeypatch.setattr(experiments, "QUICK_POINTS", 60)
    monkeypatch.setattr(experiments, "QUICK_DIVISOR", 1000)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            status = main(arguments)
        except SystemExit as usage:
            status = usage.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


# list


def test_list_names_experiments_cases_and_seeds(cli):
    status, out, err = cli("list")
    assert (status, err) == (0, "")
    first, *others = out.split("\npoisson: ")[0].splitlines()
    assert [line.split(":")[0] for line in out.splitlines() if line[0] != " "] == [*EXPERIMENTS]
    assert first.startswith("regression: ")
    assert "Table 2" in first
    assert "[1234, 1235, 1236, 1237, 1238]" in first
    assert [line.split()[0] for line in others] == [*REGRESSION.cases]
    starts = {
        line.index(c.description) for line, c in zip(others, REGRESSION.cases.values(), strict=True)
    }
    assert len(starts) == 1  # one column


# run


def test_run_prints_and_records_the_named_cases_and_seeds(cli, tmp_path):
    options = ["--case", "mlp-5", "--case", "spline-fine", "--seed", "3", "--seed", "2"]
    status, out, err = cli("run", "regression", "--quick", *options, "--out", "r.json")
    assert (status, err) == (0, "")
    number = r"\d\.\d{3}e[+-]\d\d"
    pattern = rf"(mlp-5|spline-fine) seed [23]: train_mse {number}, test_mse {number}, \d+\.\d s"
    *lines, last = out.splitlines()
    assert last == f"recorded in {tmp_path / 'r.json'}"
    assert all(re.fullmatch(pattern, line) for line in lines)
    runs = load_record("r.json", "regression").runs
    assert [(r.case, r.seed) for r in runs] == [
        ("mlp-5", 3),
        ("mlp-5", 2),
        ("spline-fine", 3),
        ("spline-fine", 2),
    ]
    for line, run in zip(lines, runs, strict=True):
        assert f"train_mse {run.metrics['train_mse']:.3e}" in line
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Return the folder for records of a repository of kanlib."""
    results = tmp_path / "kanlib's" / "book" / "results"
    results.mkdir(parents=True)
    monkeypatch.setattr("kanlib.__main__.RESULTS", results)
    return results


@pytest.mark.parametrize("place", ["kanlib's", "kanlib's/book", "elsewhere"])
def test_run_and_report_say_where_they_write_and_read(
    place, cli, repository, tmp_path, monkeypatch
):
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    path = (folder if place == "elsewhere" else repository) / "regression-quick.json"
    status, out, err = cli(*RUN, "--seed", "1")
    assert (status, err) == (0, f"recording in {path}\n")
    assert out.splitlines()[-1] == f"recorded in {path}"
    assert [*tmp_path.rglob("*.json")] == [path]
    status, out, err = cli("report", "regression", "--quick")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].split()[:3] == ["mlp-5", "20", "1"]


def test_report_elsewhere_is_of_the_repository_unless_there_is_one_here(cli, repository):
    cli(*RUN, "--seed", "1", "--seed", "2", "--out", str(repository / "regression.json"))
    assert cli("report", "regression")[1].splitlines()[-1].split()[:3] == ["mlp-5", "20", "2"]
    cli(*RUN, "--seed", "1", "--out", "regression.json")
    assert cli("report", "regression")[1].splitlines()[-1].split()[:3] == ["mlp-5", "20", "1"]


def test_run_defaults_to_all_cases_and_seeds(cli, monkeypatch):
    cases = {name: REGRESSION.cases[name] for name in ("mlp-5", "spline-coarse")}
    some = replace(REGRESSION, cases=cases, seeds=(4, 5))
    monkeypatch.setitem(EXPERIMENTS, "regression", some)
    assert cli("run", "regression", "--quick")[0] == 0
    runs = load_record("regression-quick.json").runs
    assert [(r.case, r.seed) for r in runs] == [(c, s) for c in cases for s in (4, 5)]


def test_run_resumes_and_repeats_what_is_recorded(cli, monkeypatch):
    command = ["run", "regression", "--quick", "--case", "mlp-5", "--seed", "1", "--out", "r.json"]
    first = cli(*command)
    monkeypatch.setattr(runner, "_run_job", lambda job: pytest.fail("it ran again"))
    assert cli(*command, "--resume") == first


def test_run_that_diverges_is_kept_and_returns_1(cli, monkeypatch):
    monkeypatch.setattr(experiments, "paper_lbfgs", partial(torch.optim.SGD, lr=1e6))
    case = replace(REGRESSION.cases["mlp-5"], epochs=(40_000,))
    monkeypatch.setitem(EXPERIMENTS, "regression", replace(REGRESSION, cases={"mlp-5": case}))
    options = ["--quick", "--seed", "1", "--out", "r.json"]
    with pytest.warns(RuntimeWarning):
        status, out, _ = cli("run", "regression", *options)
    assert status == 1
    assert re.search(r" s \[diverged: loss became .* at level 0, epoch \d+, step \d+\]", out)
    (run,) = load_record("r.json").runs
    assert run.status == "diverged"
    assert run.message in out
    status, out, _ = cli("run", "regression", *options, "--resume")
    assert (status, "diverged" in out) == (1, True)
    status, out, _ = cli("report", "regression", "--out", "r.json")
    assert (status, "; 1 diverged" in out) == (0, True)


def test_run_interrupted_returns_130_and_says_how_to_go_on(cli, monkeypatch):
    def interrupted(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_run_job", interrupted)
    options = ["--case", "mlp-5", "--out", "r.json"]
    status, _, err = cli("run", "regression", "--quick", *options)
    assert (status, err) == (
        130,
        "interrupted: start the same command with --resume to go on\n",
    )


RUN = ["run", "regression", "--quick", "--case", "mlp-5"]
MISTAKES = {
    "experiment": (["run", "no"], 1, r"experiment must be one of .*'regression'.*, got 'no'"),
    "report": (["report", "no"], 1, r"experiment must be one of .*'regression'.*, got 'no'"),
    "case": (["run", "regression", "--case", "no"], 1, "case of .* one of .*mlp-5.*; got 'no'"),
    "device": ([*RUN, "--device", "no"], 1, "device must compute in float64 here, got 'no'.*cpu"),
    "meta": ([*RUN, "--device", "meta"], 1, "device must compute .*, got 'meta' .*: use cpu"),
    "seed": ([*RUN, "--seed", "-1"], 1, "seed must be at least 0, got -1"),
    "huge seed": ([*RUN, "--seed", "9" * 30], 1, "seed must be at most .*, got 999"),
    "no seed": ([*RUN, "--seed", "x"], 2, "argument --seed: invalid int value: 'x'"),
    "workers": ([*RUN, "--workers", "0"], 1, "workers must be at least 1, got 0"),
    "no workers": ([*RUN, "--workers", "x"], 2, "argument --workers: invalid int value: 'x'"),
    "out": ([*RUN, "--out", "file/r.json"], 1, r"cannot write file/r\.json \(.*\): choose"),
    "folder": ([*RUN, "--out", "."], 1, r"cannot read \. \(it is a folder\): name another file"),
    "null": (
        [*RUN, "--out", "/dev/null"],
        1,
        r"/dev/null \(it is a pipe or a device\): name",
    ),
    "endless": (["report", "regression", "--out", "/dev/zero"], 1, "it is a pipe or a device"),
    "home": ([*RUN, "--out", "~nobody-here/x"], 1, r"cannot find ~nobody-here/x \(.*\): name ano"),
    "text": ([*RUN, "--out", "file"], 1, "record file is truncated or not JSON"),
    "no record": (["report", "regression"], 1, r"regression\.json does not exist: create it with"),
    "no quick record": (
        ["report", "regression", "--quick"],
        1,
        r"quick\.json does not exist",
    ),
    "command": (["walk"], 2, "invalid choice: 'walk'"),
    "nothing": ([], 2, "required"),
    "option": ([*RUN, "--fast"], 2, "unrecognized arguments: --fast"),
}


@pytest.mark.parametrize(("arguments", "status", "text"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named_in_one_line(arguments, status, text, cli, tmp_path, monkeypatch):
    monkeypatch.setattr("kanlib.__main__.RESULTS", tmp_path / "none")
    if arguments[:1] == ["run"] and "--out" not in arguments:
        arguments = [*arguments, "--out", "r.json"]
    (tmp_path / "file").write_text("in the way")
    returned, out, err = cli(*arguments)
    assert (returned, out) == (status, "")
    last = err.splitlines()[-1]
    assert re.search(text, last)
    assert status == 2 or (err == f"{last}\n" and last.startswith("error: "))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_cuda_is_refused_where_there_is_none(cli, monkeypatch):
    def no_cuda(*_, device, **__):
        raise AssertionError(f"Torch not compiled with {device} enabled")

    monkeypatch.setattr(torch, "zeros", no_cuda)
    status, _, err = cli(*RUN, "--device", "cuda")
    assert status == 1
    assert err.startswith("error: device must compute in float64 here, got 'cuda' (Torch not")


def test_run_hands_its_options_on(cli, monkeypatch):
    seen = {}
    monkeypatch.setattr("kanlib.__main__.run_and_record", lambda *a, **o: seen.update(o) or [])
    options = ["--workers", "3", "--resume", "--device", "cpu", "--out", "r.json"]
    options += ["--scheduler", "tcp://here:1"]
    assert cli(*RUN, *options)[0] == 0
    where = {"device": "cpu", "workers": 3, "scheduler": "tcp://here:1"}
    assert seen == {"quick": True, "resume": True, **where}


# report


def test_report_shows_the_papers_numbers_beside_ours(cli):
    cli(*RUN, "--case", "spline-fine-prolonged", "--seed", "1", "--seed", "2")
    path = "regression-quick.json"
    runs = load_record(path).runs
    status, out, err = cli("report", "regression", "--out", path)
    assert (status, err) == (0, "")
    title, head, ours, control = out.splitlines()
    assert "recorded 20" in title
    assert head.split()[:3] == ["case", "par.", "runs"]
    assert ours.split()[:5] == ["mlp-5", "20", "2", "2.94e-02", "(1.60e-02)"]
    assert control.split()[:4] == ["spline-fine-prolonged", "230", "2", "-"]
    for line, name in ((ours, "mlp-5"), (control, "spline-fine-prolonged")):
        for metric, prefix in (("train_mse", "  "), ("test_mse", "; test ")):
            values = [run.metrics[metric] for run in runs if run.case == name]
            mean, spread = statistics.mean(values), statistics.stdev(values)
            assert f"{prefix}{mean:.2e} ({spread:.2e})" in line


def test_report_says_what_is_not_finite_or_missing(cli):
    cli(*RUN, "--seed", "1", "--out", "r.json")
    record = load_record("r.json")
    (run,) = record.runs
    metrics = {"train_mse": float("inf")}
    record.runs = [run, replace(run, seed=2, metrics=metrics)]
    save_record("r.json", record)
    assert json.loads(Path("r.json").read_text())["runs"][1]["metrics"] == {"train_mse": None}
    status, out, _ = cli("report", "regression", "--out", "r.json")
    assert status == 0
    assert "1 of 2 not finite; test 1 of 2 not finite" in out


def test_report_of_one_run_has_no_spread(cli):
    cli(*RUN, "--seed", "1", "--out", "r.json")
    assert "(0.00e+00)" in cli("report", "regression", "--out", "r.json")[1]


def test_report_of_a_damaged_record_is_one_sentence(cli):
    cli(*RUN, "--seed", "1", "--out", "r.json")
    record = json.loads(Path("r.json").read_text())
    record["runs"][0]["metrics"]["train_mse"] = "small"
    Path("r.json").write_text(json.dumps(record))
    for command in (["report", "regression"], [*RUN, "--seed", "2"]):
        status, out, err = cli(*command, "--out", "r.json")
        assert (status, out) == (1, "")
        assert re.fullmatch(r"error: run 0 of record r.json .*metrics.train_mse must be .*\n", err)


def test_quick_run_into_a_full_record_is_refused(cli):
    cli(*RUN, "--seed", "1", "--out", "r.json")
    record = load_record("r.json")
    record.runs[0].config["quick"] = False
    save_record("r.json", record)
    status, _, err = cli(*RUN, "--seed", "1", "--out", "r.json", "--resume")
    assert status == 1
    assert re.fullmatch(r"error: .*r\.json holds the full run of mlp-5 .* with --out\n", err)


# Real processes


def start(*arguments, **options):
    command = [sys.executable, "-m", "kanlib", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
def test_list_into_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    process = start("list", stdout=writer)
    os.close(writer)
    _, err = process.communicate()
    assert (process.returncode, err) == (141, "")


STOPPED = ["run", "regression", "--quick", "--case", "spline-multilevel", "--seed", "1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the recorded run that was not stopped."""
    out = tmp_path_factory.mktemp("whole") / "r.json"
    assert main([*STOPPED, "--out", str(out)]) == 0
    return load_record(out).runs[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)], ids=str
)
def test_run_stopped_by_a_signal_resumes_to_the_same_record(sign, status, tmp_path, whole):
    out = tmp_path / "r.json"
    process = start(*STOPPED, "--out", str(out), stdout=subprocess.PIPE)
    while process.poll() is None:  # until it is on its second level
        checkpoints = [*tmp_path.glob(".r.checkpoints/spline*.pt")]
        if checkpoints and load_checkpoint(checkpoints[0])["state"]["level"] >= 1:
            break
        time.sleep(0.01)
    process.send_signal(sign)
    printed, err = process.communicate()
    assert (process.returncode, printed) == (status, "")  # what is not done is not recorded
    assert "Traceback" not in err
    assert ("--resume" in err) == (sign == signal.SIGINT)
    assert load_record(out).runs == []
    assert main([*STOPPED, "--out", str(out), "--resume"]) == 0
    (resumed,) = load_record(out).runs
    for key in ("history", "metrics", "config", "num_parameters", "status"):
        assert getattr(resumed, key) == getattr(whole, key)
