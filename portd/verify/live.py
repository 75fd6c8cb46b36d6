"""Keys read from a live server by DUMP, told to a decoder as if they stood in a snapshot.

A DUMP payload is a type byte, the value, and a footer of ten bytes (`cluster.c:createDumpPayload`); a snapshot puts the
name between type byte and value. So values pass through in pieces, and the same handlers hear of them.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Any, Final

from portd.feed.pour import pour
from portd.net.control import Refused, keys_by_database, parse_info
from portd.net.identity import ServerIdentity
from portd.net.pieces import Wire
from portd.net.replies import error_of
from portd.net.shapes import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from portd.kernel.snapshot import SnapshotDecoder
    from portd.net.endpoint import Endpoint

    Sink = Callable[[object], None]
    Pause = Callable[[], Awaitable[None]]
    NamedKey = tuple[int, bytes]

FOOTER_BYTES: Final = 10
SCAN_COUNT: Final = 500
KEYS_AT_ONCE: Final = 64  # asked for in one pipeline
PIPELINE_BYTES: Final = 8 << 20  # of values, as MEMORY USAGE tells, that the server holds for us at once
GONE: Final = -2
KEY_META: Final = 0xF3  # stands before the type byte where a value has metadata (Redis 8.6)
END: Final = b"\xff" + bytes(8)  # end mark, and a checksum that says that there is none
RELATIVE_TTL_TOLERANCE_MS: Final = 100  # where only PTTL exists, the expiry follows from two clocks' readings
_ELSEWHERE: Final = ("MOVED ", "CLUSTERDOWN Hash slot not served")  # cluster.c:clusterRedirectClient

_HINT = (
    "verify needs +info +select +dump +pexpiretime +pttl +memory|usage on both ends, +scan where PSYNC is not allowed"
)


def _refused(who: str, refuses: str, refusal: Refused) -> Exception:
    """What an error reply means here."""
    return error_of(refusal.text, refuses, who=who, hint=_HINT)


class LiveReader:
    """Reads keys of one end; see `open`.

    Attributes:
        identity: who it is.
        one_shard: it is a node of a cluster: other keys are elsewhere.
        exact_ttl: expiry times can be asked for to the millisecond.
        databases: numbers of the databases that hold keys.
        keys: in all of them.
        too_large: keys that were not read because DUMP would block the server, or with metadata whose end is not known,
            since this was last cleared.
        read_bytes: of payloads.
    """

    def __init__(self, endpoint: Endpoint, largest_bytes: int) -> None:
        self.too_large: set[NamedKey] = set()
        self.read_bytes = 0
        self._wire = Wire(endpoint)
        self._largest = largest_bytes
        self._usage = True

    async def open(self) -> None:
        """Connects and asks who it is.

        Raises:
            SourceLost: it cannot be reached.
            TargetError: it does not let us in, or does not say who it is.
        """
        await self._wire.open()
        try:
            info = parse_info(await self._wire.ask("INFO", "server"))
            info |= parse_info(await self._wire.ask("INFO", "keyspace"))
            info |= parse_info(await self._wire.ask("INFO", "cluster"))
        except Refused as error:
            raise _refused(self._wire.where, "does not let us ask", error) from None
        self.identity = ServerIdentity.of(info)
        self.one_shard = bool(self.identity.cluster)
        self.exact_ttl = self.identity.family == "valkey" or self.identity.version >= (7, 0, 0)
        keys = keys_by_database(info)
        self.databases = list(keys)
        self.keys = sum(keys.values())

    @property
    def magic(self) -> bytes:
        """The first bytes of a snapshot of this server."""
        number = self.identity.rdb_version
        return b"VALKEY%03d" % number if number >= 80 else b"REDIS%04d" % number

    async def offset(self) -> int:
        """How far the server's history goes now: bytes, as in `Position`.

        Raises:
            SourceLost: the connection ended.
        """
        return whole(parse_info(await self._wire.ask("INFO", "replication")).get("master_repl_offset", "")) or 0

    async def scan(self, db: int) -> AsyncIterator[list[bytes]]:
        """All names of a database. A name may come twice while the server rearranges its tables."""
        cursor = b"0"
        while True:
            await self._wire.select(db)
            self._wire.send("SCAN", cursor, "COUNT", SCAN_COUNT)
            cursor, names = await self._reply("SCAN")
            if names:
                yield names
            if cursor == b"0":
                return

    async def tell(
        self, keys: Sequence[NamedKey], decoder: SnapshotDecoder, sink: Sink, after: Pause | None = None
    ) -> None:
        """Reads keys and tells the decoder those that exist; the decoder has been fed `magic` before.

        Args:
            keys: database and name of each.
            decoder: has been fed `magic`, and is fed `END` when all is told.
            sink: takes what its handler makes of them.
            after: awaited behind every piece of a value.

        Raises:
            SourceLost: the connection ended.
            DecodeError: a payload cannot be understood.
        """
        for start in range(0, len(keys), KEYS_AT_ONCE):
            await self._tell(keys[start : start + KEYS_AT_ONCE], decoder, sink, after)

    async def functions(self) -> dict[bytes, bytes] | None:
        """Code of function libraries by name; None where there cannot be any or they may not be seen."""
        try:
            libraries = await self._wire.ask("FUNCTION", "LIST", "WITHCODE")
        except Refused:
            return None
        found = {}
        for library in libraries:
            fields = {
                name: each for name, each in zip(library[::2], library[1::2], strict=False) if isinstance(name, bytes)
            }
            name, code = fields.get(b"library_name"), fields.get(b"library_code")
            if not (isinstance(name, bytes) and isinstance(code, bytes)):
                raise self._wire.strange("answers FUNCTION LIST without names or code")
            found[name] = code
        return found

    def close(self) -> None:
        """Ends the connection; idempotent."""
        self._wire.close()

    async def _tell(self, keys: Sequence[NamedKey], decoder: SnapshotDecoder, sink: Sink, after: Pause | None) -> None:
        group: list[tuple[int, bytes, int]] = []
        held = 0
        for (db, name), (expiry, usage) in zip(keys, await self._look(keys), strict=True):
            if expiry == GONE:
                continue
            if usage > self._largest:
                self.too_large.add((db, name))
                continue
            group.append((db, name, expiry))
            held += usage
            if held > PIPELINE_BYTES:
                await self._dump(group, decoder, sink, after)
                group, held = [], 0
        await self._dump(group, decoder, sink, after)

    async def _dump(
        self, group: Sequence[tuple[int, bytes, int]], decoder: SnapshotDecoder, sink: Sink, after: Pause | None
    ) -> None:
        wire = self._wire
        selects = [wire.send_to(db, "DUMP", name) for db, name, _ in group]
        for (db, name, expiry), selecting in zip(group, selects, strict=True):
            if selecting:
                await self._reply("SELECT")
            try:
                size = await wire.bulk()
            except Refused as error:
                raise _refused(wire.where, "does not let us read keys", error) from None
            if 0 <= size <= FOOTER_BYTES:
                raise wire.strange(f"answers DUMP with {size} bytes")
            if size >= 0:
                await self._pass(db, name, expiry, size, decoder, sink, after)

    async def _pass(
        self, db: int, name: bytes, expiry: int, size: int, decoder: SnapshotDecoder, sink: Sink, after: Pause | None
    ) -> None:
        """One payload into the decoder, its name put in."""
        head = b"\xfe\x80" + struct.pack(">I", db)
        if expiry >= 0:
            head += b"\xfc" + struct.pack("<q", expiry)
        first, skipped = True, False
        self.read_bytes += size
        async for piece in self._wire.pieces(size - FOOTER_BYTES):
            data = piece
            if skipped:
                continue
            if first:
                if piece[0] == KEY_META:
                    self.too_large.add((db, name))
                    skipped = True
                    continue
                data = head + piece[:1] + b"\x80" + struct.pack(">I", len(name)) + name + piece[1:]
                first = False
            for made in pour(decoder, data):
                sink(made)
            if after is not None:
                await after()
        await self._wire.end_bulk(FOOTER_BYTES)

    async def _look(self, keys: Sequence[NamedKey]) -> list[tuple[int, int]]:
        """Of each key: when it expires (unix ms, -1 never, `GONE` it is not there), and the memory it takes."""
        wire, command, usable = self._wire, "PEXPIRETIME" if self.exact_ttl else "PTTL", self._usage
        selects = []
        for db, name in keys:
            selects.append(wire.send_to(db, command, name))
            if usable:
                wire.send("MEMORY", "USAGE", name)
        found = []
        for selecting in selects:
            if selecting:
                await self._reply("SELECT")
            expiry = await self._expiry(command)
            if not self.exact_ttl and expiry >= 0:
                expiry += time.time_ns() // 1_000_000
            usage = 0
            if usable:
                try:
                    usage = await wire.answer("MEMORY USAGE") or 0
                except Refused as error:
                    if not self._is_elsewhere(error):
                        self._usage = False  # then every key is read, whatever its size
            found.append((expiry, usage))
        return found

    async def _expiry(self, command: str) -> int:
        """The reply to PEXPIRETIME or PTTL; a key of another shard does not exist here."""
        try:
            return int(await self._wire.answer(command))
        except Refused as error:
            if self._is_elsewhere(error):
                return GONE
            raise _refused(self._wire.where, f"refuses {command}", error) from None

    def _is_elsewhere(self, refusal: Refused) -> bool:
        return self.one_shard and refusal.text.startswith(_ELSEWHERE)

    async def _reply(self, command: str) -> Any:
        try:
            return await self._wire.answer(command)
        except Refused as error:
            raise _refused(self._wire.where, f"refuses {command}", error) from None
