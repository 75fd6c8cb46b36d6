"""A slow, obvious stream splitter: what ``portd.kernel.stream`` must do, written over lists of arguments.

``expect`` says what a whole stream must turn into; ``drain`` feeds a real splitter and gathers what it made of it, in
the same terms, checking on the way what must hold of every single piece.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portd.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portd.kernel.stream import Piece, StreamSplitter

NEVER = (2**63 - 1) // 4
DROPPED = {b"PING", b"REPLCONF", b"SCRIPT", b"TRIMSLOTS", b"CLUSTER", b"DEBUG", b"MIGRATE", b"ASKING", b"CONFIG"}
DROPPED |= {b"ACL", b"OPINFO"}
DROPPED |= {b"PSYNC", b"SYNC", b"REPLICAOF", b"SLAVEOF", b"MONITOR", b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"}
DROPPED |= {b"QUIT", b"RESET", b"HELLO", b"AUTH", b"CLIENT", b"SHUTDOWN", b"FAILOVER", b"WATCH", b"KEYS", b"BGSAVE"}
FUNCTIONS = {b"LOAD", b"DELETE", b"FLUSH", b"RESTORE"}
UNITS = {b"EX": 1000, b"EXAT": 1000, b"PX": 1, b"PXAT": 1}


class BadStreamError(Exception):
    """The stream is wrong at ``offset``."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"bad stream at {offset}")
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its arguments, its bytes as they came, the replication offsets of its first and last byte."""

    argv: list[bytes]
    raw: bytes
    first: int
    last: int

    @property
    def name(self) -> bytes:
        """The name in upper case."""
        return self.argv[0].upper()


@dataclass(slots=True)
class Outcome:
    """What a stream turned into."""

    data: bytes = b""
    offsets: list[int] = field(default_factory=list)
    db: int = -1
    filtered: int = 0
    excluded: int = 0
    swaps: int = 0
    getacks: int = 0
    end_offset: int = 0
    in_transaction: bool = False
    boundaries: dict[int, int] = field(default_factory=dict)  # offset -> db, where a checkpoint may stand
    error: int = -1  # offset of the bad byte; the oracle says the last that it may be
    cut: bool = False  # the last command is not whole


def pack(argv: Iterable[bytes]) -> bytes:
    """A command in RESP."""
    arguments = list(argv)
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(each), each) for each in arguments)


def _length(data: bytes, at: int, mark: bytes, limit: int) -> tuple[int, int] | None:
    """The number in ``<mark><digits>CRLF`` at *at* and the index behind; None when it is cut."""
    if at >= len(data):
        return None
    if data[at : at + 1] != mark:
        raise BadStreamError(at)
    end = at + 1
    while data[end : end + 1].isdigit():
        end += 1
    digits, line_end = data[at + 1 : end], data[end : end + 2]
    if len(digits) > 19:
        raise BadStreamError(at)
    if line_end in (b"", b"\r") and (digits or not line_end):
        return None
    if line_end != b"\r\n" or not digits or (len(digits) > 1 and digits[:1] == b"0") or int(digits) > limit:
        raise BadStreamError(at)
    return int(digits), end + 2


def parse_one(data: bytes, at: int, max_argument: int) -> tuple[list[bytes], int] | None:
    """The arguments of the command at *at* and the index behind it, none of what replicas pass over; None when it is cut."""
    if data[at : at + 1] == b"\n" or data[at : at + 2] == b"\r\n":
        return [], data.index(b"\n", at) + 1
    below = data[at : at + 2] == b"*-"
    read = _length(b"*" + data[at + 2 :] if below else data, 0 if below else at, b"*", 2**64 if below else 2**31 - 1)
    if read is None or data[at:] == b"\r":
        return None
    argc, behind = read
    if below:
        if argc == 0:
            raise BadStreamError(at)
        return [], at + 1 + behind
    argv: list[bytes] = []
    while len(argv) < argc:
        read = _length(data, behind, b"$", max_argument)
        if read is None:
            return None
        size, payload = read
        if not argv and size > 512:
            raise BadStreamError(at)
        if len(data) < payload + size + 2:
            return None
        if data[payload + size : payload + size + 2] != b"\r\n":
            raise BadStreamError(payload + size)
        argv.append(data[payload : payload + size])
        behind = payload + size + 2
    return argv, behind


def number(text: bytes) -> int:
    """A number as ``strtoll`` reads it; ValueError when something else stands there."""
    if re.fullmatch(rb"[+-]?[0-9]+", text) is None or len(text) > 64:
        raise ValueError
    return int(text)


def _absolute(text: bytes, unit: int, now_ms: int) -> int:
    """A time as absolute ms; 0 for *now_ms* when it is absolute already."""
    most = NEVER // unit
    return max(max(-most, min(most, number(text))) * unit + now_ms, 1)


@dataclass(frozen=True, slots=True)
class How:
    """What decides how a command is rewritten."""

    now_ms: int  # when its first byte was received
    pxat: bool  # the target knows PXAT
    entries_read: bool  # the target knows ENTRIESREAD
    unlink: bool  # the target takes UNLINK
    large: bool  # the command is larger than a piece


def _set(argv: list[bytes], how: How) -> list[list[bytes]]:
    """SET with its expiry made absolute."""
    out, at, i = argv[:3], 0, 3
    while i < len(argv):
        word = argv[i].upper()
        if word not in UNITS or (
            how.pxat and not how.large and not {b"EX", b"PX"} & {each.upper() for each in argv[3:]}
        ):
            taken = 2 if word.startswith(b"IF") and 4 <= len(word) <= 64 else 1
            out += argv[i : i + taken]
            i += taken
            continue
        relative = word in (b"EX", b"PX")
        if i + 1 == len(argv):  # no server sends that
            out.append(b"PXAT" if how.pxat else argv[i] if relative else b"PX")
            break
        at = _absolute(argv[i + 1], UNITS[word], how.now_ms if relative else 0)
        if how.pxat:
            out += [b"PXAT", b"%d" % at]
        elif relative:
            out += argv[i : i + 2]
        else:
            out += [b"PX", b"%d" % max(at - how.now_ms, 1)]
        i += 2
    return [out] if how.pxat or not at else [out, [b"PEXPIREAT", argv[1], b"%d" % at]]


def _setex(argv: list[bytes], how: How) -> list[list[bytes]]:
    """SETEX or PSETEX as SET with an absolute expiry."""
    if len(argv) != 4:
        return [argv]
    at = b"%d" % _absolute(argv[2], 1000 if argv[0].upper() == b"SETEX" else 1, how.now_ms)
    if how.pxat:
        return [[b"SET", argv[1], argv[3], b"PXAT", at]]
    return [argv, [b"PEXPIREAT", argv[1], at]]


def _getex(argv: list[bytes], how: How) -> list[list[bytes]]:
    """GETEX as the expiry that it sets."""
    if len(argv) != 4:
        return [argv]
    word = argv[2].upper()
    if word not in UNITS:
        raise ValueError
    return [[b"PEXPIREAT", argv[1], b"%d" % _absolute(argv[3], UNITS[word], how.now_ms if len(word) == 2 else 0)]]


def _expire(argv: list[bytes], how: How) -> list[list[bytes]]:
    """EXPIRE, PEXPIRE, HEXPIRE or HPEXPIRE made absolute."""
    if len(argv) < 3:
        return [argv]
    name = argv[0].upper()
    at = _absolute(argv[2], 1 if b"PEX" in name else 1000, how.now_ms)
    return [[b"HPEXPIREAT" if name.startswith(b"H") else b"PEXPIREAT", argv[1], b"%d" % at, *argv[3:]]]


def _restore(argv: list[bytes], how: How) -> list[list[bytes]]:
    """RESTORE with its TTL made absolute; one of a slot that moves replaces what is there."""
    if len(argv) < 4:
        return [argv]
    if argv[0].upper() == b"RESTORE-ASKING":
        first, *behind = _restore([b"RESTORE", *argv[1:]], how)
        ends = len(first) - (first[-1] == b"ABSTTL" and len(first) > len(argv))  # an ABSTTL of ours is the last word
        return [[*first[:ends], b"REPLACE", *first[ends:]], *behind]
    name = argv[0]
    if number(argv[2]) <= 0 or b"ABSTTL" in [option.upper() for option in argv[4:]]:
        return [[name, *argv[1:]]]
    at = b"%d" % _absolute(argv[2], 1, how.now_ms)
    if how.large or not how.pxat:
        return [[name, *argv[1:]], [b"PEXPIREAT", argv[1], at]]
    return [[b"RESTORE", argv[1], at, *argv[3:], b"ABSTTL"]]


def _function(argv: list[bytes], how: How) -> list[list[bytes]]:
    """FUNCTION LOAD with REPLACE."""
    if len(argv) != 3 or argv[1].upper() != b"LOAD":
        return [argv]
    return [[b"FUNCTION", argv[1], b"REPLACE", argv[2]]]


def _xgroup(argv: list[bytes], how: How) -> list[list[bytes]]:
    """XGROUP without ENTRIESREAD; of a large one, the number of arguments says that it is there."""
    words = {each.upper() for each in argv[5:]}
    if how.entries_read or len(argv) not in (7, 8) or (words == {b"MKSTREAM"} and not how.large):
        return [argv]
    return [[b"XGROUP", *argv[1:5], *[b"MKSTREAM"] * (len(argv) - 7)]]


def _del(argv: list[bytes], how: How) -> list[list[bytes]]:
    """DEL as UNLINK."""
    return [[b"UNLINK", *argv[1:]] if how.unlink else argv]


REWRITERS = {
    b"SET": _set,
    b"SETEX": _setex,
    b"PSETEX": _setex,
    b"GETEX": _getex,
    b"EXPIRE": _expire,
    b"PEXPIRE": _expire,
    b"HEXPIRE": _expire,
    b"HPEXPIRE": _expire,
    b"RESTORE": _restore,
    b"RESTORE-ASKING": _restore,
    b"FUNCTION": _function,
    b"XGROUP": _xgroup,
    b"DEL": _del,
}


def rewrite(argv: list[bytes], how: How) -> list[list[bytes]]:
    """The commands to send instead of one, which may be the same.

    Raises:
        ValueError: an expiry is not a number.
    """
    rewriter = REWRITERS.get(argv[0].upper())
    return rewriter(argv, how) if rewriter else [argv]


class Oracle:
    """Splits a whole stream.

    Args:
        offset: replication offset of the byte before the first.
        db: database in effect there, -1 when unknown.
        pxat: the target knows PXAT.
        entries_read: the target knows XGROUP .. ENTRIESREAD.
        unlink: the target takes UNLINK.
        piece_bytes: commands above this are large.
        max_argument: largest argument believed.
        excluded: offsets of commands to leave out.
        now_ms: the time at which the byte with a given offset was received.
    """

    def __init__(
        self,
        offset: int,
        db: int,
        *,
        pxat: bool = True,
        entries_read: bool = True,
        unlink: bool = False,
        piece_bytes: int = 256 * 1024,
        max_argument: int = 512 << 20,
        excluded: Iterable[int] = (),
        now_ms: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self.offset = offset
        self.pxat = pxat
        self.entries_read = entries_read
        self.unlink = unlink
        self.piece_bytes = piece_bytes
        self.max_argument = max_argument
        self.excluded = set(excluded)
        self.now_ms = now_ms
        self.outcome = Outcome(db=db, end_offset=offset, boundaries={offset: db})

    def expect(self, data: bytes) -> Outcome:
        """What *data*, cut or wrong as it may be, must turn into."""
        at = 0
        outcome = self.outcome
        try:
            while (read := parse_one(data, at, self.max_argument)) is not None:
                argv, behind = read
                if argv:
                    self._take(Command(argv, data[at:behind], self.offset + at + 1, self.offset + behind))
                at = behind
                outcome.end_offset = self.offset + at
                if not outcome.in_transaction:
                    outcome.boundaries[outcome.end_offset] = outcome.db
        except BadStreamError as error:
            outcome.error = self.offset + error.offset + 1
        except ValueError:
            outcome.error = self.offset + behind
        outcome.cut = at < len(data)
        return outcome

    def _take(self, command: Command) -> None:
        outcome, name, argv = self.outcome, command.name, command.argv
        if name in (b"MULTI", b"EXEC") and len(argv) == 1 and (name == b"MULTI") != outcome.in_transaction:
            outcome.in_transaction = name == b"MULTI"
        elif name == b"SELECT" and (len(argv) != 2 or not 0 <= number(argv[1]) < 2**31):
            raise ValueError
        elif self._is_dropped(argv) or (name in (b"PUBLISH", b"SPUBLISH") and argv[1:2] == [b"__sentinel__:hello"]):
            outcome.getacks += name == b"REPLCONF" and argv[1:2] != [] and argv[1].upper() == b"GETACK"
            self._leave_out(command)
        elif command.first in self.excluded:
            if name == b"SELECT":
                raise ValueError
            self._leave_out(command)
        else:
            self._send(command)

    def _is_dropped(self, argv: list[bytes]) -> bool:
        name = argv[0].upper()
        if name == b"FUNCTION":
            return len(argv) == 1 or argv[1].upper() not in FUNCTIONS
        return name in DROPPED or name in (b"MULTI", b"EXEC")

    def _leave_out(self, command: Command) -> None:
        if command.first in self.excluded:
            self.outcome.excluded += 1
        else:
            self.outcome.filtered += 1

    def _send(self, command: Command) -> None:
        outcome = self.outcome
        if command.name == b"SELECT":
            outcome.db = number(command.argv[1])
        if outcome.db < 0:
            raise ValueError
        outcome.swaps += command.name in (b"SWAPDB", b"FLUSHALL", b"FLUSHDB")
        large = len(command.raw) > self.piece_bytes
        how = How(self.now_ms(command.first), self.pxat, self.entries_read, self.unlink, large)
        commands = rewrite(command.argv, how)
        if len(commands) > 1 and len(command.argv[1]) > self.piece_bytes:
            del commands[1]  # a key that is not kept whole: the expiry stays relative
        for argv in commands:
            outcome.data += command.raw if argv == command.argv else pack(argv)
            outcome.offsets.append(command.first)


def drain(splitter: StreamSplitter, max_bytes: int = 1 << 30, max_commands: int = 1 << 30) -> list[Piece]:
    """All pieces that the bytes fed so far give."""
    pieces: list[Piece] = []
    while (piece := splitter.next_piece(max_bytes, max_commands)) is not None:
        pieces.append(piece)
    return pieces


class Follower:
    """Feeds a splitter and adds up its pieces, checking each.

    Args:
        splitter: a fresh splitter.
        max_bytes: as ``next_piece`` takes it.
        max_commands: as ``next_piece`` takes it.
    """

    def __init__(self, splitter: StreamSplitter, max_bytes: int = 1 << 30, max_commands: int = 1 << 30) -> None:
        self.splitter = splitter
        self.max_bytes = max_bytes
        self.max_commands = max_commands
        self.pieces: list[Piece] = []
        self.outcome = Outcome(db=splitter.db, end_offset=splitter.offset)
        self.outcome.boundaries[splitter.offset] = splitter.db
        self.peak = 0  # bytes owned

    def feed(self, data: bytes, now_ms: int = 0) -> None:
        """Feeds all of *data*; after an error, nothing."""
        view = memoryview(data)
        while view and self.outcome.error < 0:
            taken = self.splitter.feed(view, now_ms)
            view = view[taken:]
            pieces = self._drain()
            assert taken or pieces, "a full window gave no piece"

    def _drain(self) -> int:
        count = len(self.pieces)
        try:
            while (piece := self.splitter.next_piece(self.max_bytes, self.max_commands)) is not None:
                self._add(piece)
        except DecodeError as error:
            self.outcome.error = error.offset
        assert self.splitter.offset >= self.outcome.end_offset
        self.outcome.end_offset = self.splitter.offset  # behind the last piece by a MULTI at most
        self.outcome.in_transaction = self.splitter.in_transaction
        statistics = self.splitter.statistics()
        self.outcome.excluded = statistics["excluded"]
        self.peak = max(self.peak, statistics["owned_bytes"])
        assert 0 <= statistics["window_used"] <= statistics["window_capacity"]
        return len(self.pieces) - count

    def _add(self, piece: Piece) -> None:
        outcome = self.outcome
        assert piece.end_offset > outcome.end_offset, "a piece without progress"
        assert len(piece.offsets) == 8 * piece.replies
        self.pieces.append(piece)
        outcome.data += piece.data
        outcome.offsets += struct.unpack(f"={piece.replies}Q", piece.offsets)
        outcome.db = piece.db
        outcome.filtered += piece.filtered
        outcome.swaps += piece.swaps
        outcome.getacks += piece.getack
        outcome.end_offset = piece.end_offset
        if piece.boundary:
            assert not piece.part
            outcome.boundaries[piece.end_offset] = piece.db


def compare(expected: Outcome, got: Outcome) -> None:
    """Asserts that a splitter did what the oracle says, error included.

    Of a large command that is not whole, or bad in its middle, parts may have been handed out, and what is wrong in it
    may have been found before it was whole. ``swaps`` and ``getacks`` are flags of a piece: only their being there
    agrees.
    """
    if expected.error >= 0:
        assert expected.end_offset < got.error <= expected.error
    elif not expected.cut:
        assert got.error < 0
    assert got.error < 0 or got.error > expected.end_offset
    assert got.end_offset >= expected.end_offset
    assert got.boundaries.items() <= expected.boundaries.items()
    assert got.data[: len(expected.data)] == expected.data
    assert expected.cut or got.data == expected.data
    assert got.offsets == expected.offsets
    assert got.db == expected.db
    assert (got.filtered, got.excluded) == (expected.filtered, expected.excluded)
    assert bool(got.swaps) == bool(expected.swaps)
    assert expected.cut or bool(got.getacks) == bool(expected.getacks)
    assert got.in_transaction == expected.in_transaction
