"""How a replica introduces itself: a state machine without I/O, bytes in, bytes out.

    > PING                                     < +PONG
    > AUTH [user] password                     < +OK
    > REPLCONF listening-port <n>              < +OK     an error is ignored
    > REPLCONF capa eof capa psync2            < +OK     an error is ignored
    > REPLCONF version 9.1.0                   < +OK     an error is ignored: only Valkey knows it
    > PSYNC ? -1 | PSYNC <replid> <offset + 1>
                                               < +FULLRESYNC <replid> <offset>   then  $<length> or $EOF:<mark>
                                               < +CONTINUE [<replid>]            then  the stream

One request, its reply, the next request: a source refuses PSYNC while output is pending. Single newlines come at any
time as a sign of life (`replication.c:replicationCron`). What follows the last line is not ours: see `rest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from portd.errors import HandshakeError, InternalError
from portd.model import Position
from portd.net.resp import request
from portd.source.refusals import NEEDS_PASSWORD, refused

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_BYTES = 4096  # longest reply line believed; the longest known, -DENIED, has about 1000
MARK_BYTES = 40  # of $EOF:<mark>
RDB_ONLY = "REPLCONF rdb-only"  # in `Handshake.accepted`
CLAIMED_VERSION = "9.1.0"  # of REPLCONF version: makes Valkey 9 send RDB 80; 9.2 may send types we do not know

_FULLRESYNC = re.compile(rb"\+FULLRESYNC ([0-9A-Za-z]{40}) ([0-9]{1,18})")
_CONTINUE = re.compile(rb"\+CONTINUE(?: ([0-9A-Za-z]{40}))?")
_LENGTH = re.compile(rb"\$([0-9]{1,18})")
_MARK = re.compile(rb"\$EOF:(.{40})", re.DOTALL)

_NOT_REDIS_HINT = "check host and port; a TLS port needs rediss://, and a proxy in between must pass replication"


@dataclass(frozen=True, slots=True)
class HandshakeOptions:
    """What is asked for.

    Attributes:
        psync_command: name of PSYNC on this source.
        listening_port: shown in the source's INFO replication; 0 keeps Sentinel from trying to connect to it.
        rdb_only: want a snapshot and no stream (Redis 6.2.14+, Valkey); see `Handshake.accepted`.
        no_compression: want strings that are not LZF-compressed (Redis 8.6+).
        no_checksum: want a snapshot without CRC (Redis 8.8+).
        end: which end of a sync the server is, `source` or `target`; for messages.
    """

    psync_command: str = "PSYNC"
    listening_port: int = 0
    rdb_only: bool = False
    no_compression: bool = False
    no_checksum: bool = False
    end: str = "source"


@dataclass(frozen=True, slots=True)
class Transfer:
    """What the source agreed to send.

    Attributes:
        full: a snapshot comes first, then the stream; otherwise the stream comes at once.
        position: for a full sync the one that the snapshot stands at, otherwise the one asked for, with the
            replid that is valid now. The first stream byte has `position.offset` + 1. See `announced`.
        length: bytes of the snapshot, where announced (`$<length>`).
        mark: bytes that follow the snapshot, where its length is not known (`$EOF:<mark>`).
    """

    full: bool
    position: Position
    length: int | None = None
    mark: bytes | None = None

    @property
    def announced(self) -> bool:
        """The source told the position. One that renamed PSYNC by `rename-command` does not (see `Handshake`).

        Otherwise it is found in the AUX fields repl-id and repl-offset of the snapshot, and a lost connection always costs a
        full sync.
        """
        return self.position.replid != ""


class State(Enum):
    """The reply that is waited for."""

    PING = auto()
    AUTH = auto()
    REPLCONF = auto()
    PSYNC = auto()
    HEADER = auto()  # full sync agreed; $<length> or $EOF:<mark> may take as long as a snapshot on the source's disk
    DONE = auto()


@dataclass(frozen=True, slots=True)
class _Request:
    state: State
    name: str  # as shown to the operator
    data: bytes


class Handshake:
    """One handshake. Call `begin`, send what it returns; then `feed` what arrives and send what that returns.

    `replication.c:syncCommand` looks at the name it was called by: under any other name than PSYNC it acts as SYNC, and
    sends the snapshot without a word about replid and offset. Only patched servers know PSYNC by another name.

    Args:
        auth: the AUTH command, None to go without.
        position: where to continue; None asks for a full sync.
        options: what to ask for.
    """

    def __init__(self, auth: bytes | None, position: Position | None, options: HandshakeOptions | None = None) -> None:
        self._options = options or HandshakeOptions()
        self.end = self._options.end
        self._position = position
        self._auth = auth
        self._requests = self._plan()
        self._current = next(self._requests)
        self._buffer = bytearray()
        self._resync = Position("", 0)
        self.state = self._current.state
        self.transfer: Transfer | None = None  # set when done
        self.accepted: set[str] = set()  # names of requests that were answered with +OK

    def begin(self) -> bytes:
        """The first bytes to send."""
        return self._current.data

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """Takes what arrived and returns what to send now, which may be nothing.

        Raises:
            SourceBusy: the source cannot serve us now.
            HandshakeError: it refuses for good, or is no Redis.
        """
        if self.transfer is not None:
            raise InternalError("the handshake was fed after its end")
        self._buffer += data
        answer = b""
        while self.transfer is None and (line := self._next_line()) is not None:
            answer += self._on_line(line)
        return answer

    def rest(self) -> bytes:
        """What arrived behind the last line of the handshake: the first bytes of the snapshot or the stream."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    # --------------------------------------------------------------- sending

    def _plan(self) -> Iterator[_Request]:
        options = self._options
        yield _Request(State.PING, "PING", request("PING"))
        if self._auth is not None:
            yield _Request(State.AUTH, "AUTH", self._auth)
        settings = [["listening-port", str(options.listening_port)], ["capa", "eof", "capa", "psync2"]]
        settings += [["version", CLAIMED_VERSION]]
        settings += [["rdb-only", "1"]] if options.rdb_only else []
        settings += [["rdb-no-compress", "1"]] if options.no_compression else []
        settings += [["rdb-no-checksum", "1"]] if options.no_checksum else []
        for words in settings:
            yield _Request(State.REPLCONF, f"REPLCONF {words[0]}", request("REPLCONF", *words))
        wanted = ("?", "-1") if self._position is None else (self._position.replid, str(self._position.offset + 1))
        yield _Request(State.PSYNC, options.psync_command, request(options.psync_command, *wanted))

    def _next_request(self) -> bytes:
        self._current = next(self._requests)
        self.state = self._current.state
        return self._current.data

    # ------------------------------------------------------------- receiving

    def _next_line(self) -> bytes | None:
        """The next reply line without its end; newlines between replies are signs of life."""
        buffer = self._buffer
        del buffer[: len(buffer) - len(buffer.lstrip(b"\n"))]
        end = buffer.find(b"\n", 0, LINE_BYTES)
        if end < 0:
            if len(buffer) >= LINE_BYTES or (buffer and buffer[0] not in b"+-:$"):
                raise self._unexpected(bytes(buffer[:LINE_BYTES]))
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        return line.removesuffix(b"\r")

    def _on_line(self, line: bytes) -> bytes:
        if line[:1] == b"-":
            return self._on_error(line)
        if self.state is State.PSYNC:
            return self._on_psync_reply(line)
        if self.state is State.HEADER:
            return self._on_header(line)
        if line[:1] != b"+":
            raise self._unexpected(line)
        self.accepted.add(self._current.name)
        return self._next_request()

    def _on_error(self, line: bytes) -> bytes:
        """Some errors are answers that one can live with; the others end the handshake."""
        state, code = self.state, line[1:].split(b" ", 1)[0]
        if state is State.PING:
            closed = code == b"NOAUTH" or b"operation not permitted" in line
            if closed and self._auth is None:
                raise HandshakeError(f"the {self.end} wants a password", hint=NEEDS_PASSWORD.format(end=self.end))
            if closed or code == b"NOPERM":  # the user may do what counts without being allowed to PING
                return self._next_request()
        if state is State.REPLCONF and code == b"ERR" and b"unknown command" not in line:
            return self._next_request()
        psync = self._options.psync_command
        command = "full sync" if state is State.HEADER else self._current.name
        raise refused(command, line, psync=psync, secret=state is State.AUTH, end=self.end)

    def _on_psync_reply(self, line: bytes) -> bytes:
        if found := _FULLRESYNC.fullmatch(line):
            self._resync = Position(found[1].decode(), int(found[2]))
            self.state = State.HEADER
        elif (found := _CONTINUE.fullmatch(line)) and self._position is not None:
            replid = self._position.replid if found[1] is None else found[1].decode()
            self.transfer = Transfer(full=False, position=Position(replid, self._position.offset))
            self.state = State.DONE
        else:
            self._on_header(line)
        return b""

    def _on_header(self, line: bytes) -> bytes:
        if found := _LENGTH.fullmatch(line):
            self.transfer = Transfer(full=True, position=self._resync, length=int(found[1]))
        elif found := _MARK.fullmatch(line):
            self.transfer = Transfer(full=True, position=self._resync, mark=found[1])
        else:
            raise self._unexpected(line)
        self.state = State.DONE
        return b""

    def _unexpected(self, line: bytes) -> HandshakeError:
        """Something that no Redis says here. After AUTH nothing is shown: a strange server may repeat what it got."""
        shown = "" if self.state is State.AUTH else f": {line[:60].decode('ascii', 'backslashreplace')!r}"
        return HandshakeError(
            f"the {self.end} gave no valid answer to {self._current.name}{shown}", hint=_NOT_REDIS_HINT
        )
