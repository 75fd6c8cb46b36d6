"""Removes keys from the target that the snapshot does not have: what the source deleted while nobody followed it.

While the snapshot is applied, a hash of every key in it goes into bucket files. Behind it the target is scanned, its
keys go into buckets in the same way, and bucket by bucket what the snapshot lacks is removed. Nothing writes to the
target meanwhile, so the comparison is exact; memory is bounded by one bucket, or a part of one.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from portd.errors import TargetBusy, TargetLost
from portd.kernel.keyhash import BUCKETS, HASH_SIZE, HashSet, KeyBuckets, names_of
from portd.kernel.slots import key_slot
from portd.log import get_logger
from portd.model import ConnectionState
from portd.net.backoff import Backoff
from portd.net.control import MOST_DATABASES
from portd.net.identity import require_process
from portd.net.replies import REROUTE_CODES
from portd.net.resp import request
from portd.net.shapes import whole
from portd.spool.buckets import NOWHERE, BucketFile
from portd.target.connection import Connection, ConnectionOptions, Disconnected, connect, while_connected
from portd.target.kept.contents import covered
from portd.target.kept.epoch import Fenced, check, renew
from portd.target.limiter import Limiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from portd.kernel.batch import Batch
    from portd.net.endpoint import Endpoint
    from portd.target.kept.epoch import Epoch

HINT: Final = "pruning needs +info +select +scan and +unlink on all keys; or set prune to leave"
_log = get_logger("target")

WRITE_BYTES: Final = 256 * 1024  # blocks are collected to this size before they are written
HASHES_AT_ONCE: Final = 512 * 1024  # held in memory for comparing: 11 MB
NAMES_AT_ONCE: Final = 256 * 1024  # bytes of names that are compared in one go
SCAN_COUNT: Final = 1000  # keys the target looks at in one command: well below a millisecond
REMOVE_KEYS: Final = 256  # in one UNLINK


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """How ghosts are removed.

    Attributes:
        epoch: what every removal is fenced by.
        own_key: our checkpoint.
        prefix: of all keys of ours and of other links; such keys are spared.
        shared: remove also where another link has a checkpoint.
        unlink: the target knows UNLINK.
        by_slot: the target is a node of a cluster: one command removes keys of one slot only.
        stays: of such a node: entered with a connection while all its keys are looked at, and raises where slots of it went elsewhere.
        covers: whether a key, by database and name, may be one of the snapshot's; None: each of them.
        run_id: of the target process that took the snapshot; "" when it does not tell.
        limiter: what is asked before the target is given work.
        connection: how connections are made.
    """

    epoch: Epoch
    own_key: str
    prefix: str
    shared: bool
    unlink: bool
    by_slot: bool = False
    stays: Callable[[Connection], AbstractAsyncContextManager[None]] = lambda _: nullcontext()
    covers: Callable[[int, bytes], bool] | None = None
    run_id: str = ""
    limiter: Limiter = field(default_factory=Limiter)
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)


@dataclass(slots=True)
class PruneProgress:
    """What was found.

    Attributes:
        hashed: keys of the snapshot.
        scanned: keys of the target, checkpoints left out.
        ghosts: keys that the snapshot does not have.
        removed: of them, those that are gone.
        others: another link has a checkpoint in this target.
    """

    hashed: int = 0
    scanned: int = 0
    ghosts: int = 0
    removed: int = 0
    others: bool = False

    def add(self, found: PruneProgress) -> PruneProgress:
        """Both together: of another node of the same target."""
        self.hashed += found.hashed
        self.scanned += found.scanned
        self.ghosts += found.ghosts
        self.removed += found.removed
        self.others |= found.others
        return self


class Pruner:
    """Compares one snapshot with its target. Use: `note` each batch, then `run`, then `close`.

    Args:
        endpoint: the target.
        directory: for the bucket files.
        options: see there.

    Raises:
        SpoolError: the directory cannot be used.
    """

    def __init__(self, endpoint: Endpoint, directory: Path, options: PruneOptions) -> None:
        self.progress = PruneProgress()
        self._endpoint = endpoint
        self._directory = directory
        self._options = options
        self._secret = secrets.token_bytes(16)
        self._hashes: KeyBuckets | None = KeyBuckets(self._secret)
        self._hash_file = BucketFile(directory, BUCKETS)
        self._name_file: BucketFile | None = None
        self._names: KeyBuckets | None = None
        self._compared_bytes = 0
        self._scanned = False
        self._counted = 0  # buckets
        self._next_bucket = 0

    def close(self) -> None:
        """Removes the files; idempotent."""
        self._hash_file.close()
        if self._name_file is not None:
            self._name_file.close()
        self._hashes = self._names = None

    def owned_bytes(self) -> int:
        """Bytes held in memory."""
        return sum(each.owned_bytes for each in (self._hashes, self._names) if each is not None) + self._compared_bytes

    def disk_bytes(self) -> int:
        """Bytes on disk."""
        return self._hash_file.size + (self._name_file.size if self._name_file else 0)

    # -- while the snapshot is applied

    async def note(self, batch: Batch) -> None:
        """Takes the keys that begin in a batch.

        Raises:
            SpoolError: the disk is full.
        """
        if self._hashes is None:
            return
        self._hashes.add_batch(batch)
        if self._hashes.full_bytes >= WRITE_BYTES:
            await asyncio.to_thread(self._hash_file.append, self._hashes.take())

    def note_key(self, db: int, key: bytes) -> None:
        """Takes a key that is in the snapshot and does not reach the target: what is there of it stays."""
        if self._hashes is not None:
            self._hashes.add(db, key)

    # -- behind it

    async def run(self, permit: Callable[[int], Awaitable[None]] | None = None) -> PruneProgress:
        """Removes what the snapshot does not have; nothing else may write to the target meanwhile.

        Args:
            permit: told the number of ghosts before the first one is removed; returns when they may.

        Raises:
            SpoolError: the disk failed.
            TargetLost: the target was restarted: what it took of the snapshot may be lost.
            TargetError: it refuses to be scanned.
        """
        hashes = self._hashes
        assert hashes is not None, "a pruner runs once"
        self.progress.hashed = hashes.keys
        await asyncio.to_thread(self._hash_file.append, hashes.take_rest())
        self._hashes = None
        await self._connected(self._look)
        if self.progress.ghosts:
            if permit is not None:  # no connection is kept while an operator is waited for
                await permit(self.progress.ghosts)
            await self._connected(self._remove_ghosts)
        return self.progress

    async def _connected(self, work: Callable[[Connection], Awaitable[None]]) -> None:
        """Does *work*, and takes it up again with another connection when one is lost."""
        backoff = Backoff.quick()
        while True:
            try:
                connection = await connect(self._endpoint, "prune", ConnectionState(), self._options.connection)
                try:
                    await while_connected(connection, self._begin(connection, work))
                finally:
                    connection.close()
            except (Disconnected, TargetBusy) as error:
                if isinstance(error, TargetBusy) and error.code in REROUTE_CODES:  # it does not pass
                    raise TargetLost(str(error.args[0]), hint="the snapshot starts over, by the new map") from None
                if not self._options.connection.note(error):
                    _log.warning("pruning was interrupted and is taken up again", error=str(error))
                await asyncio.sleep(backoff.next_wait())
            else:
                return

    async def _begin(self, connection: Connection, work: Callable[[Connection], Awaitable[None]]) -> None:
        await self._recognise(connection)
        await work(connection)

    async def _look(self, connection: Connection) -> None:
        """Finds and counts the ghosts; what is complete of an attempt before is used again."""
        if not self._scanned:
            async with self._options.stays(connection):
                await self._scan(connection)
            self._scanned = True
        if self.progress.others and not self._options.shared:
            return
        while self._counted < BUCKETS:
            self._counted = await self._compare(self._counted, self._count)

    async def _count(self, block: bytes) -> None:
        self.progress.ghosts += len(names_of(block))

    async def _remove_ghosts(self, connection: Connection) -> None:
        """Removes them."""
        fenced = Fenced(connection, self._options.epoch)
        await renew(connection, self._options.epoch)  # what a lost connection has left is void
        while self._next_bucket < BUCKETS:
            self._next_bucket = await self._compare(self._next_bucket, partial(self._remove, fenced))

    async def _recognise(self, connection: Connection) -> None:
        (info,) = await connection.ask(request("INFO", "server"))
        check(info, "to tell who it is", hint=HINT)
        require_process(info, self._options.run_id)

    async def _scan(self, connection: Connection) -> None:
        """Sorts all keys of the target into buckets."""
        progress = self.progress
        progress.scanned = 0
        progress.others = False
        if self._name_file is not None:
            self._name_file.close()
        names = self._names = KeyBuckets(self._secret, block_bytes=4096)
        file = self._name_file = BucketFile(self._directory, BUCKETS)
        (keyspace,) = await connection.ask(request("INFO", "keyspace"))
        check(keyspace, "to tell its databases", hint=HINT)
        for line in keyspace.decode("utf-8", "replace").splitlines():
            name, _, facts = line.partition(":")
            db = whole(name[2:], MOST_DATABASES)
            if facts.startswith("keys=") and db is not None:
                await self._scan_database(connection, db, names, file)
        await asyncio.to_thread(file.append, names.take_rest())
        self._names = None

    async def _scan_database(self, connection: Connection, db: int, names: KeyBuckets, file: BucketFile) -> None:
        (selected,) = await connection.ask(request("SELECT", db))
        check(selected, "a database", hint=HINT)
        cursor = b"0"
        while True:
            scan = request("SCAN", cursor, "COUNT", SCAN_COUNT)
            await self._options.limiter.take(len(scan), 1)
            (answer,) = await connection.ask(scan)
            check(answer, "to be scanned", hint=HINT)
            cursor, found = answer
            found = await self._spare(db, found)
            names.add_names(db, found)
            self.progress.scanned += len(found)
            if names.full_bytes >= WRITE_BYTES:
                await asyncio.to_thread(file.append, names.take())
            if cursor == b"0":
                return

    async def _spare(self, db: int, found: list[bytes]) -> list[bytes]:
        """Leaves out keys of ours and of other links, what is named like them, and what no rule covers."""
        prefix, own = self._options.prefix.encode(), self._options.own_key.encode()
        kept = [name for name in found if not name.startswith(prefix)]
        if db == 0 and len(kept) < len(found):
            self.progress.others |= any(
                name.startswith(prefix) and name != own and b":" not in name[len(prefix) :] for name in found
            )
        covers = self._options.covers
        return kept if covers is None else await covered(kept, partial(covers, db))

    async def _compare(self, bucket: int, take: Callable[[bytes], Awaitable[None]]) -> int:
        """Lets *take* have blocks of names: what the snapshot does not have, of one bucket or of several small ones; the next bucket."""
        behind, found = await asyncio.to_thread(self._compare_small, bucket)
        if behind == bucket:
            await self._compare_large(bucket, take)
            return bucket + 1
        await take(found)
        return behind

    def _compare_small(self, bucket: int) -> tuple[int, bytes]:
        """From this bucket on those that may be held at once: each turn of a thread costs more than a few keys do."""
        assert self._name_file is not None
        found, held = [], 0
        while bucket < BUCKETS and held < NAMES_AT_ONCE:
            place = self._name_file.head(bucket)
            if place != NOWHERE:
                names, more = self._name_file.read(place, NAMES_AT_ONCE)
                hashes, rest = self._hash_file.read(self._hash_file.head(bucket), NAMES_AT_ONCE)
                if (more, rest) != (NOWHERE, NOWHERE):
                    break
                block = b"".join(names)
                held += len(block)
                found.append(HashSet(hashes).missing(block))
            bucket += 1
        return bucket, b"".join(found)

    async def _compare_large(self, bucket: int, take: Callable[[bytes], Awaitable[None]]) -> None:
        assert self._name_file is not None
        place = self._name_file.head(bucket)
        hashes, rest = await self._load(self._hash_file.head(bucket))
        self._compared_bytes = hashes.owned_bytes
        while place != NOWHERE:
            blocks, place = await asyncio.to_thread(self._name_file.read, place, NAMES_AT_ONCE)
            left = hashes.missing(b"".join(blocks))
            at = rest
            while left and at != NOWHERE:  # more keys than may be held at once: billions in all
                more, at = await self._load(at)
                left = more.missing(left)
            await take(left)
        self._compared_bytes = 0

    async def _load(self, place: int) -> tuple[HashSet, int]:
        """Hashes of one bucket as far as they may be held at once."""
        blocks, place = await asyncio.to_thread(self._hash_file.read, place, HASHES_AT_ONCE * HASH_SIZE)
        return HashSet(blocks), place

    async def _remove(self, fenced: Fenced, block: bytes) -> None:
        """Removes the keys of a block of names."""
        together: dict[tuple[int, int], list[bytes]] = {}  # by database and slot
        for db, name in names_of(block):
            together.setdefault((db, key_slot(name) if self._options.by_slot else 0), []).append(name)
        command = "UNLINK" if self._options.unlink else "DEL"
        for (db, _), names in together.items():
            removals = [
                request(command, *names[index : index + REMOVE_KEYS]) for index in range(0, len(names), REMOVE_KEYS)
            ]
            await self._options.limiter.take(sum(map(len, removals)), len(names))
            for removal in removals:  # one transaction each: the target's other clients get their turns between them
                (answer,) = await fenced.execute(removal, db=db, what="the removal of keys")
                check(answer, "the removal of keys", hint=HINT)
                self.progress.removed += answer
