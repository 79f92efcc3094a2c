"""Execute the chapters of a book side by side, before Sphinx reads them one after the other.

``python scripts/execute.py SOURCE JOBS`` puts each chapter of ``SOURCE/book`` with its outputs into
the cache that jupyter-book reads, ``SOURCE/_build/.jupyter_cache``, unless it is there. A chapter
that fails is left to the build, which executes it again and shows what went wrong.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from tqdm import tqdm

from scripts.notebooks import CELL_TIMEOUT, chapters

QUIET = ["--log-level=ERROR"]
"""Arguments of a kernel, which else warns of its port."""


def run(path: Path) -> ExecutionResult | None:
    """Execute a chapter in its folder; None if its kernel did not start."""
    notebook = nbformat.read(path, as_version=4)
    try:
        return single_nb_execution(
            notebook, str(path.parent), CELL_TIMEOUT, allow_errors=False, extra_arguments=QUIET
        )
    except RuntimeError:  # two kernels that start at once can be given the same port
        return None


def main(source: Path, jobs: int) -> None:
    """Execute what the cache lacks."""
    cache = get_cache(source / "_build" / ".jupyter_cache")
    missing = []
    for path in chapters(source / "book"):
        try:
            cache.match_cache_file(str(path))
        except KeyError:
            missing.append(path)
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        results = tqdm(pool.map(run, missing), "chapters", len(missing), disable=None)
        for path, result in zip(missing, results, strict=True):
            if result is not None and result.err is None:
                data = {"execution_seconds": result.time}
                bundle = CacheBundleIn(result.nb, str(path), data=data)
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
