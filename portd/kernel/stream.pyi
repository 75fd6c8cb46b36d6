"""The stream splitter: replication stream bytes in, pieces of raw commands out. No I/O, no asyncio."""

from typing_extensions import Buffer
from typing import final

@final
class Piece:
    """Raw commands of the stream, as they go between our MULTI and the checkpoint.

    Attributes:
        data: RESP bytes; the source's MULTI, EXEC, PING and REPLCONF are left out, SELECT stays in.
        replies: commands that end in ``data`` (each answers +QUEUED and one element of EXEC).
        offsets: packed native u64 per command that ends in ``data``: its first byte's replication offset.
        end_offset: replication offset of the last byte consumed for this piece, dropped commands included.
        db: database in effect after the piece.
        boundary: the piece ends where a checkpoint may stand (outside a source transaction, no command cut).
        part: the last command continues in the next piece (only when it is larger than the piece size).
        filtered: commands dropped on purpose (PING, REPLCONF, PUBLISH of sentinel hello ...).
        swaps: a SWAPDB is inside; the applier must keep its checkpoint safe.
        getack: REPLCONF GETACK was among the dropped commands: the source wants an ACK now.
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
    def boundary(self) -> bool: ...
    @property
    def part(self) -> bool: ...
    @property
    def filtered(self) -> int: ...
    @property
    def swaps(self) -> bool: ...
    @property
    def getack(self) -> bool: ...

@final
class StreamSplitter:
    """Splits the stream into pieces with exact offsets.

    Args:
        offset: replication offset of the last byte before the first one that will be fed.
        db: database in effect there (-1 when none is known: the first command must be a SELECT).
        piece_bytes: a piece is cut at the first command boundary at or after this many bytes; a command larger than
            this is passed on in parts.
        max_argument: largest argument believed, in bytes; more is a LimitExceeded.
    """

    def __init__(self, offset: int, db: int, *, piece_bytes: int = ..., max_argument: int = ...) -> None: ...
    def feed(self, data: Buffer, now_ms: int) -> int:
        """Copies bytes into the window; returns how many fitted.

        Args:
            data: bytes of the stream.
            now_ms: unix time in ms at which they were received; relative expiries of old sources count from it.
        """
    def next_piece(self, max_bytes: int, max_commands: int) -> Piece | None:
        """The next piece of at most about *max_bytes* and *max_commands*; None when more bytes are needed.

        Raises:
            DecodeError: the stream is not RESP, or a limit was passed; ``offset`` says where.
        """
    def exclude(self, offset: int) -> None:
        """Drops the command that begins at *offset* when it comes by: it was refused for good."""
    @property
    def offset(self) -> int:
        """Replication offset of the last byte consumed."""
    @property
    def db(self) -> int: ...
    @property
    def in_transaction(self) -> bool: ...
    def statistics(self) -> dict[str, int]: ...
