"""A browser for tests: Chromium without a window, spoken to over a pipe, so that no port and no package is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-extensions", "--disable-default-apps", "--mute-audio"),
    *("--hide-scrollbars", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
]


class Tab:
    def __init__(self, browser: Any, session: str) -> None:
        self._browser, self._session = browser, session

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.ask(method, session=self._session, **parameters)

    def open(self, address: str) -> None:
        self.ask("Page.enable")
        self.ask("Page.navigate", url=address)

    def value(self, script: str) -> Any:
        """What a JavaScript expression gives; a promise is waited for."""
        said = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, script: str, *, seconds: float = 30.0) -> Any:
        ends = time.monotonic() + seconds
        while not (value := self.value(script)):
            assert time.monotonic() < ends, f"never became true: {script}"
            time.sleep(0.05)
        return value

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, **(text if kind == "keyDown" else {}))

    def screenshot(self, path: Path) -> bytes:
        data = base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])
        path.write_bytes(data)
        return data


class _Browser:
    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        out_read, self._to = os.pipe()
        self._from, in_write = os.pipe()
        flags = [*_FLAGS, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{out_read} 4>&{in_write}', str(BINARY), *flags, "about:blank"],
            pass_fds=(out_read, in_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(out_read)
        os.close(in_write)
        self._number, self._held = 0, b""

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._number:
                assert "error" not in said, said["error"]
                return said["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            data = os.read(self._from, 1 << 16)
            assert data, "the browser is gone"
            self._held += data
        one, self._held = self._held.split(b"\0", 1)
        return json.loads(one)

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.ask("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()
        for end in (self._to, self._from):
            os.close(end)


@contextlib.contextmanager
def tab(folder: Path, *, size: tuple[int, int] = (1600, 900)) -> Iterator[Tab]:
    """One tab of a browser with a profile of its own in `folder`."""
    browser = _Browser(folder, size)
    try:
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        made = Tab(browser, session)
        made.ask("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)
        yield made
    finally:
        browser.close()
