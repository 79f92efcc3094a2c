"""Every record is sealed, has the paper's values, and tells each number of a run alike twice."""

import hashlib
import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest

from kanlib.paper.experiments import EXPERIMENTS

RESULTS = Path(__file__).parents[2] / "book" / "results"
RECORDS = {
    name: json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    for name in EXPERIMENTS
    if (RESULTS / f"{name}.json").exists()
}


def contradictions(run):
    """Return where the numbers of a run contradict each other: in two of its tables, or in time."""
    metrics, history, levels = run["metrics"], run["history"], run["levels"]
    loss_name, *others = (name for name in metrics if name != "processor_seconds")
    end = dict(zip(history["level"], history["loss"], strict=True))  # the last entry of each level
    found = [f"level {k}" for k, level in enumerate(levels) if level["loss"] != end[k]]
    if metrics[loss_name] != history["loss"][-1]:
        found.append(loss_name)
    if "errors" in history and history["errors"][-1][2:] != [metrics[name] for name in others]:
        found.append("errors")
    for name in ("work", "evaluations"):
        if any(later < before for before, later in pairwise(history[name])):
            found.append(name)
    return found


@pytest.mark.parametrize("name", RECORDS)
def test_record_is_sealed_and_has_the_values_of_the_paper(name):
    for run in RECORDS[name]["runs"]:
        rest = {key: value for key, value in run.items() if key != "digest"}
        seal = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]
        assert seal == run["digest"]
    paper = EXPERIMENTS[name].paper
    assert RECORDS[name]["paper"] == {case: asdict(value) for case, value in paper.items()}


@pytest.mark.parametrize("name", RECORDS)
def test_runs_of_a_record_do_not_contradict_themselves(name):
    found = {
        (r["case"], r["seed"]): wrong for r in RECORDS[name]["runs"] if (wrong := contradictions(r))
    }
    assert found == {}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("part", ["metrics", "levels", "history"])
def test_a_loss_changed_tenfold_contradicts_the_rest(name, part):
    run = json.loads(json.dumps(RECORDS[name]["runs"][-1]))
    if part == "metrics":
        run["metrics"][next(iter(run["metrics"]))] *= 10
    elif part == "levels":
        run["levels"][-1]["loss"] *= 10
    else:
        run["history"]["loss"][-1] *= 10
    assert contradictions(run)
