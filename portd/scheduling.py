"""How the kernel hands cores to this process: sched(7)."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def bulk_work() -> Iterator[None]:
    """Inside of the block this thread waits its turn when it wakes up, instead of interrupting who has the core.

    The share of the core stays the same (``SCHED_BATCH``). Where an end of the sync is on this machine, and cores are few,
    its server is interrupted less often, and so are its users: a copy may be late by milliseconds, a stream may not.
    Threads that start inside of the block stay like that. A policy that was set from outside is left alone.
    """
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
