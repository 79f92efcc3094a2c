"""A film of an error: Burgers' equation by levels, and on the fine level alone, at equal work.

``python -m kanbook.film``, in the folder ``book``, trains both as the record ``second-order`` does,
with the same seed and options, and writes ``book/results/film.json``. A frame is the error over
space and time after some steps, in steps of 1/20 of a power of ten, a byte for each point.
"""

from __future__ import annotations

import json
import sys
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from kanlib import KAN, GaussNewton
from kanlib.paper.experiments.formulations import PROBLEMS, STARTS
from kanlib.paper.experiments.second_order import EXPERIMENT
from kanlib.paper.problems.burgers import exact
from kanlib.paper.records import RESULTS, provenance
from kanlib.training.files import write_atomically
from kanlib.training.race import race

RECORD = RESULTS / "film.json"
SEED = 1234
CASES = ("burgers-levels", "burgers-fine-small")
#: Points in space and in time, away from the ends, where the error is held to zero.
POINTS = (64, 48)
#: Steps between the frames of the levels.
EVERY = 4
#: Least error that is told from others, as a power of ten, and bytes for each power.
FLOOR, PER_DECADE = -9, 20


@dataclass(frozen=True)
class Frame:
    """A network after some steps.

    Attributes:
        n: its intervals.
        work: steps times intervals so far.
        error: relative L2 error, as the record has it.
        map: the error at the points, encoded.
    """

    n: int
    work: int
    error: float
    map: str

    def codes(self) -> np.ndarray[Any, Any]:
        """Return the codes of the error at the points, of shape (times, points); see `code`."""
        return np.frombuffer(b64decode(self.map), dtype=np.uint8).reshape(POINTS[::-1])


def code(power: Any) -> Any:
    """Return the code of a power of ten."""
    return (power - FLOOR) * PER_DECADE


def points() -> torch.Tensor:
    """Return the points (x, t) of a frame, time by time."""
    ends = ((-1.0, 1.0), (0.0, 1.0))
    middles = [
        a + (b - a) * (torch.arange(count, dtype=torch.float64) + 0.5) / count
        for (a, b), count in zip(ends, POINTS, strict=True)
    ]
    return torch.cartesian_prod(middles[1], middles[0]).flip(1)


def encoded(error: torch.Tensor) -> str:
    """Return the absolute error at the points, encoded."""
    codes = code(error.abs().clamp_min(10.0**FLOOR).log10()).round().clamp(0, 255)
    return b64encode(codes.to(torch.uint8).numpy().tobytes()).decode()


def filmed(name: str, every: int, most: int) -> list[Frame]:
    """Train a case of the record, and return its frames.

    Args:
        name: name of the case.
        every: steps between frames.
        most: work after which to stop.
    """
    case: Any = EXPERIMENT.cases[name]
    problem = PROBLEMS[case.problem](case, SEED, "cpu")
    torch.manual_seed(STARTS * SEED)
    model = problem.solution(KAN(**case.network, dtype=torch.float64))
    at, steps, work = points(), 0, 0
    wanted = exact(at)
    frames: list[Frame] = []

    @torch.no_grad()
    def add(model: KAN) -> None:
        frames.append(Frame(model.n, work, problem.error(model), encoded(model(at) - wanted)))

    def watch(state: Any) -> None:
        """Take a frame after some steps."""
        nonlocal steps, work
        steps, work = steps + 1, work + state.model.n
        if steps % every == 0:
            add(state.model)

    add(model)
    epochs = [min(count, most // model.n) for count in case.epochs]
    race(
        {0: model},
        problem.losses,
        epochs,
        keep=case.keep,
        refine=None if case.start_level else KAN.refine,
        optimizer=GaussNewton(),
        callbacks=[watch],
        progress=False,
    )
    return frames


def load() -> dict[str, list[Frame]]:
    """Return the frames of each case in the record."""
    content = json.loads(RECORD.read_text(encoding="utf-8"))
    return {name: [Frame(**frame) for frame in frames] for name, frames in content["films"].items()}


def main() -> None:
    """Train both cases and write the record."""
    torch.set_num_threads(1)
    levels = filmed(CASES[0], EVERY, sys.maxsize)
    fine = filmed(CASES[1], 1, levels[-1].work)
    films = {CASES[0]: levels, CASES[1]: fine}
    content = {
        "schema": 1,
        "experiment": "film",
        "provenance": asdict(provenance("book/kanbook")),
        "seed": SEED,
        "films": {name: [asdict(frame) for frame in frames] for name, frames in films.items()},
    }
    write_atomically(RECORD, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
