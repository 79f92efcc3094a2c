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
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbformat import NotebookNode

from kanlib.training.files import read, write_atomically

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
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


def load(path: Path) -> NotebookNode:
    """Return the notebook in a file, in the format that it has.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds no notebook.
    """
    content = read(path)
    try:
        notebook = nbformat.reader.reads(content.decode())
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises many types on what is no notebook
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} is no notebook ({reason}): restore it, or write it anew with from-md"
        ) from None
    return notebook


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
    notebook = load(path)
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
    write_atomically(path, (nbformat.writes(normalised(notebook)) + "\n").encode())


def from_md(source: Path, book: Path = BOOK) -> Path:
    """Convert MyST markdown to ``book/<name>.ipynb`` and return its path.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if the text is no MyST markdown, or its code no Python.
    """
    content = read(source)
    try:
        text = re.sub(r"\A---\n.*?\n---\n", "", content.decode(), flags=re.DOTALL)  # front matter
        notebook = jupytext.reads(text, fmt="md:myst")
    except Exception as error:  # of the decoder, of YAML or of jupytext
        reason = str(error).splitlines()[0]
        raise ValueError(f"{source} is no MyST markdown ({reason}): correct it") from None
    seen: set[str] = set()
    for cell in notebook.cells:
        digest = hashlib.sha1(cell.source.encode()).hexdigest()
        cell.id = next(digest[i : i + 8] for i in range(32) if digest[i : i + 8] not in seen)
        seen.add(cell.id)
    path = book / f"{source.stem}.ipynb"
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        write(notebook, draft)
        ruff = [sys.executable, "-m", "ruff", "format", "--config", ROOT / "pyproject.toml", draft]
        done = subprocess.run(ruff, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[0].replace(f"{draft}:", "")
            raise ValueError(f"{source} has code that is no Python ({reason}): correct it")
        write(load(draft), path)
    return path


def refresh(path: Path) -> None:
    """Execute a notebook in its own folder and store the outputs of its checked cells."""
    notebook = nbformat.convert(load(path), 4)
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
        try:
            if options.command == "from-md":
                print(f"{path.name} → {from_md(path)}")
            elif options.command == "refresh":
                refresh(path)
                print(f"{path.name}: refreshed")
            else:
                for problem in problems(path):
                    failed = True
                    print(f"{path}: {problem}", file=sys.stderr)
        except (CellControlSignal, DeadKernelError) as error:  # a cell raised, hung or ended Python
            failed = True
            print(f"{path.name}: left as it was\n{error}", file=sys.stderr)
        except (OSError, ValueError) as error:
            failed = True
            print(f"error: {error}", file=sys.stderr)
    if options.command == "check" and failed:
        print("Run: python scripts/notebooks.py refresh CHAPTER", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
