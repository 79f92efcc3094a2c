"""Sphinx extension: a page that was computed offers its notebook, without and with outputs.

The theme's download menu has the source of every page, which is the notebook as it is committed.
This adds the one that the build executed, so that a reader without a kernel can look at it too.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

FOLDER = "_executed"
AFTER_THE_THEME = 502
"""Priority of a handler that comes after those of the theme, which make the menu."""


def executed(app: Sphinx, page: str) -> Path:
    """Return where the build keeps the executed notebook of a page."""
    return Path(app.outdir).parent / "jupyter_execute" / f"{page}.ipynb"


def offer(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Put the executed notebook beside the clean one and name both."""
    if not executed(app, page).exists():
        return
    target = Path(app.outdir) / FOLDER / f"{page}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(executed(app, page), target)
    for menu in context.get("header_buttons", []):
        if menu.get("label") == "download-buttons":
            menu["buttons"][0]["text"] = "notebook"
            button = {
                "type": "link",
                "url": context["pathto"](f"{FOLDER}/{page}.ipynb", 1),
                "text": "notebook with outputs",
                "tooltip": "Download the executed notebook",
                "icon": "fas fa-file-circle-check",
                "label": "download-executed-button",
            }
            menu["buttons"].insert(1, button)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("html-page-context", offer, priority=AFTER_THE_THEME)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
