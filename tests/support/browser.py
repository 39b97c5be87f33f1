"""A real Chromium, driven by its DevTools protocol over a pipe: no package is needed for it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--hide-scrollbars",
)
# A camera that shows a moving picture, allowed without a question.
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


def find_chromium() -> str:
    """Return the path of the browser; the test fails without one."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.fail("no browser is installed: apt-get install chromium")
    return program


class Browser:
    """A browser with one page.

    Attributes:
        requests: addresses that the page asked for, its own included.
        console: what the page printed.
    """

    def __init__(self, folder: Path, *flags: str, fake_camera: bool = True) -> None:
        program = find_chromium()
        self.requests: list[str] = []
        self.console: list[str] = []
        self._next, self._pending, self._is_loaded = 0, b"", False
        commands, self._write = os.pipe()
        self._read, replies = os.pipe()
        # Chromium reads commands from descriptor 3 and writes to 4. Both ends are moved out of
        # their way first.
        script = 'exec 5<&"$1" 6>&"$2" 3<&5 4>&6 5<&- 6>&-; shift 2; exec "$@"'
        profile = f"--user-data-dir={folder / 'profile'}"
        self._process = subprocess.Popen(
            [
                *("bash", "-c", script, "bash", str(commands), str(replies)),
                *(
                    program,
                    *FLAGS,
                    *(CAMERA if fake_camera else ()),
                    profile,
                    "--remote-debugging-pipe",
                    *flags,
                    "about:blank",
                ),
            ],
            pass_fds=(commands, replies),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands)
        os.close(replies)
        targets = self._call("Target.getTargets", session=None)["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self._call("Target.attachToTarget", session=None, targetId=page, flatten=True)
        self._session: str = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._send("Browser.close", None, {})
            self._process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def open(self, url: str, width: int = 1200, height: int = 900, *, dark: bool = False) -> None:
        """Open a page in a window of this size, and wait until it is loaded."""
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._is_loaded = False
        self._call("Page.navigate", url=url)
        while not self._is_loaded:
            self._note(self._receive())

    def prepare(self, script: str) -> None:
        """Run a script at the start of each page that is opened later."""
        self._call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window; up to 600 pixels in width, it is a phone's."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width <= 600,
        )

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, as JSON; promises are awaited."""
        result = self._call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in result:
            raise AssertionError(json.dumps(result["exceptionDetails"])[:2000])
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """Return the value of an expression once it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(expression):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}; console: {self.console[-5:]}")

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files in an <input type="file">, as its dialog does."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def download_to(self, folder: Path) -> None:
        """Let pages save files in a folder."""
        values = {"behavior": "allow", "downloadPath": str(folder)}
        self._call("Browser.setDownloadBehavior", session=None, **values)

    def screenshot(self, path: Path, whole: bool = False) -> Path:
        """Save what is seen, or the whole page, as PNG."""
        options: dict[str, Any] = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self._call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {**size, "scale": 1}
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", **options)["data"]))
        return path

    def _call(self, method: str, session: str | None = "page", **values: Any) -> Any:
        """Send a command, and return its result."""
        number = self._send(method, session and self._session, values)
        while True:
            message = self._receive()
            if message.get("id") == number:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _send(self, method: str, session: str | None, values: dict[str, Any]) -> int:
        self._next += 1
        message = {"id": self._next, "method": method, "params": values}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._next

    def _receive(self, seconds: float = 120) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._read], [], [], seconds)
            if not ready or not (more := os.read(self._read, 2**20)):
                raise AssertionError("the browser ended, or does not reply")
            self._pending += more
        first, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        values = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif message.get("method") == "Page.loadEventFired":
            self._is_loaded = True
        elif message.get("method") == "Runtime.consoleAPICalled":
            self.console += [str(one.get("value", "")) for one in values["args"]]
        elif message.get("method") == "Runtime.exceptionThrown":
            self.console.append(json.dumps(values["exceptionDetails"])[:2000])
