"""Clusters that only pretend: as many primaries as are wanted, all in one other process, for what depends on their number.

``python -m tests.pretend`` runs a source and a target (`Pretended` does that for tests). The source tells a map, sends each shard's
snapshot of small strings, and a stream of ``SET`` that is let go by and by. The target keeps portd's own keys, so that what is
written is read again, and counts everything else. Nothing moves, nothing fails, and transactions watch nothing: what must be
right is tried on real servers.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import hiredis

from tests.servers import Server, default_binary
from tests.wire import pack

if TYPE_CHECKING:
    from tests.servers import Binary

BLOCK: Final = 512  # commands that the stream of a shard repeats: it is let go in whole ones
READ_AT_ONCE: Final = 64 * 1024


def commands_of(binary: Binary | None = None) -> bytes:
    """What a real server answers to COMMAND, as it comes over the wire."""
    with Server(binary or default_binary()) as server, socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(server.path))
        asked.sendall(pack("COMMAND"))
        reader, found = hiredis.Reader(), b""
        while reader.gets() is False:
            reader.feed(data := asked.recv(READ_AT_ONCE))
            found += data
        return found


class Pretended:
    """Both clusters in a process of their own; a context manager.

    Args:
        sources: primaries of the source.
        targets: primaries of the target.
        keys: of the source, over all shards.
        commands: see `commands_of`.
    """

    def __init__(self, sources: int, targets: int, keys: int, commands: bytes) -> None:
        self._sources = sources
        self._directory = tempfile.TemporaryDirectory(prefix="portd-test-")
        self._path = Path(self._directory.name) / "orders"
        self._words = [sys.executable, "-m", "tests.pretend", *map(str, (sources, targets, keys, self._path))]
        self._commands = commands
        self.keys = keys // sources * sources

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(self._commands)
        self._process.stdin.close()
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{self._words} did not start")
        return self

    def __exit__(self, *exc: object) -> None:
        with self._process:  # which closes its pipes
            self._process.kill()
        self._directory.cleanup()

    def order(self, *words: object) -> dict[str, Any]:
        """``GO commands`` lets each shard of the source send so many commands in all, ``TELL`` nothing; what there is then."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self._path))
            asked.sendall(" ".join(map(str, words)).encode())
            with asked.makefile() as answer:
                told: dict[str, Any] = json.loads(answer.readline())
                return told

    def urls(self) -> tuple[str, str]:
        """Of source and target."""
        told = self.order("TELL")
        source, target = (
            ",".join(f"127.0.0.1:{port}" for port in told[name]["ports"]) for name in ("source", "target")
        )
        return f"redis+cluster://{source}", f"redis+cluster://{target}"
