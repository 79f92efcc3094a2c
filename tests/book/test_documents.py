"""README, CHANGELOG and the like: every file of this repository that they name is there."""

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from commands import faulty
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(ROOT.glob("*.md"))
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "_")
SUFFIXES = "bib|cff|ipynb|json|md|py|svg|toml|txt|yml"
PATH = re.compile(rf"({'|'.join(map(re.escape, FOLDERS))})/[\w./-]+|[\w-]+\.({SUFFIXES})")
"""A path from the top of the repository, or the name of a file there."""


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def all_tokens(path: Path) -> list[Token]:
    """Return the tokens of a document, those within a line too."""
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    return [one for token in tokens for one in (token, *(token.children or ()))]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings."""
    pairs = pairwise(all_tokens(path))
    return {anchor(after.content) for one, after in pairs if one.type == "heading_open"}


def named(path: Path) -> set[str]:
    """Return what a document links to, and the paths that it prints as code."""
    found = set()
    for token in all_tokens(path):
        found |= {str(token.attrs[name]) for name in ("href", "src") if name in token.attrs}
        if token.type in ("html_block", "html_inline"):
            found |= set(re.findall(r"(?:href|src)=[\"']([^\"']+)", token.content))
        if token.type in ("code_inline", "fence"):
            for word in re.findall(r"[\w./-]+", token.content):
                if PATH.fullmatch(word):
                    found.add(word.rstrip("."))
    return found


def broken(path: Path) -> list[str]:
    """Return what a document names and what is not there."""
    found = []
    for link in sorted(named(path)):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = path.parent / unquote(parts.path) if parts.path else path
        wanted = unquote(parts.fragment)
        lost = wanted and target.suffix == ".md" and wanted not in anchors(target)
        if not target.exists() or lost:
            found.append(link)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_everything_that_a_document_names_is_there(path):
    assert broken(path) == []


@pytest.mark.parametrize(
    "text",
    [
        "[a](planted.md)",
        "[a](book/planted.ipynb)",
        "[a](#planted)",
        "[a](other.md#planted)",
        "![a](planted.svg)",
        "<img src='planted.svg'>",
        "run `scripts/planted.py`",
        "see `planted.cff`",
        "```sh\npython scripts/planted.py --all\n```",
        "| a |\n|---|\n| [a](planted.md) |",
    ],
)
def test_planted_name_is_found(text, tmp_path):
    (tmp_path / "other.md").write_text("# Other one\n")
    document = tmp_path / "README.md"
    sound = (
        "# Two words\n\n[a](#two-words) [b](other.md#other-one) `other.md` [c](https://a.b/c.md)"
    )
    document.write_text(sound)
    assert broken(document) == []
    document.write_text(f"{sound}\n\n{text}\n")
    (found,) = broken(document)
    assert "planted" in found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_a_document_prints_works(path):
    code = [one.content for one in all_tokens(path) if one.type in ("code_inline", "fence")]
    assert [fault for piece in code for fault in faulty(piece)] == []
