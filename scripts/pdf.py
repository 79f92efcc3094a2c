"""Print the whole book as one PDF: ``python scripts/pdf.py``, or ``make pdf``.

The pages become one, which Chromium prints when its figures are drawn and its mathematics is
typeset. Code that one may skip is left out, as on the pages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Milliseconds that the scripts of the page may take.
BUDGET = 120_000


def main() -> int:
    """Build one page of all, and print it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"no browser found to print with: install one of {', '.join(BROWSERS)}")
        return 1
    build = [
        *(sys.executable, "-m", "jupyter_book.cli.main", "build", str(ROOT), "--quiet"),
        *("--builder", "custom", "--custom-builder", "singlehtml"),
    ]
    subprocess.run(build, check=True)
    page = ROOT / "_build" / "singlehtml" / "book" / "index.html"
    target = ROOT / "_build" / "kanlib-book.pdf"
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"),
            *(f"--virtual-time-budget={BUDGET}", "--no-pdf-header-footer"),
            *(f"--print-to-pdf={target}", page.as_uri()),
        ]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=900)
    print(f"The book: {target} ({target.stat().st_size / 1e6:.0f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
