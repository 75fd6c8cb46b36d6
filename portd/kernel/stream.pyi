"""The stream splitter: replication stream bytes in, pieces of raw commands out. No I/O, no asyncio."""

from typing import Final, Self, final

from typing_extensions import Buffer

from portd.kernel.border import Border
from portd.kernel.commandtable import CommandTable
from portd.kernel.leftout import Refusal
from portd.kernel.mapping import Mapping
from portd.kernel.rules import Rules

@final
class Piece:
    """Raw commands of the stream, as they go between our MULTI and the checkpoint.

    Commands go on byte for byte, except: relative expiries are made absolute, FUNCTION LOAD is given REPLACE,
    RESTORE-ASKING becomes RESTORE with REPLACE, expiry times before the horizon of ``postpone`` are later, DEL becomes UNLINK, and what the
    target does not know takes another form (`portd.kernel.forms`). A command may become several, such as one with PEXPIREAT
    behind it: each counts as a command of its own, with the same offset, and they are never in different pieces unless
    the command is larger than one.

    Attributes:
        data: RESP bytes; the source's MULTI, EXEC, PING and REPLCONF are left out, SELECT stays in. May be empty.
        replies: commands that end in ``data`` (each answers +QUEUED and one element of EXEC).
        offsets: packed native u64 per command that ends in ``data``: its first byte's replication offset.
        end_offset: replication offset of the last byte consumed for this piece, dropped commands included.
        db: database of the source in effect after the piece.
        selected: the one of the target that is selected then; 0 where nothing is written of the source's.
        boundary: the piece ends where a checkpoint may stand (outside a source transaction, no command cut).
        part: the last command continues in the next piece (only when it is larger than the piece size).
        filtered: commands dropped on purpose (PING, REPLCONF, PUBLISH of sentinel hello, what does not write, what is on
            names of ours alone), without MULTI and EXEC and without excluded ones.
        names: of them, the names of those that are no noise; a few at the most.
        own: commands that named keys of ours: filtered ones, and those that went on without these keys.
        by_key: of the filtered ones, those of whose keys rules take none that would change.
        by_database: those in databases that they do not take.
        by_name: those that somebody does not want.
        by_copy: those that an owed key is copied for, or that name nothing else that is taken.
        owed: keys that are owed behind the piece: databases and names of the source, as text for the next splitter. "" for a cluster.
        owing: for a cluster, keys that are owed since commands of the piece: offset of the command's first byte, database and name
            in the source, slot in the target.
        settled: for a cluster, the key that is settled behind the piece, and its slot; None: it settles none.
        settles: it brings a copy, or a part of one, and nothing of the stream; see `portd.kernel.settling`.
        copied: it ends one, which the target takes.
        projected: commands that went on in part, for rules take some of their keys only; those that ``clears`` tells of, too.
        refused: commands that cannot be written to this target.
        crossing: of them, those of which rules take a part that cannot be told by itself.
        clears: a FLUSHDB or FLUSHALL that removes what rules cover, alone in its piece: the database of the source, -1: all;
            None: there is none. Whoever applies the piece does it, before what follows.
        trims: slots of the source of which alone that is to be done, since its node has no key of them any more; None: all.
        refusals: of them, what and why; a few hundred at the most. A large one is told with its first part.
        mixed: offset of the first byte of a large command of which a later part names a key of ours among others; 0: there
            is none. It must not be applied, and goes to the next splitter.
        databases: what SELECT and SWAPDB in ``data`` name; now and then one too many.
        swaps: a SWAPDB, FLUSHALL or FLUSHDB is inside; the applier must keep its checkpoint, lease and epoch safe.
        getack: REPLCONF GETACK was among the dropped commands: the source wants an ACK now.
        moves: a command inside takes an expiry from one key to another (RENAME, COPY, MOVE, SWAPDB).
        postponed: expiry times that are later than the source said.
        lost: expiry times of hash fields that the target cannot hold: the fields live for ever there.
        unrecorded: what streams know of idempotent producers, and those of the target cannot.
        overdue: one of them had passed when it was received: the stream lags by that much at least.
        bodies: texts of scripts that it brings, by EVAL or SCRIPT LOAD; none above 128 KiB, or a piece.
        loaded: those that came by SCRIPT LOAD, which is dropped.
        digests: SHA1 digests, as lower-case hexadecimal digits, of texts that an EVALSHA inside takes for known.
        flushed: the source forgot its scripts somewhere inside, by SCRIPT FLUSH, which is dropped.
    """

    @property
    def data(self) -> bytes: ...
    @property
    def replies(self) -> int: ...
    @property
    def offsets(self) -> bytes: ...
    @property
    def end_offset(self) -> int: ...
    @property
    def db(self) -> int: ...
    @property
    def selected(self) -> int: ...
    @property
    def boundary(self) -> bool: ...
    @property
    def part(self) -> bool: ...
    @property
    def filtered(self) -> int: ...
    @property
    def names(self) -> frozenset[str]: ...
    @property
    def own(self) -> int: ...
    @property
    def by_key(self) -> int: ...
    @property
    def by_database(self) -> int: ...
    @property
    def by_name(self) -> int: ...
    @property
    def by_copy(self) -> int: ...
    @property
    def owed(self) -> str: ...
    @property
    def owing(self) -> tuple[tuple[int, tuple[int, bytes], int], ...]: ...
    @property
    def settled(self) -> tuple[tuple[int, bytes], int] | None: ...
    @property
    def settles(self) -> bool: ...
    @property
    def copied(self) -> bool: ...
    @property
    def projected(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def crossing(self) -> int: ...
    @property
    def clears(self) -> int | None: ...
    @property
    def trims(self) -> frozenset[int] | None: ...
    @property
    def refusals(self) -> tuple[Refusal, ...]: ...
    @property
    def mixed(self) -> int: ...
    @property
    def databases(self) -> frozenset[int]: ...
    @property
    def swaps(self) -> bool: ...
    @property
    def getack(self) -> bool: ...
    @property
    def moves(self) -> bool: ...
    @property
    def overdue(self) -> bool: ...
    @property
    def postponed(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def unrecorded(self) -> int: ...
    @property
    def bodies(self) -> tuple[bytes, ...]: ...
    @property
    def loaded(self) -> tuple[bytes, ...]: ...
    @property
    def digests(self) -> tuple[bytes, ...]: ...
    @property
    def flushed(self) -> bool: ...
    def __len__(self) -> int:
        """Bytes of ``data``."""

@final
class StreamSplitter:
    """Splits the stream into pieces with exact offsets.

    Holds a window of about two pieces, and up to three pieces of output while large commands are edited; no command is
    ever held whole that is larger than a piece.

    Args:
        offset: replication offset of the last byte before the first one that will be fed.
        db: database in effect there (-1 when none is known: the first command must be a SELECT).
        piece_bytes: a piece is cut at the first command boundary at or after this many bytes; a command larger than
            this is passed on in parts. At least 64.
        max_argument: largest argument believed, in bytes; more is a LimitExceeded. Nothing is allocated by it. The
            default is what servers take by default (proto-max-bulk-len).
        pxat: the target knows SET .. PXAT (6.2). Otherwise SET, SETEX, PSETEX and RESTORE with an expiry go on as they
            came, with PEXPIREAT behind.
        entries_read: the target knows XGROUP .. ENTRIESREAD (7.0). Otherwise that is left out.
        unlink: the target knows UNLINK, and our user may run it: DEL goes on as UNLINK.
        commands: what goes on, and in which form; None: whatever the build does not know as something else than a write,
            as to a target that knows all.
        databases: how many the target has; 0: not known. Commands in others are refused.
        lacking: more databases that it does not have.
        own: prefix of names that are ours alone, in every database; b"": there are none.
        stops: a piece ends before a refused command where it can, so that what is before it can be applied alone.
        mixed: offsets that pieces of a splitter before told as `Piece.mixed`: these commands are refused.
        rules: which keys are taken, by the names and databases of the source; None: all.
        mapping: under which names and in which databases they are written; None: their own.
        blocked: databases of the source that may not be written, for the mapping puts another one there.
        owes: the caller copies keys from the source whose values the target does not have (`portd.kernel.settling`); otherwise commands
            that make such keys are refused.
        owed: keys that are owed behind *offset*, as `Piece.owed` told.
        border: stops it at slots that are not those of *rules* alone; None: others have none of them.
        parted: the target is a cluster: of a command over several slots that cannot be cut the keys that it writes are owed.
        copied_since: copies of keys from before this offset are no good.
    """

    def __new__(
        cls,
        offset: int,
        db: int,
        *,
        piece_bytes: int = ...,
        max_argument: int = ...,
        pxat: bool = ...,
        entries_read: bool = ...,
        unlink: bool = ...,
        commands: CommandTable | None = ...,
        databases: int = ...,
        lacking: frozenset[int] = ...,
        own: bytes = ...,
        stops: bool = ...,
        mixed: frozenset[int] = ...,
        rules: Rules | None = ...,
        mapping: Mapping | None = ...,
        blocked: frozenset[int] = ...,
        owes: bool = ...,
        owed: str = ...,
        border: Border | None = ...,
        parted: bool = ...,
        copied_since: int = ...,
    ) -> Self: ...
    def feed(self, data: Buffer, now_ms: int) -> int:
        """Copies bytes into the window; returns how many fitted (0 when ``next_piece`` must run first).

        Args:
            data: bytes of the stream.
            now_ms: unix time in ms at which they were received; relative expiries of old sources count from it. A
                command takes the time of the feed that brought its first byte.
        """
    def next_piece(self, max_bytes: int, max_commands: int) -> Piece | None:
        """The next piece; None when more bytes are needed.

        A piece goes up to the first command boundary at or after *max_bytes* (or ``piece_bytes``) or *max_commands*, or
        the 32nd different script. It
        does not end inside of a transaction when it can end before its MULTI, and it takes an EXEC that is next. A
        large command gets pieces of its own, of up to ``piece_bytes`` each.

        Raises:
            DecodeError: the stream is not RESP, or a limit was passed; ``offset`` says where. All commands before it
                were handed out, of a large command perhaps the first parts. The splitter cannot go on.
        """
    def postpone(self, horizon_ms: int, shift_ms: int) -> None:
        """From now on, expiry times before unix time *horizon_ms* go on *shift_ms* later; a shift of 0 ends it.

        With a shift, PEXPIREAT also loses its conditions: a source sends it only when they were met, and GT would not be
        met by an expiry that was postponed. Not postponed are times of hash fields, and an absolute one of a RESTORE or
        MSETEX larger than a piece.
        """
    def exclude(self, offset: int) -> None:
        """Drops the command that begins at *offset* when it comes by: it was refused for good.

        What has passed already is not remembered. A SELECT cannot be left out: that is a DecodeError when it comes by.
        """
    @property
    def offset(self) -> int:
        """Replication offset of the last byte consumed; beyond the last piece by a MULTI at most."""
    @property
    def db(self) -> int: ...
    @property
    def in_transaction(self) -> bool: ...
    def statistics(self) -> dict[str, int]:
        """Counters and owned bytes.

        Keys: ``window_used`` ``window_capacity`` ``output_capacity`` ``owned_bytes`` (all that is allocated);
        ``commands`` (of the source, MULTI and EXEC not counted; = passed on + filtered + excluded + refused), ``filtered``
        ``excluded`` ``refused`` ``own`` ``transactions`` ``postponed`` ``lost`` ``unrecorded``; ``relative_kept`` (expiries that could not be made absolute: the key of a large
        command is larger than a piece and the target is older than PXAT, or it is a RESTORE).
        """

DEFAULT_PIECE_BYTES: Final[int]
DEFAULT_MAX_ARGUMENT: Final[int]
