"""The form of the committed chapters, the table of contents, and the tool that keeps them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from scripts import notebooks

ROOT = Path(__file__).parents[2]
START = ["ten-minutes", "train-it-here"]
BEYOND = [
    "gauss-newton",
    "where-levels-pay",
    "cycles",
    "multigrid",
    "bases",
    "performance",
    "cost-planner",
    "other-solvers",
    "leaderboard",
    "solve-your-own-pde",
    "pde-toolbox",
    "gallery",
    "what-the-network-learned",
    "other-peoples-code",
    "more-than-one-machine",
]
REFERENCE = [
    *["figures", "results", "errata", "claims", "provenance"],
    *["api", "contributing", "glossary", "bibliography"],
]
SECTIONS = "1 2.1 2.2 2.3 3 4.1 4.2 4.3 5.1 5.2.1 5.2.2 5.2.3 6 A B C D E P.1 P.2 P.3".split()
DRAFT = """\
# 2.0 A draft

```{code-cell} python
:tags: [parameters]
r = 1
```

```{code-cell} python
:tags: [nbval-check-output]
print( r )
```

```{code-cell} python
print("not kept")
```
"""


def toc_entries() -> list[dict[str, str]]:
    """Return the entries of the table of contents, in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [entry for part in toc["parts"] for entry in part["chapters"]]


def section(entry: dict[str, str]) -> str:
    """Return the number of an entry's section, from its title or else from its chapter."""
    if "url" in entry:
        return entry["title"].split()[0]
    number = [
        part for part in Path(entry["file"]).name.split("-") if part.isdigit() or part in "ABCDEP"
    ]
    return ".".join(part.lstrip("0") for part in number)


@pytest.fixture
def draft(tmp_path):
    """Return a fresh notebook made from markdown, in a book of its own."""
    source = tmp_path / "02-0-draft.md"
    source.write_text(DRAFT)
    return notebooks.from_md(source, book=tmp_path)


def test_chapter_is_in_canonical_form(chapter):
    assert notebooks.problems(chapter) == []


def test_chapter_sets_the_parameters_that_the_tests_vary(chapter):
    cells = nbformat.read(chapter, as_version=4).cells
    for cell in cells:
        if "parameters" in notebooks.tags(cell):
            names = {
                target.id
                for node in ast.walk(ast.parse(cell.source))
                if isinstance(node, ast.Assign)
                for target in node.targets
            }
            assert {"r", "n", "basis"} <= names


def test_chapter_is_in_the_table_of_contents(chapter):
    files = [entry.get("file") for entry in toc_entries()]
    assert f"book/{chapter.stem}" in ["book/index", *files]


def test_table_of_contents_has_every_section_in_order():
    names = [Path(entry["file"]).name for entry in toc_entries()]
    assert names[1 : 1 + len(START)] == START
    found = [section(entry) for entry in toc_entries() if Path(entry["file"]).name not in START]
    assert found[: len(SECTIONS)] == SECTIONS
    assert names[len(START) + len(SECTIONS) :] == [*BEYOND, *REFERENCE]


def test_draft_becomes_a_canonical_notebook(draft):
    assert notebooks.problems(draft) == [
        "cell 2 is tagged nbval-check-output and has no output",
    ]
    assert nbformat.read(draft, as_version=4).cells[2].source == "print(r)"


def test_conversion_keeps_the_ids_of_cells(draft, tmp_path):
    before = [cell.id for cell in nbformat.read(draft, as_version=4).cells]
    notebooks.from_md(tmp_path / "02-0-draft.md", book=tmp_path)
    assert [cell.id for cell in nbformat.read(draft, as_version=4).cells] == before


def test_refresh_keeps_the_outputs_of_checked_cells_only(draft):
    notebooks.refresh(draft)
    assert notebooks.problems(draft) == []
    cells = nbformat.read(draft, as_version=4).cells
    assert [cell.get("outputs", []) for cell in cells] == [
        [],
        [],
        [{"name": "stdout", "output_type": "stream", "text": "1\n"}],
        [],
    ]


def test_refresh_leaves_a_failing_notebook_as_it_was(draft):
    notebook = nbformat.read(draft, as_version=4)
    notebook.cells[3].source = "1 / 0"
    notebooks.write(notebook, draft)
    before = draft.read_bytes()
    assert notebooks.main(["refresh", str(draft)]) == 1
    assert draft.read_bytes() == before


