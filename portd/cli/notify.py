"""Tells systemd how it goes: sd_notify(3). Does nothing where systemd did not ask."""

from __future__ import annotations

import os
import socket

from portd.log import get_logger

log = get_logger("cli")


class Notifier:
    """The messages of one service.

    Attributes:
        watchdog_seconds: longest time between two `alive` that systemd accepts; None without a watchdog.
    """

    def __init__(self) -> None:
        self.watchdog_seconds: float | None = None
        self._socket: socket.socket | None = None
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._ready = self._stopping = False
        if self._address:
            # A name that begins with @ is in the abstract namespace, which the system writes as a zero byte.
            self._address = self._address if self._address[0] != "@" else "\0" + self._address[1:]
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)  # the event loop must not wait for systemd
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
        if self._socket is None:
            return
        try:
            self._socket.sendto(state.encode(), self._address)
        except OSError as error:  # it is restarted, or its queue is full: it is told again, or the watchdog tells
            log.debug("systemd was not told", state=state.partition("=")[0], error=str(error))
