"""Draw book/images/preview.png, the picture of the book where its address is shared.

    python -m scripts.preview

It needs Chromium, which draws the SVG that this makes of one spline on three grids.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from kanlib.splines.bspline import dense_basis, greville
from kanlib.splines.knots import KnotGrid
from kanlib.splines.prolongation import prolongation
from kanlib.viz.colors import BLUE, GREY, ORANGE
from scripts.chromium import Chromium

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "book" / "images" / "preview.png"
WIDTH, HEIGHT = 1200, 630
LEVELS = 3


def svg() -> str:
    """Return the picture: one curve three times, with the points of each grid."""
    grid, parts = KnotGrid.uniform(4, 5), []
    weights = 1.1 * torch.sin(9 * greville(grid) + 0.2)
    x = torch.linspace(0, 1, 300, dtype=torch.float64)
    for level in range(LEVELS):
        if level:
            fine = grid.refine()
            weights, grid = prolongation(grid, fine).apply(weights), fine
        left, wide, middle, tall = 72 + level * 376, 304, 440, 150
        at = [
            f"{left + a * wide:.1f},{middle - b * tall:.1f}"
            for a, b in zip(greville(grid).tolist(), weights.tolist(), strict=True)
        ]
        curve = [
            f"{left + a * wide:.1f},{middle - b * tall:.1f}"
            for a, b in zip(x.tolist(), (dense_basis(x, grid) @ weights).tolist(), strict=True)
        ]
        parts.append(f'<path d="M{"L".join(at)}" fill="none" stroke="{GREY}" stroke-width="1.5"/>')
        parts.append(f'<path d="M{"L".join(curve)}" fill="none" stroke="{BLUE}" stroke-width="7"/>')
        parts += [
            f'<circle r="{12 - 3 * level}" fill="{ORANGE}" transform="translate({p})"/>' for p in at
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="DejaVu Sans, Arial, sans-serif" fill="#222">'
        '<rect width="100%" height="100%" fill="#fff"/>'
        '<text x="60" y="105" font-size="50" font-weight="700">Multilevel training for</text>'
        '<text x="60" y="168" font-size="50" font-weight="700">Kolmogorov–Arnold networks</text>'
        '<text x="60" y="222" font-size="29">Refine the grid, keep the function. What does it '
        "gain beyond the start?</text>"
        f"{''.join(parts)}</svg>"
    )


def main() -> int:
    """Draw the picture."""
    with tempfile.TemporaryDirectory() as folder, Chromium() as browser:
        page = Path(folder) / "preview.html"
        style = "<style>body { margin: 0 } svg { display: block }</style>"
        page.write_text(f"<!doctype html><meta charset=utf-8>{style}{svg()}", encoding="utf-8")
        opened = browser.open(page.as_uri(), WIDTH)
        opened.resize(HEIGHT)
        opened.screenshot(PICTURE)
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
