"""Write what README.md takes from the records: its table of results and its picture.

    python scripts/readme.py          # rewrite both
    python scripts/readme.py check    # exit 1 if either differs from the records

The picture is a plain SVG, legible on light and dark pages.
"""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path

from kanbook.figures import BASIS_COLORS, GREY, LEVEL_COLORS
from kanlib.paper.comparison import compare_cases
from kanlib.paper.experiments import EXPERIMENTS
from kanlib.paper.records import Record, load_record, runs_of

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "book" / "images" / "regression.svg"
START, END = "<!-- results -->\n", "<!-- /results -->"

CONTROLS = {
    "spline-fine-prolonged": "fine, started as the prolonged untrained coarse network",
    "spline-fine-scale0.01": "fine, initial scale 0.01 instead of 0.1",
    "spline-multilevel-scale0.01": "multilevel, initial scale 0.01",
}
COLUMNS = [
    ("coarse", "spline-coarse", LEVEL_COLORS[0]),
    ("fine,\nrough start", "spline-fine", LEVEL_COLORS[1]),
    ("fine,\nprolonged start", "spline-fine-prolonged", LEVEL_COLORS[2]),
    ("fine,\nsmall start", "spline-fine-scale0.01", LEVEL_COLORS[2]),
    ("multilevel", "spline-multilevel", BASIS_COLORS["spline"]),
]


def table(record: Record) -> str:
    """Return the rows of Table 2 and the main controls as Markdown."""
    lines = [
        "| network | parameters | paper | ours | over multilevel, all pairs of seeds |",
        "|---|---|---|---|---|",
    ]
    for case, details in EXPERIMENTS["regression"].cases.items():
        if not details.paper and case not in CONTROLS:
            continue
        runs = runs_of(record, case)
        losses = [run.metrics["train_mse"] for run in runs]
        paper = details.paper
        theirs = f"{paper['mean']:.2e} ({paper['stdev']:.1e})" if paper else "not in the paper"
        ours = f"{statistics.mean(losses):.2e} ({statistics.stdev(losses):.1e})"
        label = CONTROLS.get(case, details.description)
        reference = "spline-multilevel" + ("-scale0.01" if "scale0.01" in case else "")
        own = case == reference
        ratio = "" if own else str(compare_cases(record, case, reference, "train_mse"))
        lines.append(f"| {label} | {runs[0].num_parameters} | {theirs} | {ours} | {ratio} |")
    return "\n".join(lines) + "\n"


def picture(record: Record) -> str:
    """Return the losses of every seed, a column for each schedule, as SVG."""
    width, height, left, top, bottom = 760, 380, 70, 16, 70
    low, high = -6.5, -1.5

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - math.log10(value)) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="14" fill="{GREY}">',
        "<title>Training error of five seeds by schedule and start, at equal work</title>",
    ]
    for power in range(-6, -1):
        at = f"{y(10.0**power):.1f}"
        parts.append(
            f'<line x1="{left}" x2="{width}" y1="{at}" y2="{at}" stroke="{GREY}" opacity=".3"/>'
        )
        parts.append(
            f'<text x="{left - 10}" y="{at}" dy="5" text-anchor="end">10'
            f'<tspan dy="-6" font-size="10">{power}</tspan></text>'
        )
    middle = (top + height - bottom) / 2
    parts.append(
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        "mean squared error</text>"
    )
    step = (width - left) / len(COLUMNS)
    for column, (label, case, color) in enumerate(COLUMNS):
        centre = left + step * (column + 0.5)
        for k, run in enumerate(runs_of(record, case)):
            at = y(run.metrics["train_mse"])
            parts.append(
                f'<circle cx="{centre + 14 * (k - 2):.1f}" cy="{at:.1f}" r="6" fill="{color}"/>'
            )
        for line, text in enumerate(label.split("\n")):
            below = height - bottom + 26 + 20 * line
            parts.append(f'<text x="{centre:.1f}" y="{below}" text-anchor="middle">{text}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main(arguments: list[str]) -> int:
    """Rewrite README and picture, or check them."""
    record = load_record(ROOT / "book" / "results" / "regression.json", "regression")
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    new = before + START + table(record) + END + rest.split(END)[1]
    if arguments == ["check"]:
        old_picture = PICTURE.read_text(encoding="utf-8") if PICTURE.exists() else ""
        stale = [
            str(path.relative_to(ROOT))
            for path, old, fresh in ((README, text, new), (PICTURE, old_picture, picture(record)))
            if old != fresh
        ]
        if stale:
            print(f"differ from the records: {', '.join(stale)}; run python scripts/readme.py")
        return int(bool(stale))
    README.write_text(new, encoding="utf-8")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(record), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
