"""The naive way, as a reference: a loader that handles a snapshot key by key, as the tools of the incident's age did.

``python -m tests.benchmarks.memory.naive SOURCE_PORT TARGET_PORT``: asks the source for a snapshot, collects each value
in a buffer that doubles when it is full, makes a RESTORE payload of it and sends that. Knows strings and plain hashes.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, cast

from portd.kernel.crc64 import crc64

if TYPE_CHECKING:
    from typing import IO

READ_BYTES = 1 << 20
PIPELINE = 200  # RESTORE commands sent before their replies are read
STRING, HASH = 0, 4  # rdb.h
AUX, RESIZEDB, SELECTDB, EOF = 0xFA, 0xFB, 0xFE, 0xFF


class DoublingBuffer:
    """Grows by doubling, as bytes.Buffer and its kin do: while it grows, old and new exist side by side."""

    def __init__(self) -> None:
        self._data = bytearray(64)
        self._used = 0

    def append(self, part: bytes) -> None:
        """Adds bytes."""
        end = self._used + len(part)
        if end > len(self._data):
            size = len(self._data)
            while size < end:
                size *= 2
            grown = bytearray(size)
            grown[: self._used] = self._data[: self._used]
            self._data = grown
        self._data[self._used : end] = part
        self._used = end

    def value(self) -> bytes:
        """A copy of what was added."""
        return bytes(memoryview(self._data)[: self._used])


class Loader:
    """Reads one snapshot and restores its keys.

    Args:
        snapshot: positioned at the magic.
        target: connected.
    """

    def __init__(self, snapshot: IO[bytes], target: socket.socket) -> None:
        self._snapshot = snapshot
        self._target = target
        self._replies = target.makefile("rb")
        self._waiting = 0
        self._tee: DoublingBuffer | None = None

    def run(self) -> int:
        """Restores all keys; returns how many."""
        self._version = int(self._read(9)[-4:])
        keys = 0
        while (kind := self._read(1)[0]) != EOF:
            if kind == AUX:
                self._string()
                self._string()
            elif kind == RESIZEDB:
                self._length()
                self._length()
            elif kind == SELECTDB:
                self._length()
            else:
                self._restore(kind)
                keys += 1
        while self._waiting:
            self._reply()
        return keys

    def _restore(self, kind: int) -> None:
        key = self._string()
        self._tee = DoublingBuffer()
        self._tee.append(bytes([kind]))
        count = 1
        if kind == HASH:
            count = 2 * self._length()[0]
        elif kind != STRING:
            raise SystemExit(f"the reference does not know type {kind}")
        for _ in range(count):
            self._string()
        payload = self._tee.value() + self._version.to_bytes(2, "little")
        self._tee = None
        payload += crc64(payload).to_bytes(8, "little")
        words = (b"RESTORE", key, b"0", payload, b"REPLACE")
        command = b"*5\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        self._target.sendall(command)
        self._waiting += 1
        if self._waiting == PIPELINE:
            while self._waiting:
                self._reply()

    def _reply(self) -> None:
        line = self._replies.readline()
        if line != b"+OK\r\n":
            raise SystemExit(f"the target answered {line[:100]!r}")
        self._waiting -= 1

    def _read(self, size: int) -> bytes:
        data = self._snapshot.read(size)
        if len(data) != size:
            raise SystemExit("the snapshot was cut")
        if self._tee is not None:
            self._tee.append(data)
        return data

    def _length(self) -> tuple[int, bool]:
        """A length, or with True the number of a special encoding; rdb.c:rdbLoadLen."""
        first = self._read(1)[0]
        kind = first >> 6
        if kind == 0:
            return first, False
        if kind == 1:
            return (first & 0x3F) << 8 | self._read(1)[0], False
        if kind == 2:
            return int.from_bytes(self._read(8 if first == 0x81 else 4), "big"), False
        return first & 0x3F, True

    def _string(self) -> bytes:
        """A string as it is written; the value of a compressed one is of no interest here."""
        size, special = self._length()
        if not special:
            return self._read(size)
        if size < 3:
            return b"%d" % int.from_bytes(self._read(1 << size), "little", signed=True)
        packed, _ = self._length()
        self._length()
        return self._read(packed)


def main() -> None:
    """Copies from one port to another on loopback."""
    source_port, target_port = map(int, sys.argv[1:])
    source = socket.create_connection(("127.0.0.1", source_port))
    snapshot = cast("IO[bytes]", source.makefile("rb", READ_BYTES))
    source.sendall(b"REPLCONF capa eof\r\n")
    snapshot.readline()
    source.sendall(b"PSYNC ? -1\r\n")
    while not (line := snapshot.readline()).startswith(b"$"):
        if line.startswith(b"-"):
            raise SystemExit(line.decode())
    with socket.create_connection(("127.0.0.1", target_port)) as target:
        print(Loader(snapshot, target).run(), "keys")


if __name__ == "__main__":
    main()
