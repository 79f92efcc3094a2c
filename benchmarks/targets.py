"""The targets, and what was measured for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """A bound on a measured figure, in every case that it selects.

    Attributes:
        id: a short name.
        what: what is measured, for readers.
        sign: "≥" or "≤".
        bound: the bound.
        section: section of the measurements.
        method: name of the function whose figure counts.
        where: values that the case must have, by key; no key, no condition.
        figure: "ratio", or "seconds".
    """

    id: str
    what: str
    sign: str
    bound: float
    section: str
    method: str
    where: Mapping[str, Any] = field(default_factory=dict)
    figure: str = "ratio"


TARGETS = [
    *(
        Target(f"recursion-{w}-{n}", f"step of {w}, n = {n}: Cox–de Boor / kanlib", "≥", bound,
               "training", "Cox–de Boor", {"workload": w, "n": n})
        for w, n, bound in (("a", 5, 4), ("b", 5, 4), ("c", 5, 4), ("b", 50, 10), ("b", 200, 30))
    ),
    Target("inkan", "step of a, b, c: inkan / kanlib", "≥", 1.5, "training", "inkan"),
    Target("inkan-compiled", "the same, both compiled: never slower", "≥", 1, "compiled", "inkan"),
    Target("pykan", "step of a, b, c: pykan / kanlib", "≥", 10, "training", "pykan"),
    Target("growth-n", "layer 64 → 64, time: n = 400 / n = 16", "≤", 1.6,
           "growth_n", "n = 400", {"method": "kanlib"}),
    Target("growth-memory", "layer 64 → 64, peak memory, 16384 points: n = 400 / n = 16", "≤", 1.5,
           "memory", "n = 400", {"method": "kanlib", "batch": 16384}),
    Target("growth-memory-1024", "the same for 1024 points, fewer than weights", "≤", 1.5,
           "memory", "n = 400", {"method": "kanlib", "batch": 1024}),
    *(
        Target(f"growth-r-{r}", f"layer 64 → 64, time: r = {r} / r = 2", "≤", r / 2,
               "growth_r", f"r = {r}")
        for r in (3, 4, 5, 6)
    ),
    Target("pinn-double", "PINN step: double backward / propagation", "≥", 5,
           "pinn", "double backward, plain PyTorch"),
    Target("pinn-recursion", "PINN step: double backward by Cox–de Boor / propagation", "≥", 15,
           "pinn", "Cox–de Boor"),
    Target("pinn-growth", "PINN step: n = 40 / n = 5", "≤", 1.2, "pinn_growth", "n = 40"),
    Target("seeds", "five networks at once / one", "≤", 2, "seeds", "five at once"),
    Target("refine", "refine four layers of 64, 20 → 40, seconds", "≤", 0.1,
           "refine", "kanlib", {"widths": "[64,64,64,64,64]"}, figure="seconds"),
    Target("jacobian", "Gauss–Newton, 40 edges, 4500 points: rows / gradient", "≤", 3,
           "second_order", "rows", {"part": "step"}),
    Target("gram-growth", "the same, Gram and right-hand side: n = 128 / n = 8", "≤", 1.3,
           "second_order", "n = 128", {"part": "growth"}),
    Target("gram-dense", "the same, n = 32: dense product / Gram and right-hand side", "≥", 5,
           "second_order", "dense product", {"part": "product", "n": 32}),
    Target("gauss-newton-step", "the same, n = 32: a step without its solve, seconds", "≤", 0.25,
           "second_order", "step", {"part": "step", "n": 32}, figure="seconds"),
]  # fmt: skip


def selected(target: Target, measurements: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the measurements that a target is about."""
    return [
        m
        for m in measurements
        if m["section"] == target.section
        and all(m["case"].get(key) == value for key, value in target.where.items())
        and target.method in m[target.figure]
    ]


def judged(target: Target, measurements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a target: worst and best case, and whether all cases keep the bound."""
    found = selected(target, measurements)
    row: dict[str, Any] = {
        "id": target.id,
        "what": target.what,
        "target": f"{target.sign} {target.bound:g}",
        "cases": len(found),
        "kept": 0,
        "met": None,
        "worst": None,
        "best": None,
    }
    if found:
        at_least = target.sign == "≥"
        cases = sorted(
            ({**m[target.figure][target.method], "case": m["case"]} for m in found),
            key=lambda case: case["median"],
            reverse=not at_least,
        )
        kept = [(c["median"] >= target.bound) is at_least or c["median"] == target.bound
                for c in cases]  # fmt: skip
        row |= {"kept": sum(kept), "met": all(kept), "worst": cases[0], "best": cases[-1]}
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of targets as text."""

    def shown(case: dict[str, Any] | None) -> str:
        if case is None:
            return "not measured"
        spread = f"{case['median']:.3g} ({case['low']:.3g}–{case['high']:.3g})"
        return f"{spread} at " + ", ".join(f"{k} {v}" for k, v in case["case"].items())

    verdicts = {True: "met", False: "MISSED", None: "-"}
    lines = []
    for row in rows:
        kept = f"{row['kept']}/{row['cases']}"
        lines.append(
            f"{verdicts[row['met']]:7}{kept:>6}  {row['what']}: target {row['target']}\n"
            f"{'':15}worst {shown(row['worst'])}\n{'':15}best  {shown(row['best'])}"
        )
    return "\n".join(lines)
