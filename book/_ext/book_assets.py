"""Sphinx extension: serve plotly.js and the book's own style and scripts from the site itself.

plotly.js is loaded once, on pages that have a figure: the bundle beside this module, which has the
figures in a plane and is a third of the one that the plotly package brings, in the same version.
All scripts are deferred, plotly.js as the last of them, and those of figures are modules, which run
after it: the text of a page waits for none, and its buttons for small ones.  MathJax is served in
the same way by the extension ``sphinx-mathjax-offline``.  jupyter-book puts every script it finds
under a static path of its own on every page; files staged here, after it has looked, are left
alone, and the extensions that need one load it.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PLOTLY = "plotly-cartesian.min.js"
STYLE = "book.css"
LATE = ("tex-chtml", "fontawesome")
"""Scripts of a megabyte that no other needs: mathematics, and then icons."""
LOADER = """<script type="module">
const load = ([src, ...rest]) => src && document.head.append(Object.assign(
  document.createElement("script"), {src, onload: () => load(rest)}));
load(SOURCES);
</script>
"""
INDEX = ("searchtools", "language_data", "searchindex")
"""Scripts of the search."""
OPTIONS = "documentation_options"
"""The script whose values scripts within a page change, and which they cannot wait for."""
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
        app.add_js_file(PLOTLY)


def drop_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Remove the scripts of sphinx-thebe, which name a remote server and have nothing to do."""
    context["script_files"] = [
        script for script in context["script_files"] if "thebe" not in str(vars(script)).lower()
    ]


def defer(html: str) -> str:
    """Return a page whose scripts wait for the text, all but one, which is small.

    They run in their order, what draws figures last.  Mathematics and icons are loaded one after
    the other, after that.  A page that is so stays as it is.

    >>> defer('<head><script src="a.js"></script></head>')
    '<head><script defer src="a.js"></script></head>'
    """
    if LOADER.split("SOURCES")[0] in html:
        return html
    blocking = rf"<script (?=[^>]*\bsrc=)(?![^>]*\bdefer\b)(?![^>]*{OPTIONS})"
    html = re.sub(blocking, "<script defer ", html)
    deferred = r"<script defer [^>]*></script>\n?"
    tags = sorted(re.findall(deferred, html), key=lambda tag: PLOTLY in tag)
    html = re.sub(deferred, "", html).replace("</head>", f"{''.join(tags)}</head>", 1)
    sources = []
    for name in LATE:
        tag = rf'<script [^>]*src="([^"]*{name}[^"]*)"[^>]*></script>\n?'
        sources += re.findall(tag, html)
        html = re.sub(tag, "", html)
    loader = LOADER.replace("SOURCES", json.dumps(sources)) if sources else ""
    return html.replace("</head>", f"{loader}</head>", 1)


def defer_scripts(app: Sphinx, exception: Exception | None) -> None:
    """Defer the scripts of all pages, also those in the templates of the theme.

    The index of the search stays where it is searched: fields on other pages lead there.
    """
    for path in [] if exception else Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        changed = defer(text)
        if path.name != "search.html":
            changed = re.sub(rf"<script [^>]*(?:{'|'.join(INDEX)})[^>]*></script>\n?", "", changed)
        if changed != text:
            path.write_text(changed, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to the build."""
    app.connect("builder-inited", stage)
    app.connect("env-updated", drop_widget_state)
    app.connect("html-page-context", load_plotly)
    app.connect("html-page-context", drop_thebe, priority=LAST)
    app.connect("build-finished", defer_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
