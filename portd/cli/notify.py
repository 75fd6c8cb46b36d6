"""Tells systemd how it goes: sd_notify(3). Does nothing where systemd did not ask."""

from __future__ import annotations

import os


class Notifier:
    """The messages of one service.

    Attributes:
        watchdog_seconds: longest time between two `alive` that systemd accepts; None without a watchdog.
    """

    def __init__(self) -> None:
        self.watchdog_seconds: float | None = None
        self._notifier = None
        self._ready = self._stopping = False
        if os.environ.get("NOTIFY_SOCKET"):
            import sdnotify  # noqa: PLC0415 - only where it is of use

            self._notifier = sdnotify.SystemdNotifier()
            asked = os.environ.get("WATCHDOG_USEC", "")
            for_us = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
            self.watchdog_seconds = int(asked) / 1e6 if asked.isdecimal() and for_us else None

    def ready(self) -> None:
        """The service runs; only the first call counts."""
        if not self._ready:
            self._ready = True
            self._send("READY=1")

    def stopping(self) -> None:
        """The service drains; only the first call counts."""
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """The event loop turns and the service says that it lives."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(state)
