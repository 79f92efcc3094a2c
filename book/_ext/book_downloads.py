"""Sphinx extension: a page that was computed offers its notebook, and all that this needs.

The theme's download menu has the source of every page, the notebook as it is committed.  This adds
the one that the build executed, for a reader without a kernel, and the wheels of kanlib and of
kanbook, which ``scripts/wheels.py`` has built.  A downloaded notebook begins with a cell that
installs the wheels where they are missing, from the address of the book, ``html_baseurl``, or else
from the folder of the notebook: it runs in any folder, on any machine.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
from sphinx.application import Sphinx

FOLDER = "_executed"
WHEELS = "_wheels"
AFTER_THE_THEME = 502
"""Priority of a handler that comes after those of the theme, which make the menu."""
NEEDS = """\
*This notebook is a page of a book. It needs **kanlib**, and **kanbook**, the code and the records
of the book. Where they are missing, the next cell installs them from {place}.*"""
HERE = "{names}, which the page offers in the same menu: put them beside this notebook"
INSTALL = """\
from importlib.util import find_spec

if find_spec("kanbook") is None:
    %pip install --quiet {files}"""


def built(app: Sphinx) -> list[Path]:
    """Return the wheels, if they were built."""
    return sorted((Path(app.outdir).parent / "wheels").glob("*.whl"))


def executed(app: Sphinx, page: str) -> Path:
    """Return where the build keeps the executed notebook of a page."""
    return Path(app.outdir).parent / "jupyter_execute" / f"{page}.ipynb"


def offer(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Name the notebooks and the wheels in the menu of a page."""
    if not executed(app, page).exists():
        return
    offered = [(f"{FOLDER}/{page}.ipynb", "notebook with outputs", "file-circle-check")]
    for file in built(app):
        offered.append((f"{WHEELS}/{file.name}", f"{file.name.split('-')[0]}, a wheel", "box"))
    for menu in context.get("header_buttons", []):
        if menu.get("label") == "download-buttons":
            menu["buttons"][0]["text"] = "notebook"
            menu["buttons"][1:1] = [
                {
                    "type": "link",
                    "url": context["pathto"](address, 1),
                    "text": text,
                    "tooltip": f"Download {text}",
                    "icon": f"fas fa-{icon}",
                    "label": f"download-{icon}-button",
                }
                for address, text, icon in offered
            ]


def complete(
    notebook: nbformat.NotebookNode, wheels: list[str], base: str
) -> nbformat.NotebookNode:
    """Return a notebook that begins with the cells that get what it needs.

    Args:
        notebook: the notebook; it stays as it is.
        wheels: names of the files.
        base: the address of the book, or "".

    >>> empty = nbformat.v4.new_notebook()
    >>> print(complete(empty, ["a.whl", "b.whl"], "https://x.org/").cells[1].source)
    from importlib.util import find_spec
    <BLANKLINE>
    if find_spec("kanbook") is None:
        %pip install --quiet https://x.org/_wheels/a.whl https://x.org/_wheels/b.whl
    """
    site = base.rstrip("/")
    place = f"<{site}>" if site else HERE.format(names=" and ".join(f"`{x}`" for x in wheels))
    folder = f"{site}/{WHEELS}" if site else "."
    files = " ".join(f"{folder}/{name}" for name in wheels)
    text = nbformat.v4.new_markdown_cell(NEEDS.format(place=place), id="what-it-needs")
    code = nbformat.v4.new_code_cell(INSTALL.format(files=files), id="get-it")
    return nbformat.from_dict({**notebook, "cells": [text, code, *notebook.cells]})


def deliver(app: Sphinx, exception: Exception | None) -> None:
    """Put wheels and notebooks where the menus have them."""
    if exception:
        return
    out, wheels = Path(app.outdir), built(app)
    if wheels:
        shutil.rmtree(out / WHEELS, ignore_errors=True)
        shutil.copytree(wheels[0].parent, out / WHEELS)
    names = [file.name for file in wheels]
    for page in app.env.found_docs:
        if not executed(app, page).exists():
            continue
        sources = {"_sources": Path(app.env.doc2path(page)), FOLDER: executed(app, page)}
        for folder, source in sources.items():
            notebook = nbformat.read(source, as_version=4)
            target = out / folder / f"{page}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            own = complete(notebook, names, app.config.html_baseurl) if wheels else notebook
            nbformat.write(own, target)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("html-page-context", offer, priority=AFTER_THE_THEME)
    app.connect("build-finished", deliver)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
