"""Chromium without a window, driven over the DevTools protocol: a reader with mouse and keys.

Usage::

    with Chromium() as browser:
        page = browser.open("file:///…/index.html", width=390)
        page.press("ArrowRight")
        page.evaluate("document.title")
        page.console, page.requests          # what the page said, and what it asked for

No name resolves in this browser but that of the machine itself, so nothing leaves it.

Playwright would do the same in half the lines, but its calls pass through a process of Node: on a
busy machine a call takes 60 to 85 ms in place of one, and the tests make thousands.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
HEIGHT = 900
PATIENCE = 60
"""Seconds until a page that does not answer is given up."""

KEYS = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}

CHATTER = ("[PST]:", "[togglebutton]:")
"""How what the theme itself tells the console begins."""

READY = """(async () => {
  if (document.readyState !== "complete")
    await new Promise((done) => addEventListener("load", done));
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  await new Promise((done) => setTimeout(() => requestAnimationFrame(() => done()), 50));
})()"""


def find() -> str | None:
    """Return the path of an installed Chromium, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A running browser with a profile of its own, which is removed when it is left."""

    def __enter__(self) -> Chromium:
        """Start the browser and connect to it."""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        folder = Path(self._profile.name)
        self._process = subprocess.Popen(
            [str(find()), *OPTIONS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = folder / "DevToolsActivePort"
        deadline = time.monotonic() + PATIENCE
        while not (address.exists() and "/" in address.read_text()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Chromium does not start")
            time.sleep(0.05)
        port, path = address.read_text().split()
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}{path}", timeout=PATIENCE, suppress_origin=True
        )
        self._count = 0
        return self

    def __exit__(self, *_: object) -> None:
        """End the browser."""
        self._socket.close()
        self._process.terminate()
        self._process.wait()
        self._profile.cleanup()

    def open(self, url: str, width: int) -> Page:
        """Open a page in a window of its own and wait until it is drawn."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, target, session, url, width)

    def send(
        self, method: str, session: str = "", events: list[Any] | None = None, **parameters: Any
    ) -> dict[str, Any]:
        """Send a command and return its result; what the page reports meanwhile joins `events`."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if events is not None and answer.get("sessionId") == session:
                events.append(answer)


STILL = """document.head.append(Object.assign(
  document.createElement("style"), {textContent: "* { transition: none !important }"}))"""


class Page:
    """An open page."""

    def __init__(self, browser: Chromium, target: str, session: str, url: str, width: int) -> None:
        """Load the page at a width; narrow means a telephone."""
        self._browser, self._target, self._session = browser, target, session
        self._events: list[dict[str, Any]] = []
        self.url, self.width = url, width
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._send(f"{domain}.enable")
        self.resize(HEIGHT)
        failure = self._send("Page.navigate", url=url).get("errorText")
        if failure:
            raise RuntimeError(f"{url}: {failure}")
        self.evaluate(READY)

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.send(method, self._session, self._events, **parameters)

    def close(self) -> None:
        """Close the window."""
        self._browser.send("Target.closeTarget", targetId=self._target)

    def resize(self, height: int) -> None:
        """Make the window as high as asked."""
        phone = self.width < 600
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=self.width, height=height, deviceScaleFactor=1, mobile=phone,
        )  # fmt: skip
        self._send("Emulation.setTouchEmulationEnabled", enabled=phone)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression, awaited if it is a promise."""
        answer = self._send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", details).get("description", str(details)))
        return answer["result"].get("value")

    def theme(self, name: str) -> None:
        """Switch to the light or the dark theme, as the button of the page does."""
        self.evaluate(
            f"Object.assign(document.documentElement.dataset, {{theme: '{name}', mode: '{name}'}});"
            "new Promise((done) => setTimeout(done, 400))"
        )

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        self._send("Input.dispatchKeyEvent", type="rawKeyDown", **code)
        self._send("Input.dispatchKeyEvent", type="keyUp", **code)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse, move it and release it."""
        mouse = {"button": "left", "clickCount": 1}
        for kind, (x, y) in zip(
            ("mousePressed", "mouseMoved", "mouseReleased"), (start, end, end), strict=True
        ):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **mouse)

    def screenshot(self, path: Path) -> None:
        """Save the whole page, from top to bottom, as a picture: not scrolled, nothing focused.

        Taking it resizes the window for a moment, and a sidebar on its way back would be caught.
        """
        self.evaluate(STILL)
        self.evaluate("document.activeElement?.blur(); scrollTo({top: 0, behavior: 'instant'})")
        size = self._send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": self.width, "height": size["height"], "scale": 1}
        picture = self._send(
            "Page.captureScreenshot",
            format="png", clip=clip, captureBeyondViewport=True,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b64decode(picture["data"]))

    def pdf(self) -> bytes:
        """Return the page as it is printed, on A4 with its colours."""
        printed = self._send(
            "Page.printToPDF",
            paperWidth=8.27, paperHeight=11.69, printBackground=True, scale=0.75,
        )  # fmt: skip
        return b64decode(printed["data"])

    def _reported(self, method: str) -> list[dict[str, Any]]:
        self.evaluate("null")  # a round trip collects what is under way
        return [event["params"] for event in self._events if event["method"] == method]

    @property
    def console(self) -> list[str]:
        """All that the page wrote to the console, errors that nobody caught among it."""
        called = [
            " ".join(str(part.get("value", part.get("description"))) for part in call["args"])
            for call in self._reported("Runtime.consoleAPICalled")
        ]
        thrown = [
            error["exceptionDetails"].get("exception", {}).get("description", "error")
            for error in self._reported("Runtime.exceptionThrown")
        ]
        logged = [entry["entry"]["text"] for entry in self._reported("Log.entryAdded")]
        return [text for text in called + thrown + logged if not text.startswith(CHATTER)]

    @property
    def requests(self) -> list[str]:
        """The address of all that the page asked for."""
        return [event["request"]["url"] for event in self._reported("Network.requestWillBeSent")]
