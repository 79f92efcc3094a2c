"""A browser for each process, and the built book it looks at."""

import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from built import HTML, WIDTHS, pages

from scripts.chromium import Chromium, Page, find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all that needs a browser, loudly, where there is none."""
    if find() is None:
        warnings.warn("NO BROWSER: the pages of the book are not tested", stacklevel=1)
        for item in items:
            if "browser" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="NO BROWSER: install chromium"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Visit every page at both widths; all tests of one visit run in one process."""
    if "visit" in metafunc.fixturenames:
        visits = [
            pytest.param(
                (path, width),
                id=f"{path.stem}-{width}",
                marks=pytest.mark.xdist_group(f"{path.stem}-{width}"),
            )
            for path in pages()
            for width in WIDTHS
        ]
        metafunc.parametrize("visit", visits, indirect=True, scope="module")


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """Return a running browser."""
    with Chromium() as running:
        yield running


@pytest.fixture(scope="module")
def visit(browser: Chromium, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Return an open page of the book."""
    path, width = request.param
    page = browser.open(path.as_uri(), width)
    yield page
    page.close()


@pytest.fixture
def first_page(browser: Chromium) -> Iterator[Page]:
    """Return a page with explorers, opened anew for a test that spoils it."""
    path = next(path for path in pages() if 'class="explorer"' in path.read_text())
    page = browser.open(path.as_uri(), 390)
    yield page
    page.close()


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """Return the address of the book on a server of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=HTML))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
