"""Keep the committed notebooks in one canonical form.

Only ``book/*.ipynb`` is committed, with every output stripped except those of the cells tagged
``nbval-check-output``, which the tests compare with a fresh run.  A chapter is easiest to write as
MyST markdown anywhere outside the repository and to convert::

    python scripts/notebooks.py from-md /some/where/02-1-change-of-basis.md
    python scripts/notebooks.py refresh book/02-1-change-of-basis.ipynb   # no argument: every
    python scripts/notebooks.py check                                     # chapter

``from-md`` converts and formats the code and runs nothing.  ``refresh`` executes a chapter in its
own folder, as the book and the tests do, and stores the outputs of the checked cells; a cell that
raises stops it and leaves the file as it was.  ``check`` lists what is not in canonical form.
To edit a committed chapter as markdown: ``jupytext --to myst -o draft.md book/CHAPTER.ipynb``.

A chapter in MyST markdown, with the tags that matter::

    # 2.1 Change of basis

    Text with $math$, numbered equations, `{cite}` and `{eq}` roles.

    ```{code-cell} python
    :tags: [parameters]
    r = 4
    n = 10
    basis = "spline"
    ```

    ```{code-cell} python
    :tags: [nbval-check-output]
    print(f"{error:.0e}")          # rounded numbers or booleans only: outputs compare as text
    ```

Other useful tags: ``hide-input``, ``hide-cell``, ``remove-input``.  Untagged cells are executed by
every test and their outputs are compared with nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parent.parent / "book"
CHECKED = "nbval-check-output"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = ("tags", "mystnb")
RUN = 1  # the tests take a cell with outputs and without a count for one that was not run
CELL_TIMEOUT = 600


def chapters(book: Path = BOOK) -> list[Path]:
    """Return the committed chapters, in the order of their names."""
    return sorted(book.glob("*.ipynb"))


def tags(cell: NotebookNode) -> list[str]:
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def has_parameters(notebook: NotebookNode) -> bool:
    """Tell whether a notebook has a cell that papermill can inject parameters after."""
    return any("parameters" in tags(cell) for cell in notebook.cells)


def normalised(notebook: NotebookNode) -> NotebookNode:
    """Return a copy in canonical form; the outputs of checked cells are all that is kept."""
    cells = []
    for cell in notebook.cells:
        new = nbformat.from_dict({"id": cell.id, "cell_type": cell.cell_type})
        new.metadata = {key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata}
        new.source = cell.source
        if "attachments" in cell:
            new.attachments = cell.attachments
        if cell.cell_type == "code":
            kept = cell.outputs if CHECKED in tags(cell) else []
            new.outputs = [normalised_output(output) for output in kept]
            new.execution_count = RUN if kept else None
        cells.append(new)
    return nbformat.from_dict(
        {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    )


def normalised_output(output: NotebookNode) -> NotebookNode:
    """Return an output without what changes from run to run."""
    new = nbformat.from_dict(output)
    if "execution_count" in new:
        new.execution_count = RUN
    if "metadata" in new:
        new.metadata = {}
    return new


def problems(path: Path) -> list[str]:
    """Return what keeps a committed notebook from canonical form, one sentence each."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        return [f"format {notebook.nbformat}.{notebook.nbformat_minor}, expected 4.5"]
    found = []
    if notebook.metadata != METADATA:
        found.append(f"metadata {sorted(notebook.metadata)} differs from the canonical one")
    for number, (cell, clean) in enumerate(
        zip(notebook.cells, normalised(notebook).cells, strict=True)
    ):
        if cell != clean:
            found.append(f"cell {number} has an output or metadata that is not to be committed")
        if CHECKED in tags(cell) and not cell.outputs:
            found.append(f"cell {number} is tagged {CHECKED} and has no output")
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            found.append(f"cell {number} ended in an error")
    if path.name[:2] in ("02", "03", "04", "05", "06") and not has_parameters(notebook):
        found.append("no cell is tagged parameters")
    return found


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook in canonical form, all or nothing."""
    temporary = path.with_suffix(".ipynb.part")
    nbformat.write(normalised(notebook), temporary)
    temporary.replace(path)


def from_md(source: Path, book: Path = BOOK) -> Path:
    """Convert MyST markdown to ``book/<name>.ipynb`` and return its path."""
    text = re.sub(r"\A---\n.*?\n---\n", "", source.read_text(), flags=re.DOTALL)  # front matter
    notebook = jupytext.reads(text, fmt="md:myst")
    seen: set[str] = set()
    for cell in notebook.cells:
        digest = hashlib.sha1(cell.source.encode()).hexdigest()
        cell.id = next(digest[i : i + 8] for i in range(32) if digest[i : i + 8] not in seen)
        seen.add(cell.id)
    path = book / f"{source.stem}.ipynb"
    write(notebook, path)
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(path)], check=True)
    write(nbformat.read(path, as_version=4), path)
    return path


def refresh(path: Path) -> None:
    """Execute a notebook in its own folder and store the outputs of its checked cells."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    client.execute()
    write(notebook, path)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["from-md", "refresh", "check"])
    parser.add_argument("files", nargs="*", type=Path, help="default: every chapter of the book")
    options = parser.parse_args(arguments)
    if options.command == "from-md" and not options.files:
        parser.error("from-md needs a markdown file")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = False
    for path in options.files or chapters():
        if options.command == "from-md":
            print(f"{path.name} → {from_md(path)}")
        elif options.command == "refresh":
            try:
                refresh(path)
                print(f"{path.name}: refreshed")
            except CellExecutionError as error:
                failed = True
                print(f"{path.name}: left as it was\n{error}", file=sys.stderr)
        else:
            for problem in problems(path):
                failed = True
                print(f"{path}: {problem}", file=sys.stderr)
    if options.command == "check" and failed:
        print("Run: python scripts/notebooks.py refresh CHAPTER", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
