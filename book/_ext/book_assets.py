"""Sphinx extension: serve plotly.js and the book's own style and scripts from the site itself.

plotly.js is loaded once, on pages that have a figure: the bundle beside this module, which has the
figures in a plane and is a third of the one that the plotly package brings, in the same version.
All scripts are deferred, and those of figures are modules, which run after them: the text of a page
waits for none, and what is large and not plotly.js comes after it.  MathJax is served in the same
way by the extension ``sphinx-mathjax-offline``.  jupyter-book puts every script it finds under a
static path of its own on every page; files staged here, after it has looked, are left alone, and
the extensions that need one load it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PLOTLY = "plotly-cartesian.min.js"
STYLE = "book.css"
OPTIONS = "documentation_options"
"""The script whose values scripts within a page change, and which they cannot wait for."""
FIRST = 1
"""Priority of a script that comes before all others, so that an AMD loader cannot claim it."""

LAST = 900
"""Priority of a handler that comes after all that add a script."""


def stage(app: Sphinx) -> None:
    """Copy the files to a static path of their own."""
    folder = Path(app.doctreedir) / "assets"
    folder.mkdir(parents=True, exist_ok=True)
    for own in (STYLE, "book_*.js", f"plotly/{PLOTLY}"):
        for file in Path(__file__).parent.glob(own):
            shutil.copy(file, folder)
    app.config.html_static_path.append(str(folder))
    app.add_css_file(STYLE)


def drop_widget_state(app: Sphinx, env: BuildEnvironment) -> None:
    """Forget the saved widgets: a page has no kernel, and `explorer` draws its own controls."""
    for document in getattr(env, "nb_metadata", {}).values():
        document.pop("js_files", None)


def load_plotly(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Load plotly.js on a page that draws a figure."""
    if "Plotly." in context.get("body", ""):
        app.add_js_file(PLOTLY, priority=FIRST)


def drop_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Remove the scripts of sphinx-thebe, which name a remote server and have nothing to do."""
    context["script_files"] = [
        script for script in context["script_files"] if "thebe" not in str(vars(script)).lower()
    ]


def defer(html: str) -> str:
    """Return a page whose scripts wait for the text, all but one, which is small.

    Those that draw no figure are also fetched last.

    >>> defer('<script src="a.js"></script>')
    '<script fetchpriority="low" defer src="a.js"></script>'
    >>> defer('<script src="plotly-cartesian.min.js"></script>')
    '<script defer src="plotly-cartesian.min.js"></script>'
    """
    blocking = rf"<script (?=[^>]*\bsrc=)(?![^>]*\bdefer\b)(?![^>]*{OPTIONS})"
    html = re.sub(blocking, "<script defer ", html)
    other = rf"<script (?=[^>]*\bdefer\b)(?![^>]*(?:fetchpriority|{PLOTLY}))"
    return re.sub(other, '<script fetchpriority="low" ', html)


def defer_scripts(app: Sphinx, exception: Exception | None) -> None:
    """Defer the scripts of all pages, those in the templates of the theme and the search index."""
    for path in [] if exception else Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if (changed := defer(text)) != text:
            path.write_text(changed, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("builder-inited", stage)
    app.connect("env-updated", drop_widget_state)
    app.connect("html-page-context", load_plotly)
    app.connect("html-page-context", drop_thebe, priority=LAST)
    app.connect("build-finished", defer_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
