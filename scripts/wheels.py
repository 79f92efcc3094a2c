"""Build the wheels that a downloaded chapter needs: ``python scripts/wheels.py FOLDER``.

One is kanlib.  The other is kanbook, the code of the book's pages, and with it what they read: the
records, the claims and the chapters themselves, laid out as they are in the repository.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KANLIB = ("kanlib", "pyproject.toml", "README.md", "LICENSE")
BOOK = ("results", "claims", "published.json", "*.ipynb")


def stage_kanlib(folder: Path) -> None:
    """Copy what kanlib is built from."""
    for name in KANLIB:
        _copy(ROOT / name, folder / name)


def stage_kanbook(folder: Path) -> None:
    """Copy what kanbook is built from: the code, and within it the folder of the book."""
    _copy(ROOT / "scripts" / "kanbook.toml", folder / "pyproject.toml")
    _copy(ROOT / "book" / "kanbook", folder / "kanbook")
    _copy(ROOT / "_toc.yml", folder / "kanbook" / "_toc.yml")
    for pattern in BOOK:
        for path in (ROOT / "book").glob(pattern):
            _copy(path, folder / "kanbook" / "book" / path.name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def build(target: Path) -> list[Path]:
    """Build both wheels into a folder, in place of older ones, and return them."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for stage in (stage_kanlib, stage_kanbook):
        with tempfile.TemporaryDirectory() as folder:
            stage(Path(folder))
            command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
            subprocess.run(
                [*command, "--outdir", target.resolve(), folder], check=True, capture_output=True
            )
    return sorted(target.glob("*.whl"))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
