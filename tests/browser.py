"""A real browser without a window: Chromium, told by its driver over WebDriver, for what only a browser knows of a page.

Both come from Debian's packages `chromium` and `chromium-driver`; tests that need them are skipped where they are missing.
"""

from __future__ import annotations

import base64
import json
import math
import shutil
import subprocess
import tempfile
import urllib.request
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.servers import PATIENCE_SECONDS, STOP_SECONDS, free_port, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_THERE = shutil.which("chromium") is not None and shutil.which("chromedriver") is not None
needs_browser = pytest.mark.skipif(not _THERE, reason="needs chromium and chromedriver (Debian: chromium-driver)")

FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage"),
    *("disable-background-networking", "disable-component-update", "disable-sync", "hide-scrollbars"),
)
WIDE, PHONE = 1280, 390
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of a reference to an element; W3C WebDriver, 12.1


class Browser:
    """One browser with one page; a context manager that leaves no process behind."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="browser-test-", ignore_cleanup_errors=True)
        self._url = f"http://127.0.0.1:{free_port()}"
        self._driver: subprocess.Popen[bytes] | None = None
        self._session = ""

    def __enter__(self) -> Self:
        port = self._url.rpartition(":")[2]
        quiet = subprocess.DEVNULL
        self._driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdin=quiet, stdout=quiet, stderr=quiet)
        wait_for_sync(self._ready)
        flags = [f"--{flag}" for flag in FLAGS] + [f"--user-data-dir={self._directory.name}"]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"
        return self

    def __exit__(self, *exc: object) -> None:
        if self._driver is not None:
            if self._session:
                self._ask("DELETE", self._session)  # ends the browser, too
            self._driver.terminate()
            try:
                self._driver.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._driver.kill()
                self._driver.wait()
        self._directory.cleanup()

    def _ready(self) -> bool:
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except OSError:
            return False

    def _ask(self, method: str, path: str, data: Mapping[str, Any] | None = None) -> Any:
        body = json.dumps(data or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._url + path, body, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)["value"]

    def _cdp(self, command: str, **parameters: Any) -> Any:
        return self._ask("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, *, width: int = WIDE, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """What the next pages are shown on.

        Args:
            width: of the window, in CSS pixels; a narrow one is a phone.
            height: of the window.
            dark: the user prefers a dark page.
            script: JavaScript runs.
        """
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._cdp("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._cdp("Emulation.setEmulatedMedia", features=[scheme])
        self._cdp("Emulation.setScriptExecutionDisabled", value=not script)

    def open(self, url: str) -> None:
        """Loads a page."""
        self._ask("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns that runs in the page; `arguments` in it are these."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def keys(self, *keys: str) -> None:
        """Presses keys one after the other; U+E0xx are those without a letter (WebDriver, 17.4.2)."""
        pressed = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keyboard", "actions": pressed})

    def point(self, selector: str, share: float) -> None:
        """Moves the mouse over an element, so far from its left edge to its right one."""
        found = self._ask("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        width = self.run("arguments[0].scrollIntoView(); return arguments[0].getBoundingClientRect().width", found)
        move = {"type": "pointerMove", "duration": 0, "origin": found, "x": round(width * (share - 0.5)), "y": 0}
        self._act({"type": "pointer", "id": "mouse", "actions": [move]})

    def _act(self, action: Mapping[str, Any]) -> None:
        self._ask("POST", f"{self._session}/actions", {"actions": [action]})

    def complaints(self) -> list[str]:
        """What the browser has logged of the pages since it was asked before: faults of scripts, what a policy has blocked."""
        entries = self._ask("POST", f"{self._session}/se/log", {"type": "browser"})
        return [each["message"] for each in entries if "favicon.ico" not in each["message"]]

    def picture(self, path: Path, *, height: float = math.inf, scale: float = 1.0) -> None:
        """Writes a PNG of the page.

        Args:
            path: of the file.
            height: most of it, in CSS pixels.
            scale: of the picture.
        """
        size = self._cdp("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(height, size["height"]), "scale": scale}
        found = self._cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))
