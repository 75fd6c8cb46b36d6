"""FLUSHDB and FLUSHALL under rules: what they cover is removed, and nothing else. So it is with slots.

Those are slots that a node has given away in one step (TRIMSLOTS), or that were emptied there (CLUSTER FLUSHSLOT). It is done
between two groups: what stands before it is in the target, what comes behind it is not. So it may be interrupted and begun
again, also by the next process, for the record does not cover it before it is complete.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from portd.errors import TargetBusy
from portd.kernel.slots import key_slot
from portd.log import get_logger
from portd.model import ConnectionState
from portd.net.backoff import Backoff
from portd.net.control import MOST_DATABASES
from portd.net.resp import request
from portd.net.shapes import whole
from portd.net.topology import ranges_of, spelled
from portd.target.connection import Connection, Disconnected, connect, while_connected
from portd.target.kept.contents import covered
from portd.target.kept.epoch import Fenced, check, renew

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint
    from portd.target.stream.applying import ApplierOptions

HINT: Final = "a FLUSHDB under rules needs +info +select +scan and +unlink on all keys"
SCAN_COUNT: Final = 1000  # keys the target looks at in one command: well below a millisecond
REMOVE_KEYS: Final = 256  # in one transaction
_log = get_logger("target")


async def clear(endpoint: Endpoint, options: ApplierOptions, database: int, slots: frozenset[int] | None = None) -> int:
    """Removes the keys that rules cover.

    Args:
        endpoint: the target.
        options: of the applier, which writes nothing meanwhile.
        database: of the source; -1: all.
        slots: of the source, whose keys are meant; None: all.

    Returns:
        How many were removed.

    Raises:
        LinkTaken: another process has taken the link.
        TargetLost: the target lost its data.
        TargetError: it refuses to be scanned.
    """
    work = _Clearing(options, database, slots)
    backoff = Backoff.quick()
    while True:
        try:
            connection = await connect(endpoint, "clear", ConnectionState(), options.connection)
            try:
                await while_connected(connection, work.run(connection))
            finally:
                connection.close()
        except (Disconnected, TargetBusy) as error:
            work.interrupted = True
            if not options.connection.note(error):
                _log.warning("a flush under rules was interrupted and is taken up again", error=str(error))
            await asyncio.sleep(backoff.next_wait())
        else:
            tell_cleared(slots, db=database, keys=work.removed)
            return work.removed


def tell_cleared(slots: frozenset[int] | None, **facts: int) -> None:
    """Says what was done."""
    if slots is None:
        _log.info("flushed what rules cover", **facts)
    else:
        _log.info(
            "slots are emptied, as they were at their node",
            slots=spelled(ranges_of(sorted(slots))),
            **facts,
        )


def covers(options: ApplierOptions, slots: frozenset[int] | None, db: int, name: bytes) -> bool:
    """Whether a key of the target is one that goes."""
    if name.startswith(options.prefix.encode()):
        return False
    if slots is None:
        return options.choice.covers(db, name)
    return any(key_slot(origin) in slots for _, origin in options.choice.origins(db, name))


class _Clearing:
    """One of them.

    Attributes:
        removed: keys.
        interrupted: a connection was lost: what it has left must be void before anything else is written.
    """

    def __init__(self, options: ApplierOptions, database: int, slots: frozenset[int] | None) -> None:
        self.removed = 0
        self.interrupted = False
        self._options = options
        self._database = database
        self._slots = slots

    async def run(self, connection: Connection) -> None:
        """Looks through the databases."""
        if self.interrupted:
            await renew(connection, self._options.epoch)
        fenced = Fenced(connection, self._options.epoch)
        for db in await self._databases(connection):
            await self._look_through(connection, fenced, db)

    async def _databases(self, connection: Connection) -> list[int]:
        """Those of the target that can hold something of it."""
        if self._database >= 0:
            return [self._options.choice.place(self._database)]
        (keyspace,) = await connection.ask(request("INFO", "keyspace"))
        check(keyspace, "to tell its databases", hint=HINT)
        names = [line.partition(":")[0] for line in keyspace.decode("utf-8", "replace").splitlines()]
        found = [whole(name[2:], MOST_DATABASES) for name in names if name.startswith("db")]
        return [db for db in found if db is not None]

    async def _look_through(self, connection: Connection, fenced: Fenced, db: int) -> None:
        cursor = b"0"
        while True:
            scan = request("SCAN", cursor, "COUNT", SCAN_COUNT)
            await self._options.limiter.take(len(scan), 1)
            selected, answer, back = await connection.ask(request("SELECT", db), scan, request("SELECT", 0))
            for each in (selected, answer, back):
                check(each, "to be scanned", hint=HINT)
            cursor, found = answer
            await self._remove(fenced, db, await covered(found, partial(self._covers, db)))
            if cursor == b"0":
                return

    def _covers(self, db: int, name: bytes) -> bool:
        return covers(self._options, self._slots, db, name)

    async def _remove(self, fenced: Fenced, db: int, names: list[bytes]) -> None:
        command = "UNLINK" if self._options.unlink else "DEL"
        for index in range(0, len(names), REMOVE_KEYS):
            removal = request(command, *names[index : index + REMOVE_KEYS])
            await self._options.limiter.take(len(removal), len(names))
            (answer,) = await fenced.execute(removal, db=db, what="the removal of keys")
            check(answer, "the removal of keys", hint=HINT)
            self.removed += answer
        await fenced.leave()
