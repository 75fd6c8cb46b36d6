"""A source's data as plain element commands in a file: what `redis-cli --pipe` is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.kernel.snapshot import Dialect, SnapshotDecoder
from tests.wire import pack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

READ_BYTES = 1 << 20


def write_element_commands(source: Server, path: Path, elements: int = 512) -> None:
    """Saves the source and turns its RDB file into SET, HSET, RPUSH, ... of at most so many *elements* each."""
    client = source.client(socket_timeout=600.0)
    client.save()
    rdb = source.directory / "dump.rdb"
    old = Dialect(
        valkey=False,
        rdb_version=0,  # RESTORE of nothing: every value becomes commands
        footer=0,
        server_version=(7, 0),
        mset=False,
        modules=frozenset(),
        commands=frozenset({"unlink", "function", "hpexpireat"}),
        maxmemory_policy="",
    )
    decoder = SnapshotDecoder(old, command_elements=elements)
    with rdb.open("rb") as file, path.open("wb") as out:
        db = 0
        data = memoryview(b"")
        while not decoder.ended:
            while (batch := decoder.next_batch()) is not None:
                if batch.db != db:
                    db = batch.db
                    out.write(pack("SELECT", db))
                out.write(batch.data)
            data = data[decoder.feed(data) :] or memoryview(file.read(READ_BYTES))
