"""Applies the kernel's batches to a real server, one after another over one connection: no lanes, no retries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hiredis

from tests.oracle.apply import split_commands
from tests.oracle.dialects import REDIS_6, REDIS_7_0, VALKEY_8, VALKEY_9, Spec
from tests.oracle.drive import Limits, make_decoder
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.oracle.model import Snapshot
    from tests.servers import Binary, Server


def spec_of(binary: Binary) -> Spec:
    """The kind of target that a server at hand is."""
    if binary.valkey:
        base = VALKEY_9 if binary.version >= (9, 0) else VALKEY_8
    else:
        base = REDIS_7_0 if binary.version >= (7, 0) else REDIS_6
    return base.but(server_version=binary.version[:2])


def apply(data: bytes, server: Server, limits: Limits = Limits()) -> tuple[list[str], set[tuple[int, bytes]]]:  # noqa: B008
    """Decodes a snapshot and executes everything on the server.

    Returns:
        (error replies with the command's name, keys that went by RESTORE).
    """
    decoder = make_decoder(spec_of(server.binary), limits)
    errors: list[str] = []
    restored: set[tuple[int, bytes]] = set()
    view = memoryview(data)
    part = b""
    with Wire(server) as wire:
        while True:
            view = view[decoder.feed(view) :]
            while (batch := decoder.next_batch()) is not None:
                part += batch.data
                if batch.part:
                    continue
                commands = split_commands(part)
                part = b""
                wire.call("SELECT", batch.db)
                replies = wire.many(commands, errors=True)
                for command, reply in zip(commands, replies, strict=True):
                    if isinstance(reply, hiredis.ReplyError):
                        errors.append(f"{command[0].decode()} {reply}")
                    elif command[0] == b"RESTORE":
                        restored.add((batch.db, command[1]))
            if decoder.ended or not view:
                break
    decoder.finish()
    return errors, restored


def saved(server: Server) -> Snapshot:
    """What the server holds, as the oracle reads its own file."""
    from tests.oracle.rdb import decode

    with Wire(server) as wire:
        wire.call("SAVE")
    return decode((server.directory / "dump.rdb").read_bytes())
