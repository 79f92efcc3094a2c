"""Refine when a level has nothing left: ends of levels that depend on how a training goes."""

from __future__ import annotations

from kanlib._checks import as_integer, as_number, check_types
from kanlib.training.runs import EndOfLevel, State


class Stagnation:
    """A callback that ends a level where a metric no longer falls.

    With new points the loss of a step says little of the network; the loss at fresh points does::

        fresh = torch.no_grad()(objective.fresh(seed=7))
        train_multilevel(
            model, objective, [200, 200, 200],
            metrics={"fresh": fresh}, metrics_every=5, callbacks=[Stagnation("fresh")],
        )

    The epochs of the schedule remain the most that a level may have.

    Args:
        metric: name of a metric, which is smaller for better networks.
        patience: measurements that may pass without a gain.
        factor: a gain is a fall below this multiple of the smallest value before.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if it is out of range, or when called, if there is no such metric.
    """

    def __init__(self, metric: str, patience: int = 5, factor: float = 0.9) -> None:
        check_types(Stagnation.__init__, locals())
        self.metric, self.patience = metric, as_integer("patience", patience, minimum=1)
        self.factor = as_number("factor", factor, above=0)

    def __call__(self, state: State) -> None:
        """Raise EndOfLevel where the metric has not fallen on this level for a while."""
        rows = [row for row in state.history.metrics if row["level"] == state.level]
        if rows and self.metric not in rows[0]:
            raise ValueError(
                f"metric must be one of the metrics of the training, {sorted(rows[0])}, got "
                f"{self.metric!r}"
            )
        values = [row[self.metric] for row in rows]
        before, last = values[: -self.patience], values[-self.patience :]
        if before and min(last) > self.factor * min(before):
            raise EndOfLevel(
                f"{self.metric} has not fallen below {self.factor:g} times {min(before):.3g} in "
                f"{self.patience} measurements"
            )
