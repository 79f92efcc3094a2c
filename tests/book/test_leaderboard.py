"""The published errors that the leaderboard shows."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = json.loads((ROOT / "book" / "published.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "book" / "leaderboard.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['problem']} {row['error']}")
def test_a_published_row_is_complete(row):
    assert list(row) == ["problem", "method", "parameters", "error", "cost", "source"]
    assert f'\\"{row["problem"]}\\": \\"' in PAGE  # a problem that the page shows
    assert 0 < row["error"] < 1
    assert row["parameters"] is None or row["parameters"] > 0
    assert re.fullmatch(r"\d{4}\.\d{5}", row["source"])
    assert not row["method"].startswith("the same")  # rows are sorted: none refers to another
