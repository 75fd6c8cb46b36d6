"""Writing beside a test, in a thread of its own."""

from __future__ import annotations

import threading
from typing import Self


class Writer:
    """Writes until it is stopped; a context manager.

    Attributes:
        commands: how many were written, as `_write` counts them.
    """

    def __init__(self) -> None:
        self.commands = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="load")

    def _write(self) -> None:
        """Writes while `_stop` is not set."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Writes no more."""
        self._stop.set()
        self._thread.join()
