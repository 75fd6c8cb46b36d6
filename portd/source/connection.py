"""One connection to the source, as an asyncio protocol: the handshake, then bytes straight into the spool."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, cast

from portd.errors import InternalError, PortdError
from portd.source.handshake import State
from portd.source.losses import Reason, ReceiverLost, early_end, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.model import ConnectionState
    from portd.source.handshake import Handshake, Transfer
    from portd.spool import Spool

HANDSHAKE_BYTES = 4096  # read at once before the spool takes over
UNSENT_LIMIT = 64 * 1024  # bytes the source has not taken from us: more ACKs would only pile up


class Connection(asyncio.BufferedProtocol):
    """Shakes hands, stops reading, and goes on into a spool once it is told to.

    Args:
        handshake: not yet begun.
        state: counters to bump.
        where: the source as shown to the operator.
        silence_seconds: an ACK that the source's kernel leaves unacknowledged for this long ends the connection. It is how
            a dead peer is found while the spool is full and nothing is read: keepalive probes wait behind unsent data.
        on_progress: called whenever the handshake enters a new state.

    Attributes:
        transfer: what the handshake led to, or why it failed.
        lost: the reason, once the connection has ended.
        heard_at: monotonic seconds of the last byte, or of when reading began again.
    """

    def __init__(
        self,
        handshake: Handshake,
        state: ConnectionState,
        where: str,
        silence_seconds: float,
        on_progress: Callable[[State], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.transfer: asyncio.Future[Transfer] = loop.create_future()
        self.lost: asyncio.Future[Reason] = loop.create_future()
        self.heard_at = time.monotonic()
        self._handshake = handshake
        self._state = state
        self._where = where
        self._silence_seconds = silence_seconds
        self._on_progress = on_progress
        self._transport: asyncio.Transport | None = None
        self._buffer: memoryview | None = memoryview(bytearray(HANDSHAKE_BYTES))
        self._spool: Spool | None = None
        self._on_received: Callable[[int], None] | None = None
        self._rest = b""
        self._paused = False  # by ourselves
        self._reason: Reason | None = None  # why we ended it

    # --------------------------------------------------------- asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins the handshake."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            self._state.local = _address(transport.get_extra_info("sockname"))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._silence_seconds * 1000))
        self.send(self._handshake.begin())

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        if self._spool is not None:
            return self._spool.get_buffer(sizehint)
        assert self._buffer is not None, "read while paused between handshake and spool"
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes arrived."""
        state = self._state
        state.bytes_received += nbytes
        state.last_received_at = time.time()
        self.heard_at = time.monotonic()
        if self._spool is not None:
            self._commit(self._spool, nbytes)
        else:
            self._shake_hands(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._transport = None
        self._rest = b""  # it was never in the spool: the source sends it again
        reason = self._reason or reason_of(exc)
        if not self.transfer.done():
            lost = (
                early_end(self._where, exc, agreed=self._handshake.state is State.HEADER, end=self._handshake.end)
                if self._reason is None
                else ReceiverLost(reason, self._where, end=self._handshake.end)
            )
            self.transfer.set_exception(lost)
        if not self.lost.done():
            self.lost.set_result(reason)

    # ------------------------------------------------------------- handshake

    def _shake_hands(self, count: int) -> None:
        assert self._buffer is not None
        if self.transfer.done():
            return
        before = self._handshake.state
        try:
            self.send(self._handshake.feed(self._buffer[:count]))
        except PortdError as error:
            self.transfer.set_exception(error)
            self.end(Reason.HANDSHAKE)
            return
        if self._handshake.transfer is not None:
            self._buffer = None
            self._rest = self._handshake.rest()
            self.pause()
            self.transfer.set_result(self._handshake.transfer)
        if self._handshake.state is not before:
            self._on_progress(self._handshake.state)

    # ------------------------------------------------------------- the spool

    def receive_into(self, spool: Spool, on_received: Callable[[int], None]) -> None:
        """From now on, bytes go into *spool*; those that came with the last line of the handshake go first.

        Args:
            spool: has a writer already, or none.
            on_received: told how many bytes went into it.
        """
        if self._buffer is not None:
            raise InternalError("the spool was attached before the handshake was done")
        self._on_received = on_received
        self._spool = spool
        spool.attach(self.pause, self._resume)
        self._resume()

    def _commit(self, spool: Spool, count: int) -> None:
        spool.commit(count)
        if self._on_received is not None:
            self._on_received(count)

    def pause(self) -> None:
        """Stops reading: the source's socket fills up."""
        self._paused = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume(self) -> None:
        """Reads on, unless the spool is full again after what was kept from the handshake.

        The spool calls this until another connection is attached to it, also when this one has ended.
        """
        spool = self._spool
        assert spool is not None
        if self._transport is None or self._reason is not None:
            return
        self._paused = spool.full
        while self._rest and not self._paused:
            buffer = spool.get_buffer(len(self._rest))
            count = min(len(buffer), len(self._rest))
            buffer[:count] = self._rest[:count]
            self._rest = self._rest[count:]
            self._commit(spool, count)  # may call `pause`
        if not self._paused:
            self.heard_at = time.monotonic()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def silent_seconds(self) -> float:
        """How long nothing has come although we were reading."""
        return 0.0 if self._paused else time.monotonic() - self.heard_at

    # ------------------------------------------------------------------ both

    def send(self, data: bytes) -> None:
        """Sends, unless the connection is gone or the source has not read for so long that it makes no sense."""
        transport = self._transport
        if not data or transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() < UNSENT_LIMIT:
            transport.write(data)
            self._state.bytes_sent += len(data)
            self._state.last_sent_at = time.time()

    @property
    def peer(self) -> tuple[str, int] | None:
        """Address and port of the other end; None where there is none."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return tuple(name[:2]) if isinstance(name, tuple) else None

    def end(self, reason: Reason) -> None:
        """Closes the connection at once; idempotent. Nothing goes into the spool any more."""
        self._rest = b""
        if self._reason is None:
            self._reason = reason
        if self._transport is not None:
            self._transport.abort()


def _address(name: tuple[str, int]) -> str:
    """As the server's CLIENT LIST writes it; anet.c:anetFormatAddr."""
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
