"""The primaries of a source that pretends: snapshots of small strings, and a stream of ``SET`` that is let go by and by."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.kernel.crc64 import crc64
from portd.kernel.slots import slot_tag
from tests.pretend import BLOCK
from tests.pretend.nodes import OK, Answering
from tests.wire import pack

if TYPE_CHECKING:
    from tests.pretend.nodes import Half

VALUE: Final = b"x" * 32
SENT_AT_ONCE: Final = 64 * 1024


class Shard:
    """What one primary of the source has: the same keys in its snapshot and over and over in its stream.

    Args:
        slots: of the shard.
        keys: of the snapshot.
    """

    def __init__(self, slots: tuple[int, int], keys: int) -> None:
        first, last = slots
        tags = [slot_tag(slot).encode() for slot in range(first, last + 1)]
        self.names = [b"{%b}:%d" % (tags[number % len(tags)], number) for number in range(max(keys, BLOCK))]
        self.keys = keys
        self.block = b"".join(pack("SET", name, VALUE) for name in self.names[:BLOCK])

    def snapshot(self) -> bytes:
        """As a server sends it."""
        body = [b"REDIS0011", b"\xfe\x00\xfb", _length(self.keys), b"\x00"]
        body += [
            b"\x00%b%b%b%b" % (_length(len(name)), name, _length(len(VALUE)), VALUE) for name in self.names[: self.keys]
        ]
        data = b"".join(body) + b"\xff"
        return data + crc64(data).to_bytes(8, "little")

    def stream(self, offset: int, limit: int) -> bytes:
        """Bytes behind an offset, some of them, up to so many commands from the beginning."""
        at = offset % len(self.block)
        return self.block[at : at + min(SENT_AT_ONCE, self.size(limit) - offset)]

    def size(self, commands: int) -> int:
        """Of so many commands, which are whole blocks."""
        return commands // BLOCK * len(self.block)


def _length(number: int) -> bytes:
    """As RDB has it."""
    return bytes([number]) if number < 64 else b"\x80" + number.to_bytes(4, "big")


class Sending(Answering):
    """A connection to a primary of the source."""

    shards: list[Shard]
    limit = 0  # commands of each shard that are let go
    going: set[Sending]

    def __init__(self, half: Half, number: int) -> None:
        super().__init__(half, number)
        self._offset: int | None = None  # of a replica: what was sent
        self._paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        super().connection_lost(exc)
        self.going.discard(self)

    def pause_writing(self) -> None:
        """The other end is slow."""
        self._paused = True

    def resume_writing(self) -> None:
        """It is not."""
        self._paused = False
        self.go()

    def go(self) -> None:
        """Sends of the stream what may go."""
        shard = self.shards[self.number]
        while self._offset is not None and not self._paused and self.open:
            data = shard.stream(self._offset, self.limit)
            if not data:
                return
            self._offset += len(data)
            self.transport.write(data)

    def do_info(self, _: list[bytes]) -> bytes:
        """INFO."""
        shard = self.shards[self.number]
        return self.half.about(
            self.number, master_repl_offset=shard.size(self.limit), db0=f"keys={shard.keys},expires=0,avg_ttl=0"
        )

    def do_replconf(self, words: list[bytes]) -> bytes:
        """REPLCONF: to an ACK there is no answer."""
        return b"" if words[1].upper() == b"ACK" else OK

    def do_psync(self, words: list[bytes]) -> bytes:
        """PSYNC: the snapshot at offset 0, or what is behind an offset."""
        ours = self.half.ids[self.number].encode()
        self.going.add(self)
        asyncio.get_running_loop().call_soon(self.go)
        if words[1] == ours:
            self._offset = int(words[2]) - 1
            return b"+CONTINUE %b\r\n" % ours
        self._offset = 0
        data = self.shards[self.number].snapshot()
        return b"+FULLRESYNC %b 0\r\n$%d\r\n%b" % (ours, len(data), data)