MALFORMED = {
    "empty": b"",
    "text": b"# 2.0 A draft",
    "binary": b"\x80\x04\xff",
    "deep": b"[" * 100_000,
    "list": b"[]",
    "number": b"1",
    "object": b"{}",
    "no cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    "version": b'{"nbformat": "4", "nbformat_minor": 5, "metadata": {}, "cells": []}',
    "future": b'{"nbformat": 9, "nbformat_minor": 5, "metadata": {}, "cells": []}',
    "cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 7}',
    "cell": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [7]}',
    "source": b"""{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
        {"id": "a", "cell_type": "markdown", "metadata": {}, "source": 7}]}""",
    "tags": b"""{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
        {"id": "a", "cell_type": "markdown", "metadata": {"tags": 7}, "source": ""}]}""",
    "output": b"""{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
        {"id": "a", "cell_type": "code", "metadata": {}, "source": "", "execution_count": null,
        "outputs": [{"text": "no type"}]}]}""",
}


@pytest.mark.parametrize("command", ["check", "refresh"])
@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_notebook_is_named_in_one_sentence(command, content, tmp_path, capfd):
    path = tmp_path / "02-0-bad.ipynb"
    path.write_bytes(content)
    assert notebooks.main([command, str(path)]) == 1
    err = capfd.readouterr().err.removesuffix("Run: python scripts/notebooks.py refresh CHAPTER\n")
    assert re.fullmatch(rf"error: {path} is no notebook \(.*\): restore it, or .*\n", err)
    assert path.read_bytes() == content


@pytest.mark.parametrize("command", ["check", "refresh", "from-md"])
def test_file_that_cannot_be_read_is_named_in_one_sentence(command, tmp_path, capfd):
    for path, reason in ((tmp_path / "none.md", "does not exist"), (tmp_path, "it is a folder")):
        assert notebooks.main([command, str(path)]) == 1
        assert re.match(rf"error: .*{path}.*{reason}.*\n", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DRAFT.replace("r = 1", "r = = 1"), "has code that is no Python"),
        (DRAFT.replace(":tags: [parameters]", ":tags: [parameters"), "is no MyST markdown"),
        ("\ud800", "is no MyST markdown"),
    ],
    ids=["code", "tags", "bytes"],
)
def test_malformed_draft_is_named_in_one_sentence_and_writes_nothing(
    text, reason, tmp_path, capfd, monkeypatch
):
    (tmp_path / "bad.md").write_bytes(text.encode(errors="surrogatepass"))
    monkeypatch.setattr(notebooks.from_md, "__defaults__", (tmp_path,))
    assert notebooks.main(["from-md", str(tmp_path / "bad.md")]) == 1
    assert re.fullmatch(rf"error: .*bad\.md {reason} \(.*\): correct it\n", capfd.readouterr().err)
    assert [*tmp_path.iterdir()] == [tmp_path / "bad.md"]


def names_a_file_by_its_working_folder(source):
    return re.search(r"""from ledger|Path\(\)|["'](results|claims|\.\.)/""", source)


def test_chapters_name_no_file_by_their_working_folder():
    """A downloaded chapter runs in any folder: claims and records are found through kanlib."""
    for source in (
        "from ledger import claim",
        'load_record("results/x.json")',
        "Path().glob(a)",
    ):
        assert names_a_file_by_its_working_folder(source)
    for path in notebooks.chapters():
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert not names_a_file_by_its_working_folder(cell.source), path.name


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda nb: nb.metadata.update(papermill={}), "metadata"),
        (lambda nb: nb.metadata.kernelspec.update(language="R"), "metadata"),
        (lambda nb: nb.cells[3].metadata.update(execution={}), "cell 3 has"),
        (lambda nb: nb.cells[3].update(execution_count=1), "cell 3 has"),
        (lambda nb: nb.cells[3].outputs.append(nbformat.v4.new_output("stream")), "cell 3 has"),
        (lambda nb: nb.cells[1].metadata.update(tags=[]), "no cell is tagged parameters"),
    ],
)
def test_check_sees(draft, change, problem):
    notebook = nbformat.read(draft, as_version=4)
    change(notebook)
    nbformat.write(notebook, draft)
    assert any(problem in found for found in notebooks.problems(draft))
    command = [sys.executable, "scripts/notebooks.py", "check", str(draft)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 1
