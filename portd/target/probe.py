"""Finds out what a target is and can do, without leaving anything behind.

Permissions are found by queueing commands in a transaction that is never executed: the server checks them when they
are queued. The accepted RESTORE footer is found by restoring a byte whose expiry has passed, which creates nothing.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from portd.kernel.crc64 import crc64
from portd.kernel.slots import slot_tag
from portd.model import ConnectionState
from portd.net.commands import key_specs, writes
from portd.net.control import checked, keys_by_database, parse_info, parse_pairs
from portd.net.identity import ServerIdentity
from portd.net.replies import code_of
from portd.net.resp import request
from portd.net.shapes import whole
from portd.target.capabilities import NEEDED_COMMANDS, USEFUL_COMMANDS, Capabilities
from portd.target.connection import ConnectionOptions, connect, text_of
from portd.target.control import control
from portd.target.databases import count_databases

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from portd.net.control import Control
    from portd.net.endpoint import Endpoint
    from portd.target.connection import Connection

DEFAULT_BULK_BYTES: Final = 512 * 1024 * 1024  # proto-max-bulk-len of a server that was not told otherwise
REDIS_FOOTERS: Final = (15, 14, 13, 12, 11, 10, 9, 8, 7, 6)
VALKEY_FOOTERS: Final = (80, 11, 10, 9)
_SECTIONS: Final = ("server", "replication", "memory", "cluster", "keyspace", "modules")
_LIMITS: Final = ("maxmemory", "maxmemory-policy", "proto-max-bulk-len", "io-threads")

# Arguments with which a command can be queued; KEY stands for a name that does not exist.
_KEY: Final = "KEY"
_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "info": (),
    "select": ("0",),
    "hset": (_KEY, "f", "v"),
    "hget": (_KEY, "f"),
    "hgetall": (_KEY,),
    "del": (_KEY,),
    "exists": (_KEY,),
    "set": (_KEY, "v"),
    "mset": (_KEY, "v"),
    "setrange": (_KEY, "0", "v"),
    "rpush": (_KEY, "v"),
    "llen": (_KEY,),
    "sadd": (_KEY, "v"),
    "zadd": (_KEY, "0", "v"),
    "pexpireat": (_KEY, "1"),
    "pexpire": (_KEY, "1"),
    "unlink": (_KEY,),
    "restore": (_KEY, "0", "v"),
    "xadd": (_KEY, "1-1", "f", "v"),
    "xsetid": (_KEY, "1-1"),
    "xgroup": ("CREATE", _KEY, "g", "0"),
    "xclaim": (_KEY, "g", "c", "0", "1-1"),
    "function": ("LOAD", "REPLACE", "v"),
    "hpexpireat": (_KEY, "1", "FIELDS", "1", "f"),
    "hsetex": (_KEY, "FIELDS", "1", "f", "v"),
    "eval": ("return 1", "1", _KEY),
    "scan": ("0",),
    "config": ("GET", "maxmemory"),
    "command": (),
    "watch": (_KEY,),
    "script": ("LOAD", "return 1"),
    "script|flush": (),
    "armset": (_KEY, "0", "v"),
    "client|list": (),
    "client|kill": ("ID", "1"),
    "client|setname": ("portd-probe",),
    "client|id": (),
}


async def probe(endpoint: Endpoint, options: ConnectionOptions | None = None) -> Capabilities:
    """Probes a target and makes sure that a sync into it can work.

    Raises:
        TargetLost: it cannot be reached; retriable.
        TargetBusy: it is loading, or busy; retriable.
        ConfigError: it is a cluster node that was not named as one, a read-only replica, or too old.
        TargetRefused: it refuses the credentials, or our user may not do what a sync does.
    """
    capabilities = await inspect(endpoint, options)
    capabilities.require_usable(cluster=endpoint.seeds is not None)
    return capabilities


async def inspect(endpoint: Endpoint, options: ConnectionOptions | None = None) -> Capabilities:
    """Probes a target, whatever it is.

    Raises:
        TargetLost: it cannot be reached; retriable.
        TargetBusy: it is loading, or busy; retriable.
        TargetError: it refuses to tell anything.
    """
    async with control(endpoint, "probing the target") as client:
        info, limits, flags, specs = await _told(client)
    options = options or ConnectionOptions()
    connection = await connect(endpoint, "probe", ConnectionState(), options)
    try:
        place = f"{{{slot_tag(endpoint.slot)}}}" if endpoint.seeds is not None else ""  # of a cluster, this node has it
        key = f"portd:probe:{place}{secrets.token_hex(8)}"
        has, forbidden = await _permissions(connection, key)
    finally:
        connection.close()  # with its transaction, which is thereby discarded
    identity = ServerIdentity.of(info)
    family, version = identity.family or "redis", identity.version
    commands = ({name.decode("utf-8", "replace") for name in flags} | has) - forbidden
    connection = await connect(endpoint, "probe", ConnectionState(), options)
    try:
        accepted = await _footer(connection, key, family) if "restore" in commands else 0
        databases = await count_databases(connection)
    finally:
        connection.close()
    return Capabilities(
        family=family,
        version=version,
        run_id=identity.run_id,
        role=identity.role,
        read_only=identity.role == "slave" and info.get("slave_read_only", "1") != "0",
        cluster_enabled=bool(identity.cluster),
        rdb_version=accepted or identity.rdb_version,
        footer=accepted or identity.rdb_version,
        footer_probed=bool(accepted),
        commands=frozenset(commands),
        forbidden=frozenset(forbidden),
        modules=frozenset(identity.modules),
        maxmemory=_number(info | limits, "maxmemory", -1),
        maxmemory_policy=limits.get("maxmemory-policy", info.get("maxmemory_policy", "")),
        used_memory=_number(info, "used_memory", 0),
        proto_max_bulk_bytes=_number(limits, "proto-max-bulk-len", DEFAULT_BULK_BYTES),
        io_threads=max(1, _number(limits, "io-threads", 1)),
        keys=keys_by_database(info),
        databases=databases,
        flags=flags,
        key_specs=specs,
    )


def _number(values: Mapping[str, str], name: str, default: int) -> int:
    """A number that the target tells, the default where it does not."""
    text = values.get(name, "")
    number = whole(text)
    return default if number is None else number


async def _told(client: Control) -> tuple[dict[str, str], dict[str, str], dict[bytes, bool], dict[bytes, str]]:
    """What the target says of itself, its settings that bound what we may send, which commands write, and where their keys are.

    Settings are empty where CONFIG is forbidden or renamed, commands where COMMAND is.
    """
    questions = [request("INFO", section) for section in _SECTIONS]
    questions += [request("CONFIG", "GET", name) for name in _LIMITS]
    *answers, commands = await client.ask(*questions, request("COMMAND"))
    info: dict[str, str] = {}
    for answer in answers[: len(_SECTIONS)]:
        info |= parse_info(checked(answer))
    limits: dict[str, str] = {}
    for answer in answers[len(_SECTIONS) :]:
        if not text_of(answer):
            limits |= parse_pairs(answer)
    rows: Sequence[Sequence[Any]] = [] if text_of(commands) else commands
    return info, limits, {row[0].lower(): writes(row) for row in rows}, key_specs(rows)


async def _permissions(connection: Connection, key: str) -> tuple[set[str], set[str]]:
    """Of the commands portd may use: those that are there and allowed, and those that are there and forbidden."""
    (opened,) = await connection.ask(request("MULTI"))
    if text_of(opened):  # then nothing below would only be queued
        return set(), {"multi"}
    names = [name for name in {*NEEDED_COMMANDS, *USEFUL_COMMANDS, *_ARGUMENTS} if name in _ARGUMENTS]
    answers = await connection.ask(
        *(request(*name.split("|"), *(key if word == _KEY else word for word in _ARGUMENTS[name])) for name in names)
    )
    allowed = {"multi", "exec"}
    forbidden: set[str] = set()
    for name, answer in zip(names, answers, strict=True):
        text = text_of(answer)
        if text.startswith("ERR unknown command"):
            continue
        # A key that our user may not touch is refused with the same code; the command itself may be allowed.
        (forbidden if code_of(text) == "NOPERM" and "to run" in text else allowed).add(name)
    return allowed, forbidden


async def _footer(connection: Connection, key: str, family: str) -> int:
    """The highest footer that RESTORE accepts, 0 when that cannot be found out."""
    footers = VALKEY_FOOTERS if family == "valkey" else REDIS_FOOTERS
    restores = [request("RESTORE", key, 1, _payload(footer), "ABSTTL") for footer in footers]
    # A Valkey in import mode, where an earlier sync left it, keeps keys whose time has passed.
    answers = (await connection.ask(*restores, request("DEL", key)))[:-1]
    return next((footer for footer, answer in zip(footers, answers, strict=True) if answer == b"OK"), 0)


def _payload(footer: int) -> bytes:
    """The string "x" as DUMP writes it (cluster.c:createDumpPayload)."""
    body = b"\x00\x01x" + footer.to_bytes(2, "little")
    return body + crc64(body).to_bytes(8, "little")
