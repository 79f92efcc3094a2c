"""What a page computes itself: a spline that one drags, a network that trains in the browser.

Usage, as the last expression of a cell::

    from kanbook.live import live

    live("drag", order=4, n=5)

The scripts are plain JavaScript beside this module. They come with the output of the cell, so that
it works in a notebook and on a page, without a kernel and without a request. A page runs them where
it reads them: the figure stands with the text, and waits for no other script.
"""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import Any
from uuid import uuid4

from IPython.display import HTML

from kanlib.viz.colors import BLUE, GREEN, GREY, ORANGE, VERMILLION

PARTS = {
    "drag": ("splines", "parts", "drag"),
    "train": ("splines", "network", "parts", "train"),
}
"""The scripts that each needs, in their order."""
COLORS = {"curve": BLUE, "handle": ORANGE, "pull": VERMILLION, "target": GREY, "left": GREEN}


def source(name: str) -> str:
    """Return the text of a script."""
    return (files("kanbook") / "scripts" / f"{name}.js").read_text(encoding="utf-8")


def live(name: str, alt: str, **options: Any) -> HTML:
    """Return a figure that the page computes itself.

    Args:
        name: "drag", a spline whose coefficients are handles, or "train", a network.
        alt: what one sees and can do, for those who cannot see it; plain text.
        **options: what the script starts from.

    Raises:
        ValueError: if there is no script of that name, or `alt` is blank.
    """
    if name not in PARTS:
        raise ValueError(f"name = {name!r}: expected one of {sorted(PARTS)}")
    if not alt.strip():
        raise ValueError(f"alt = {alt!r}: expected a sentence that says what one sees and can do")
    identity = f"live-{uuid4()}"
    scripts = "".join(source(part) for part in PARTS[name])
    chosen = json.dumps({**options, "colors": COLORS})
    start = f'kanLive.{name}(document.getElementById("{identity}"), {chosen});'
    return HTML(
        f'<figure class="live live-{name}" id="{identity}" role="group" '
        f'aria-label="{escape(alt)}"><noscript>{escape(alt)}</noscript></figure>'
        f'<script>"use strict";{scripts}{start}</script>'
    )
