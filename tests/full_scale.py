"""What every committed record of an experiment has to be."""

import json
from typing import Any

from kanlib.paper.records import RecordedRun


def check_full_scale(runs: list[RecordedRun], case: Any, seeds: tuple[int, ...]) -> None:
    """Assert that the runs of a case have the seeds, and its network and epochs at full scale."""
    assert [run.seed for run in runs] == [*seeds]
    for run in runs:
        assert run.config["quick"] is False
        assert run.config["network"] == json.loads(json.dumps(case.network))
        assert tuple(level.steps for level in run.levels) == case.epochs
