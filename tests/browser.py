"""A real browser, headless, driven by Chromium's DevTools protocol over two pipes: no port, no driver, no network."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60.0


def executable() -> str | None:
    """Where a browser is installed; None where none is."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One tab. `errors`: whatever its console has said that is worse than information, and uncaught exceptions."""

    def __init__(self, process: "subprocess.Popen[bytes]", reads: int, writes: int) -> None:
        self._process, self._reads, self._writes = process, reads, writes
        self._numbers = itertools.count(1)
        self._left = b""
        self._session: str | None = None
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.requests: list[str] = []
        self.loaded = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result; raises AssertionError where it fails."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, path: Path, width: int, dark: bool = False) -> None:
        """Loads a file in a window of this width, a phone's where it is narrow."""
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        before = self.loaded
        self.call("Page.navigate", url=path.resolve().as_uri())
        while self.loaded == before:
            self._next()

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Of the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._left:
            assert time.monotonic() < deadline and self._process.poll() is None, (
                "the browser has ended or hangs"
            )
            self._left += os.read(self._reads, 1 << 16)
        line, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, said: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded += 1
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(said["exceptionDetails"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("warning", "error"):
            self.errors.append(said["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("warning", "error", "assert"):
            self.errors.append(str(said["args"]))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A tab of a fresh browser that keeps all that it writes in `folder`."""
    found = executable()
    assert found is not None
    (from_us, to_browser), (from_browser, to_us) = os.pipe(), os.pipe()
    # The browser reads its commands from descriptor 3 and answers on 4, which may be taken here.
    from_us, to_us = (_moved(each) for each in (from_us, to_us))
    shell = f'exec "$0" "$@" 3<&{from_us} 4>&{to_us}'
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    command = ["bash", "-c", shell, found, *options, "--remote-debugging-pipe", f"--user-data-dir={folder}"]
    home = os.environ | {"HOME": str(folder)}
    process = subprocess.Popen(
        command, pass_fds=(from_us, to_us), env=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(from_us)
    os.close(to_us)
    try:
        page = Page(process, from_browser, to_browser)
        yield page
        page._session = None
        page.call("Browser.close")
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(to_browser)
        os.close(from_browser)


def _moved(descriptor: int) -> int:
    """The same, under a number of two digits."""
    found = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return found
