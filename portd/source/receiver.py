"""The receiver: connects to the source, shakes hands, receives into the spool and acknowledges every second.

ACKs come from a timer of the event loop and depend on nothing else in the process: the source drops a replica that
stays silent for its repl-timeout, and after a diskless snapshot it sends nothing before it has seen one
(`replication.c:replconfCommand`). Reconnecting is the owner's: `Receiver.connect` can be called again after a loss.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from portd.config.choices import ReadFrom
from portd.errors import InternalError, SourceBusy, SourceError
from portd.log import get_logger
from portd.model import Position
from portd.net.endpoint import tls_failure
from portd.net.resp import request
from portd.source.connection import Connection
from portd.source.handshake import RDB_ONLY, Handshake, HandshakeOptions, State, Transfer
from portd.source.losses import Reason, ReceiverLost, connect_error, tls_error
from portd.source.replicas import Replicas
from portd.troubles import SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.model import Progress
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Node
    from portd.spool import Spool

__all__ = ["Receiver", "ReceiverOptions", "Transfer"]

_log = get_logger("source")

STALL_SECONDS = 3.0  # a timer this late means that we slept, not the source


@dataclass(frozen=True, slots=True)
class ReceiverOptions:
    """How a receiver behaves, beside what its endpoint says.

    Attributes:
        ack_seconds: between two ACKs.
        handshake: what is asked of the source.
        read_from: which node of a cluster's shard.
        acknowledges: ACKs say what was received; otherwise they only show that somebody is there, and `WAIT` does not count us.
    """

    ack_seconds: float = 1.0
    handshake: HandshakeOptions = field(default_factory=HandshakeOptions)
    acknowledges: bool = True
    read_from: ReadFrom = ReadFrom.PRIMARY


class Receiver:
    """One receiver, over any number of connections one after the other. `connect`, then `run`; both again after a loss.

    Between the two nothing is written to the spool: that is the moment for `Spool.reset` when the transfer is full.

    Args:
        endpoint: the source. Its `connect_seconds` is the longest wait for connection, TLS and the replies up to PSYNC; time
            during which the spool is full does not count for its `silence_seconds`.
        spool: receives the snapshot (with its end mark) and the stream.
        progress: `source` is kept up to date, and `preparing` while the source makes its snapshot; `snapshot.bytes_read`, `bytes_total` and
            `stream.read_offset` too.
        options: timeouts and the like.

    Attributes:
        endpoint: the source.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        spool: Spool,
        progress: Progress,
        *,
        options: ReceiverOptions | None = None,
    ) -> None:
        self.accepted: frozenset[str] = frozenset()  # handshake requests that the source took, of the last connection
        self.endpoint = endpoint
        self._spool = spool
        self._progress = progress
        self._options = options or ReceiverOptions()
        self._replicas = Replicas.of(endpoint, self._options.read_from)
        self._connection: Connection | None = None
        self._transfer: Transfer | None = None
        self._running = False
        self._begin_index = 0  # spool index of the first byte of this transfer
        self._stream_index: int | None = None  # and of the first byte of the stream
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._deadline: asyncio.Timeout | None = None

    # ------------------------------------------------------------ connecting

    async def connect(self, position: Position | None = None) -> Transfer:
        """Connects and agrees on a transfer; for a full sync it also waits until the source has its snapshot ready.

        Args:
            position: continue behind it; None asks for a full sync. The source may decide for a full sync anyway.

        Raises:
            ReceiverLost: no connection, or it ended (a `SourceLost`; retriable, its `reason` is counted).
            SourceBusy: the source cannot serve us now; retriable.
            HandshakeError: it refuses for good: credentials, permissions, TLS, no Redis.
        """
        if self._connection is not None:
            raise InternalError("the receiver is connected already")
        try:
            transfer = await self._connect(position)
        except BaseException as error:
            self.close()
            if isinstance(error, SourceError):
                self._count(error)
                self._shun()
            if isinstance(error, SourceBusy):
                self._progress.troubles.note(SOURCE, error.code, str(error.args[0]))
            raise
        self._transfer = transfer
        self._begin_index = self._spool.written
        self._stream_index = None if transfer.full else self._begin_index
        if not transfer.announced:
            _log.warning(
                "source takes psync_command for SYNC, every lost connection will cost a full sync",
                psync_command=self._options.handshake.psync_command,
                hint="rename-command on the source causes this: undo it, and restrict PSYNC by ACL instead",
            )
        if transfer.full:
            self._progress.snapshot.bytes_total = transfer.length
            self._progress.snapshot.bytes_read = 0
        self._progress.stream.read_offset = transfer.position.offset
        self._progress.source.connects += 1
        self.acknowledge_now()
        return transfer

    async def _connect(self, position: Position | None) -> Transfer:
        endpoint = self.endpoint
        handshake = Handshake(endpoint.auth_command(), position, self._options.handshake)
        where = endpoint.display
        connection: Connection | None = None

        def make() -> Connection:
            nonlocal connection
            source = self._progress.source
            connection = Connection(
                handshake, source, where, endpoint.silence_seconds, partial(self._on_handshake, handshake)
            )
            return connection

        try:
            async with asyncio.timeout(endpoint.connect_seconds) as self._deadline:
                try:
                    _, self._connection = await self._open(make, position)
                except OSError as error:
                    raise connect_error(where, error, handshake.end) from error
                self._start_timer()
                transfer = await self._connection.transfer
            if self._replicas is not None:
                await self._replicas.confirm()
                self._progress.read_from = self._replicas.told
                _log.info("source is read", node=self._replicas.told)
        except ReceiverLost as lost:
            if handshake.state is State.PING and tls_failure(why := await endpoint.explained(ConnectionResetError())):
                raise tls_error(where, why) from lost
            raise
        except TimeoutError as error:
            raise ReceiverLost(Reason.TIMEOUT, where, end=handshake.end) from error
        finally:
            self._deadline = None
            if connection is not None and not connection.transfer.cancel() and not connection.transfer.cancelled():
                connection.transfer.exception()  # seen, also when something else is raised
        self.accepted = frozenset(handshake.accepted)
        return transfer

    async def _open(
        self, make: Callable[[], Connection], position: Position | None
    ) -> tuple[asyncio.Transport, Connection]:
        seconds = self.endpoint.connect_seconds
        if self._replicas is None:
            return await self.endpoint.connect(make, timeout=seconds)
        return await self._replicas.connect(make, position, seconds=seconds)

    def place(self) -> Endpoint:
        """The server whose stream is read: the source, or the node of it that was chosen."""
        return (self._replicas and self._replicas.at) or self.endpoint

    def _shun(self) -> None:
        """The node that was to be read is of no use for now; where another one may be, that is tried first."""
        if self._replicas is not None:
            self._replicas.shun()

    def _on_handshake(self, handshake: Handshake, state: State) -> None:
        """From PSYNC on the source may take its time; it shows life with newlines, which `Endpoint.silence_seconds` watches."""
        if state in {State.PSYNC, State.HEADER} and self._deadline is not None:
            self._deadline.reschedule(None)
        transfer = handshake.transfer
        self._progress.preparing = state is State.HEADER or (transfer is not None and transfer.full)
        self._progress.source.connected = state in {State.HEADER, State.DONE}

    # --------------------------------------------------------------- running

    async def run(self) -> None:
        """Receives into the spool until the connection is lost, which it always is in the end.

        Raises:
            ReceiverLost: a `SourceLost` with a `reason`. What was received before stays in the spool; `position` is where to
                continue when the stream has begun.
        """
        connection, transfer = self._connection, self._transfer
        if connection is None or transfer is None:
            raise ReceiverLost(Reason.CLOSED, self.endpoint.display)
        if self._running:
            raise InternalError("the receiver runs already")
        self._running = True
        self._progress.preparing = False
        if transfer.full:
            self._begin_index = self._spool.written
            if transfer.length is not None:
                self._stream_index = self._begin_index + transfer.length
        try:
            connection.receive_into(self._spool, self._on_received)
            reason = await connection.lost
        finally:
            self.close()
        error = ReceiverLost(reason, self.endpoint.display, end=self._options.handshake.end)
        self._count(error)
        if reason is Reason.SILENCE:
            self._shun()
        raise error

    def _on_received(self, count: int) -> None:
        if self._stream_index is None or self._spool.written <= self._stream_index:
            self._progress.snapshot.bytes_read += count
        else:
            self._progress.stream.read_offset = self.ack_offset

    def stream_begins(self, index: int, position: Position | None = None) -> None:
        """The snapshot is decoded: the stream's first byte has this spool index. Tells the source that we are ready.

        Also after a loss: if the snapshot had come whole, `position` says where to continue. After a partial resync the
        place is known, and only the ACK is sent.

        Args:
            index: spool index.
            position: from the snapshot's AUX fields; needed when `Transfer.announced` is false.

        Raises:
            SourceError: the source announced another length.
            InternalError: there was no transfer, or *index* lies outside of it.
        """
        transfer = self._transfer
        if transfer is not None and not transfer.full:
            self.acknowledge_now()
            return
        if transfer is None or not self._begin_index <= index <= self._spool.written:
            raise InternalError(f"the stream cannot begin at spool index {index}")
        length = index - self._begin_index - len(transfer.mark or b"")
        if transfer.length not in {None, length}:
            raise SourceError(
                f"the source announced a snapshot of {transfer.length} bytes, but it ended after {length}",
                hint="start again; should it happen again, the source or a proxy in between is broken",
            )
        if position is not None and not transfer.announced:
            self._transfer = replace(transfer, position=position)
        self._stream_index = index
        self._progress.snapshot.bytes_read = length
        self._progress.stream.read_offset = self.ack_offset
        self.acknowledge_now()

    def acknowledge_now(self) -> None:
        """Sends an ACK out of turn, as when the source asked for one (`REPLCONF GETACK`).

        None goes to a source that sends a snapshot alone. It closes the connection itself, and a close with bytes of ours
        unread would throw away what its kernel has not sent yet: the snapshot's end.
        """
        if RDB_ONLY in self.accepted:
            return
        if self._connection is not None and self._transfer is not None:
            offset = self.ack_offset if self._options.acknowledges else 0
            self._connection.send(request("REPLCONF", "ACK", str(offset)))

    @property
    def ack_offset(self) -> int:
        """Replication offset of the last stream byte received; of the snapshot while that is being transferred."""
        if self._transfer is None:
            return 0
        received = 0 if self._stream_index is None else max(0, self._spool.written - self._stream_index)
        return self._transfer.position.offset + received

    @property
    def position(self) -> Position | None:
        """Where a new connection continues so that its bytes follow those in the spool.

        None before the first transfer, and while the snapshot is not known to be in the spool to its end. Stays valid
        after a loss until `Spool.reset`.
        """
        transfer = self._transfer
        if transfer is None or self._stream_index is None or self._spool.written < self._stream_index:
            return None
        return Position(transfer.position.replid, self.ack_offset) if transfer.announced else None

    @property
    def connected(self) -> bool:
        """There is a connection."""
        return self._connection is not None

    def leave_others(self, node: Node) -> None:
        """Ends a connection that runs and leads to another node, as a loss: it is made again.

        Replicas of that node are not others where they may be read. One whose other end has a name is ended, too.
        """
        connection = self._connection
        places = [(node.host, node.port), *(node.replicas if self._replicas is not None else ())]
        if connection is not None and self._running and connection.peer not in places:
            _log.info("source has another address", host=node.host, port=node.port)
            connection.end(Reason.CLOSED)

    def close(self) -> None:
        """Ends the connection and the timer; idempotent, and `connect` may be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection is not None:
            self._connection.end(Reason.CLOSED)
            self._connection = None
        self._running = False
        self._progress.preparing = False
        self._progress.source.connected = False

    # ----------------------------------------------------------------- timer

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer_due = loop.time() + self._options.ack_seconds
        self._timer = loop.call_at(self._timer_due, self._on_timer)

    def _on_timer(self) -> None:
        connection = self._connection
        if connection is None:
            return
        late = asyncio.get_running_loop().time() - self._timer_due
        if late > STALL_SECONDS:
            connection.heard_at += late  # bytes that came meanwhile were not looked at yet
        self._start_timer()
        if connection.silent_seconds > self.endpoint.silence_seconds:
            connection.end(Reason.SILENCE)
        else:
            self.acknowledge_now()

    def _count(self, error: SourceError) -> None:
        if isinstance(error, ReceiverLost):
            reason = error.reason
        else:
            reason = Reason.BUSY if isinstance(error, SourceBusy) else Reason.HANDSHAKE
        if reason is not Reason.CLOSED:
            self._progress.source.losses[reason.value] += 1
