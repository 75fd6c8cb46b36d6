"""How the kernel hands cores to this process: sched(7)."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from portd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

log = get_logger("sync")

_inside = 0  # blocks of `bulk_work` that the one thread is in: links copy side by side


@contextmanager
def bulk_work() -> Iterator[None]:
    """Inside of the block this thread waits its turn when it wakes up, instead of interrupting who has the core.

    The share of the core stays the same (``SCHED_BATCH``). Where an end of the sync is on this machine, and cores are few,
    its server is interrupted less often, and so are its users: a copy may be late by milliseconds, a stream may not.
    Threads that start inside of the block stay like that. A policy that was set from outside is left alone, and a sandbox
    that forbids the change is no reason not to work. Blocks of several links overlap: the last one to end ends it.
    """
    global _inside  # noqa: PLW0603 - a thread has one policy
    if not _inside and not _change(os.SCHED_OTHER, os.SCHED_BATCH):
        yield
        return
    _inside += 1
    try:
        yield
    finally:
        _inside -= 1
        if not _inside:
            _change(os.SCHED_BATCH, os.SCHED_OTHER)


def _change(before: int, after: int) -> bool:
    """From one policy to another; False when it is not *before*, or must not be changed."""
    try:
        if os.sched_getscheduler(0) != before:
            return False
        os.sched_setscheduler(0, after, os.sched_param(0))
    except OSError as error:
        log.info("cores are asked for as usual", reason=str(error))
        return False
    return True
