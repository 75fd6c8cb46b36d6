"""Keys read from a live server by DUMP, told to a decoder as if they stood in a snapshot.

A DUMP payload is a type byte, the value, and a footer of ten bytes (`cluster.c:createDumpPayload`); a snapshot puts the
name between type byte and value. So values pass through in pieces, and the same handlers hear of them.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import hiredis

from portd.feed.pour import pour
from portd.net.control import Refused, keys_by_database, parse_info
from portd.net.identity import ServerIdentity
from portd.net.pieces import PieceControl
from portd.net.replies import error_of
from portd.net.resp import request
from portd.net.shapes import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from portd.kernel.snapshot import SnapshotDecoder
    from portd.net.endpoint import Endpoint
    from portd.net.pieces import Strings
    from portd.net.topology import Ranges

    Sink = Callable[[object], None]
    Pause = Callable[[], Awaitable[None]]
    Tell = Callable[[bytes], Awaitable[None]]
    NamedKey = tuple[int, bytes]

FOOTER_BYTES: Final = 10
SCAN_COUNT: Final = 500
KEYS_AT_ONCE: Final = 64  # asked for in one pipeline
PIPELINE_BYTES: Final = 8 << 20  # of values, as MEMORY USAGE tells, that the server holds for us at once
GONE: Final = -2
_NOT_HERE: Final = -3
KEY_META: Final = 0xF3  # stands before the type byte where a value has metadata (Redis 8.6)
END: Final = b"\xff" + bytes(8)  # end mark, and a checksum that says that there is none
RELATIVE_TTL_TOLERANCE_MS: Final = 100  # where only PTTL exists, the expiry follows from two clocks' readings
_ELSEWHERE: Final = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN")  # cluster.c:clusterRedirectClient
_NO_DATABASE: Final = (
    "not allowed in cluster mode",
    "index is out of range",
)  # db.c:selectCommand, of Redis and Valkey

_HINT = (
    "verify needs +info +select +dump +pexpiretime +pttl +memory|usage on both ends, +scan where PSYNC is not allowed"
)


def _head(db: int, expiry: int) -> bytes:
    """What stands in front of a key in a snapshot."""
    head = b"\xfe\x80" + struct.pack(">I", db)
    return head if expiry < 0 else head + b"\xfc" + struct.pack("<q", expiry)


@dataclass(frozen=True, slots=True)
class Part:
    """One server of an end.

    Attributes:
        reader: open.
        slots: of a cluster: those that it has; None: this is all of the end.
        where: its address, for people; "" where it is the only one.
    """

    reader: LiveReader
    slots: Ranges | None
    where: str


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
        undecided: none: what is not here does not exist.
        elsewhere: keys that another node of the cluster has, or will have, since this was last cleared.
        read_bytes: of payloads.
    """

    def __init__(self, endpoint: Endpoint, largest_bytes: int) -> None:
        self.too_large: set[NamedKey] = set()
        self.undecided: set[NamedKey] = set()
        self.elsewhere: set[NamedKey] = set()
        self.read_bytes = 0
        self.endpoint = endpoint
        self._control = PieceControl(endpoint)
        self._largest = largest_bytes
        self._usage = True

    async def open(self) -> None:
        """Connects and asks who it is.

        Raises:
            SourceLost: it cannot be reached.
            TargetError: it does not let us in, or does not say who it is.
        """
        await self._control.open()
        info: dict[str, str] = {}
        sections = [request("INFO", section) for section in ("server", "keyspace", "cluster")]
        for text in await self._ask("does not let us ask", *sections):
            info |= parse_info(text)
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
        info = parse_info(await self._control.call("INFO", "replication"))
        return whole(info.get("master_repl_offset", "")) or 0

    async def scan(self, db: int) -> AsyncIterator[list[bytes]]:
        """All names of a database. A name may come twice while the server rearranges its tables."""
        cursor = b"0"
        while True:
            await self._select(db)
            ((cursor, names),) = await self._ask("refuses SCAN", request("SCAN", cursor, "COUNT", SCAN_COUNT))
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

        async def tell(data: bytes) -> None:
            for made in pour(decoder, data):
                sink(made)
            if after is not None:
                await after()

        for db, those in groupby(sorted(keys, key=itemgetter(0)), key=itemgetter(0)):
            names = [name for _, name in those]
            for start in range(0, len(names), KEYS_AT_ONCE):
                if await self._select(db):
                    await self._tell(db, names[start : start + KEYS_AT_ONCE], tell)

    async def functions(self) -> dict[bytes, bytes] | None:
        """Code of function libraries by name; None where there cannot be any or they may not be seen."""
        try:
            libraries = await self._control.call("FUNCTION", "LIST", "WITHCODE")
        except Refused:
            return None
        found = {}
        for library in libraries:
            fields = {
                name: each for name, each in zip(library[::2], library[1::2], strict=False) if isinstance(name, bytes)
            }
            name, code = fields.get(b"library_name"), fields.get(b"library_code")
            if not (isinstance(name, bytes) and isinstance(code, bytes)):
                raise self._control.strange("answers FUNCTION LIST without names or code")
            found[name] = code
        return found

    def clear_notes(self) -> None:
        """Forgets which keys could not be read."""
        for notes in (self.too_large, self.undecided, self.elsewhere):
            notes.clear()

    def parts(self, slots: Ranges | None = None) -> list[Part]:
        """What is read one after the other: this server. *slots* are for clusters: a server tells of all its keys."""
        del slots
        return [Part(self, None, "")]

    async def recover(self, error: Exception) -> None:
        """A server that is gone ends what is done with it. Raises *error*."""
        raise error

    async def libraries(self) -> list[dict[bytes, bytes]] | None:
        """`functions` of every server of the end."""
        found = await self.functions()
        return None if found is None else [found]

    @property
    def run_ids(self) -> set[str]:
        """Of its process; empty where it does not tell."""
        return {self.identity.run_id} - {""}

    def close(self) -> None:
        """Ends the connection; idempotent."""
        self._control.close()

    async def _tell(self, db: int, names: Sequence[bytes], tell: Tell) -> None:
        """Keys of the selected database."""
        group: list[tuple[bytes, bytes]] = []
        held = 0
        for name, (expiry, usage) in zip(names, await self._look(names), strict=True):
            if expiry == _NOT_HERE:
                self.elsewhere.add((db, name))
            if expiry in {GONE, _NOT_HERE}:
                continue
            if usage > self._largest:
                self.too_large.add((db, name))
                continue
            group.append((name, _head(db, expiry)))
            held += usage
            if held > PIPELINE_BYTES:
                await self._dump(db, group, tell)
                group, held = [], 0
        await self._dump(db, group, tell)

    async def _dump(self, db: int, group: Sequence[tuple[bytes, bytes]], tell: Tell) -> None:
        """Values of keys of the selected database; what stands in front of each of them comes with its name."""
        control = self._control
        async with control.strings([request("DUMP", name) for name, _ in group]) as strings:
            for name, head in group:
                try:
                    size = await strings.next()
                except Refused as error:
                    if self._is_elsewhere(error):  # since its expiry was asked for
                        self.elsewhere.add((db, name))
                        continue
                    raise self._refused("does not let us read keys", error) from None
                if 0 <= size <= FOOTER_BYTES:
                    raise control.strange(f"answers DUMP with {size} bytes")
                if size >= 0 and not await self._pass(strings, size, name, head, tell):
                    self.too_large.add((db, name))

    async def _pass(self, strings: Strings, size: int, name: bytes, head: bytes, tell: Tell) -> bool:
        """One payload into the decoder, its name put in; False when it has metadata, whose end is not known."""
        readable, first = True, True
        self.read_bytes += size
        async for piece in strings.pieces(size - FOOTER_BYTES):
            if first:
                first, readable = False, piece[0] != KEY_META
                named = piece[:1] + b"\x80" + struct.pack(">I", len(name)) + name
                data = head + named + piece[1:]
            else:
                data = piece
            if readable:
                await tell(data)
        await strings.rest(FOOTER_BYTES)
        return readable

    async def _look(self, names: Sequence[bytes]) -> list[tuple[int, int]]:
        """Of each key: when it expires (unix ms, -1 never, `GONE` it is not there), and the memory it takes."""
        command = "PEXPIRETIME" if self.exact_ttl else "PTTL"
        questions = [request(command, name) for name in names]
        if self._usage:
            questions += [request("MEMORY", "USAGE", name) for name in names]
        answers = await self._control.ask(*questions)
        expiries = [self._expiry(command, answer) for answer in answers[: len(names)]]
        return list(zip(expiries, self._usages(answers[len(names) :]) or [0] * len(names), strict=True))

    def _expiry(self, command: str, answer: Any) -> int:
        """What PEXPIRETIME or PTTL tells; a key of another shard does not exist here."""
        if isinstance(answer, hiredis.ReplyError):
            if self._is_elsewhere(answer):
                return _NOT_HERE
            raise self._refused(f"refuses {command}", answer)
        expiry = int(answer)
        return expiry if self.exact_ttl or expiry < 0 else expiry + time.time_ns() // 1_000_000

    def _usages(self, answers: Sequence[Any]) -> list[int]:
        """What MEMORY USAGE tells; where it may not be asked, every key is read, whatever its size."""
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError) and not self._is_elsewhere(answer):
                self._usage = False
        return [0 if isinstance(answer, hiredis.ReplyError) else answer or 0 for answer in answers]

    def _is_elsewhere(self, refusal: Exception) -> bool:
        return self.one_shard and str(refusal).startswith(_ELSEWHERE)

    async def _select(self, db: int) -> bool:
        """Goes to a database; False where a node of a cluster has none of that number, and so no key in it."""
        try:
            await self._control.select(db)
        except Refused as error:
            if self.one_shard and any(words in str(error) for words in _NO_DATABASE):
                return False
            raise self._refused("refuses SELECT", error) from None
        return True

    async def _ask(self, refuses: str, *commands: bytes) -> list[Any]:
        answers = await self._control.ask(*commands)
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._refused(refuses, answer)
        return answers

    def _refused(self, refuses: str, refusal: Exception) -> Exception:
        """What an error reply means here."""
        return error_of(str(refusal), refuses, who=self._control.where, hint=_HINT)
