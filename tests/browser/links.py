"""Links within the built book: files and anchors that a page names and that are not there.

Sphinx checks its cross references; this looks at what came out, whatever wrote it: raw HTML, the
theme, downloads, pictures, scripts. Links to other hosts are not followed.
"""

from __future__ import annotations

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ATTRIBUTES = ("href", "src", "action", "data", "poster")
AT_THE_SITE = ("_static",)
"""Folders whose pages are not the book's."""


class Parsed(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        """Read a page."""
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the links and the anchors of an element."""
        found = {name: value for name, value in attrs if value is not None}
        self.links += [found[name] for name in ATTRIBUTES if name in found]
        if tag == "meta" and found.get("http-equiv", "").lower() == "refresh":
            self.links.append(found["content"].partition("url=")[2])
        for part in found.get("srcset", "").split(","):
            self.links += part.split()[:1]
        self.anchors |= {found[name] for name in ("id", "name") if name in found}


@cache
def parsed(path: Path) -> Parsed:
    """Return a page of the site, read once."""
    return Parsed(path.read_text(encoding="utf-8"))


def all_pages(site: Path) -> list[Path]:
    """Return every page of a site, those without a chapter too, such as the search."""
    return sorted(
        path for path in site.rglob("*.html") if path.relative_to(site).parts[0] not in AT_THE_SITE
    )


def broken(page: Path, site: Path) -> list[str]:
    """Return the links of a page that lead nowhere, with the reason."""
    found = {link: reason(link, page, site) for link in parsed(page).links}
    return [f"{link!r}: {why}" for link, why in found.items() if why]


def reason(link: str, page: Path, site: Path) -> str:
    """Return why a link of a page leads nowhere; an empty text if it does not."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return ""
    if parts.path.startswith("/"):
        return "from the root of the server, which need not be the book's"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_relative_to(site.resolve()):
        return "outside of the book"
    if not target.is_file():
        return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and target.suffix == ".html" and anchor not in parsed(target).anchors:
        return "no such anchor"
    return ""
