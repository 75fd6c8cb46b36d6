"""The checkpoint: how far the target is, kept in the target itself, in the same transaction as the data.

A hash in db 0, ``<prefix><link>``, ``portd:checkpoint:default`` unless set otherwise:

====================  ==============================================================================
``version``           layout of this hash, 2; 3 beside ``owed``; 1 had neither ``strands`` nor ``rules``
``state``             ``snapshot`` while a full sync runs, ``stream`` once it is complete
``replid, offset``    position in the source's history; ``snapshot``: where its stream will begin
``db``                database in effect behind that position, since after ``+CONTINUE`` no SELECT comes
``epoch``             who writes: a random id of the process and a counter
``time_ms``           unix time of the write
``source_run_id``     the source process that was read
``source_replid2``    the history before that one, where the source was promoted
``source_address``    where the source was, without credentials
``snapshot_id``       the full sync this data came from
``sole``              1 when nothing but this link's data was there when its first sync began
``first``             1 beside ``snapshot`` while no full sync of this link has ended
``accepted``          1 beside ``snapshot`` when an operator said that this source is meant (`portd.hold`)
``keys_before``       beside ``snapshot``: keys that the target had before it, without ours; not there where none are removed
``postponed``         1 when expiries may be in the target that were sent later than they are (`portd.target.kept.postponed`)
``strands``           ``one``: this hash is the record of the only strand (docs/design/0006); ``slots``: each slot of a
                      cluster has a record of its own, and the position here is one that none of them is before
``owed``              databases and names (hexadecimal), as the source has them, of keys whose values are still to be copied
                      from there (docs/design/0009); not there where there are none
``slots``             of a shard of a source cluster: the slots that the link takes (``0-99 5461-10922``), with
                      ``blurred`` behind where its snapshot had keys of others, or some were given up with keys; not there
                      for other sources
``rules``             digest of what the data was filtered and mapped by (`portd.config.rules`); empty: it is as in the source
====================  ==============================================================================
"""

from __future__ import annotations

import itertools
import secrets
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from portd.errors import ConfigError, TargetError, TargetNotEmpty
from portd.log import get_logger
from portd.model import Position
from portd.net.control import MOST_DATABASES, Refused, keys_by_database, parse_info, parse_pairs
from portd.net.identity import require_process
from portd.net.replies import WRONG_TYPE, code_of, wrong_type
from portd.net.resp import request
from portd.net.shapes import whole
from portd.target.connection import text_of
from portd.target.control import control
from portd.target.kept.epoch import EPOCH_SUFFIX, check, write_once

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from portd.net.control import Control
    from portd.net.endpoint import Endpoint
    from portd.target.capabilities import Capabilities
    from portd.target.connection import Connection, ConnectionOptions
    from portd.target.kept.epoch import Epoch

_log = get_logger("target")

VERSION: Final = 2
OWING_VERSION: Final = 3  # of one that owes keys: an older portd would forget them
ONE_STRAND: Final = "one"
SLOT_STRANDS: Final = "slots"
DEFAULT_PREFIX: Final = "portd:checkpoint:"
LEASE_SUFFIX: Final = ":lease"  # of the key beside a checkpoint that says which process has the link
CHECKPOINT: Final = "the checkpoint"  # for messages
FLUSHALL: Final = "FLUSHALL"  # the same
MOST_OFFSET: Final = 2**60  # sums with it still fit
MOST_TIME: Final = 2**53  # unix ms, as far as floats count
IMPORTS_SUFFIX: Final = ":imports"  # behind the prefix alone, and no link's name: which links need import mode
IMAGES_SUFFIX: Final = ":images"  # the same: where keys of which link can be
SCAN_COUNT: Final = 1000  # keys the target looks at in one command: well below a millisecond
FEW_KEYS: Final = 64  # a target with more keys than this holds more than checkpoints
BLURRED: Final = " blurred"  # behind slots
_PROCESS: Final = secrets.token_hex(8)
_count = itertools.count(1)


class State(StrEnum):
    """What the data beside a checkpoint is."""

    SNAPSHOT = "snapshot"  # part of a full sync that has not ended: worth nothing by itself
    STREAM = "stream"  # complete up to the position


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """See the table in the module's docstring."""

    position: Position
    db: int = 0
    state: State = State.STREAM
    epoch: str = ""
    time_ms: int = 0
    source_run_id: str = ""
    snapshot_id: str = ""
    sole: bool = False
    postponed: bool = False
    source_replid2: str = ""
    source_address: str = ""
    first: bool = False
    accepted: bool = False
    keys_before: int | None = None
    rules: str = ""
    strands: str = ONE_STRAND
    owed: str = ""
    slots: str = ""

    @property
    def blurred(self) -> bool:
        """The stream does not tell all of slots that come: the snapshot had keys of them, or they were given up."""
        return self.slots.endswith(BLURRED)

    def ruled(self, digest: str, slots: str, *, blurs: bool = False) -> Checkpoint:
        """The same, of data that was made by rules with that digest, of these slots of the source; see `Choice.blurs`."""
        blurred = slots and (blurs or self.blurred)
        return replace(self, rules=digest, slots=slots + BLURRED if blurred else slots, time_ms=0)

    @classmethod
    def begin(
        cls, position: Position, source_run_id: str = "", snapshot_id: str = "", *, sole: bool = False
    ) -> Checkpoint:
        """The marker that a full sync begins, whose stream will begin at *position*."""
        return cls(
            position=position,
            state=State.SNAPSHOT,
            epoch=new_epoch(),
            source_run_id=source_run_id,
            snapshot_id=snapshot_id or secrets.token_hex(8),
            sole=sole,
        )

    @classmethod
    def following(cls, position: Position, db: int, source_run_id: str = "", snapshot_id: str = "") -> Checkpoint:
        """A full sync is applied: the stream goes on at *position* with *db* in effect."""
        return cls(position=position, db=db, epoch=new_epoch(), source_run_id=source_run_id, snapshot_id=snapshot_id)

    def fields(self) -> list[bytes | str | int]:
        """Names and values, alternating; every field but ``keys_before``, ``owed`` and ``slots`` is always written."""
        return [
            *(
                "version",
                OWING_VERSION if self.owed else VERSION,
                "state",
                self.state.value,
                "replid",
                self.position.replid,
            ),
            *("offset", self.position.offset),
            *("db", self.db, "epoch", self.epoch, "time_ms", self.time_ms or int(time.time() * 1000)),
            *("source_run_id", self.source_run_id, "snapshot_id", self.snapshot_id, "sole", int(self.sole)),
            *("postponed", int(self.postponed)),
            *("source_replid2", self.source_replid2, "source_address", self.source_address),
            *("first", int(self.first), "accepted", int(self.accepted), "strands", self.strands, "rules", self.rules),
            *(() if self.keys_before is None else ("keys_before", self.keys_before)),
            *(("owed", self.owed) if self.owed else ()),
            *(("slots", self.slots) if self.slots else ()),
        ]

    def commands(self, key: str) -> list[bytes]:
        """What writes it, as RESP. The DEL makes the HSET work whatever was done to the key before."""
        return [request("DEL", key), request("HSET", key, *self.fields())]

    def render(self, key: str) -> bytes:
        """The same in one piece: two commands."""
        return b"".join(self.commands(key))

    @classmethod
    def parse(cls, reply: Sequence[bytes]) -> Checkpoint | None:
        """Reads the reply to HGETALL; None when there is no checkpoint.

        Raises:
            TargetError: a newer portd wrote it, or somebody else did.
        """
        if not reply:
            return None
        text = parse_pairs(reply)
        try:
            version = _number(text, "version", MOST_TIME)
            if version <= OWING_VERSION:
                _check_known(text)
                return cls(
                    position=Position(text["replid"], _number(text, "offset", MOST_OFFSET)),
                    db=-1 if text["db"] == "-1" else _number(text, "db", MOST_DATABASES),
                    state=State(text["state"]),
                    epoch=text["epoch"],
                    time_ms=_number(text, "time_ms", MOST_TIME),
                    source_run_id=text.get("source_run_id", ""),
                    snapshot_id=text.get("snapshot_id", ""),
                    sole=text.get("sole") == "1",
                    postponed=text.get("postponed") == "1",
                    source_replid2=text.get("source_replid2", ""),
                    source_address=text.get("source_address", ""),
                    first=text.get("first") == "1",
                    accepted=text.get("accepted") == "1",
                    rules=text.get("rules", ""),
                    keys_before=_number(text, "keys_before", MOST_OFFSET) if "keys_before" in text else None,
                    strands=text.get("strands", ONE_STRAND),
                    owed=_owed(text.get("owed", "")),
                    slots=text.get("slots", ""),
                )
        except (KeyError, ValueError):
            raise TargetError(
                "the checkpoint in the target cannot be read: fields are missing, malformed or out of range",
                hint="delete the checkpoint key there (`portd status` names it) to start with a full sync",
            ) from None
        raise TargetError(
            f"the checkpoint in the target has layout {version}, this build knows {OWING_VERSION}",
            hint="use the portd that wrote it, or a newer one",
        )


def _check_known(text: Mapping[str, str]) -> None:
    """What decides how to go on is known.

    Raises:
        TargetError: a newer portd has strands of another kind there.
    """
    if text.get("strands", ONE_STRAND) not in {ONE_STRAND, SLOT_STRANDS}:
        raise TargetError(
            "the checkpoint in the target belongs to a portd that has other strands there",
            hint="use the portd that wrote it, or a newer one",
        )


def _owed(text: str) -> str:
    """Keys, as `Piece.owed` tells them.

    Raises:
        ValueError: it is something else.
    """
    for each in text.split():
        db, _, name = each.partition(":")
        bytes.fromhex(name)
        if whole(db, MOST_DATABASES) is None:
            raise ValueError(each)
    return text


def _number(text: Mapping[str, str], name: str, most: int) -> int:
    """A field that is a number.

    Raises:
        KeyError: it is missing.
        ValueError: it is something else, or out of range.
    """
    number = whole(text[name], most)
    if number is None:
        raise ValueError(name)
    return number


def new_epoch() -> str:
    """Who writes from now on: differs between processes, and between sessions of one process."""
    return f"{_PROCESS}-{next(_count)}"


async def read_checkpoint(endpoint: Endpoint, key: str) -> Checkpoint | None:
    """The checkpoint in the target, None when there is none.

    Raises:
        TargetLost: the target cannot be reached.
        TargetError: it refuses, or the hash is not a checkpoint.
    """
    async with control(endpoint, "reading the checkpoint") as client:
        return await held_checkpoint(client, key)


async def held_checkpoint(client: Control, key: str) -> Checkpoint | None:
    """See `read_checkpoint`, over a connection that is there."""
    try:
        return Checkpoint.parse(await client.call("HGETALL", key))
    except Refused as refusal:
        if code_of(refusal.text) == WRONG_TYPE:
            raise wrong_type(key) from None
        raise


async def write_checkpoint(
    endpoint: Endpoint,
    key: str,
    checkpoint: Checkpoint,
    epoch: Epoch,
    connection: ConnectionOptions,
    *,
    run_id: str = "",
    closes: bool = False,
) -> None:
    """Writes a checkpoint outside of the stream: the marker before a full sync, the position after it.

    Args:
        endpoint: the target.
        key: of the checkpoint.
        checkpoint: what to write.
        epoch: that it is fenced by.
        connection: how the connection is made.
        run_id: the process that must still be there, where it tells its id; "" for any.
        closes: the epoch's tenure ends in the same transaction: nothing that was sent before takes effect behind it.

    Raises:
        Disconnected: the target cannot be reached; it may have been written. Doing it again does no harm.
        TargetLost: it is another process than *run_id*, or lost its data.
        LinkTaken: another portd has taken the link.
        TargetBusy: it refuses for now.
        TargetError: it refuses.
    """

    async def recognise(opened: Connection) -> None:
        (info,) = await opened.ask(request("INFO", "server"))
        require_process(b"" if text_of(info) else info, run_id, "behind the snapshot")

    answers = await write_once(
        endpoint, connection, epoch, *checkpoint.commands(key), what=CHECKPOINT, closes=closes, name="checkpoint",
        look=recognise,
    )  # fmt: skip
    for answer in answers:
        check(answer, CHECKPOINT)


async def guard(
    endpoint: Endpoint,
    capabilities: Capabilities,
    key: str,
    prefix: str = DEFAULT_PREFIX,
    existing: str = "refuse",
    *,
    source_run_id: str = "",
    covers: Callable[[Control], Awaitable[dict[int, int]]] | None = None,
) -> Checkpoint | None:
    """Decides whether a sync into this target may begin; the guard against syncing the wrong way round. Changes nothing.

    Args:
        endpoint: the target.
        capabilities: as probed.
        key: of this link's checkpoint.
        prefix: of all checkpoint keys; such keys are no data.
        existing: what to do about data that is not ours: ``refuse``, ``replace``, ``skip`` or ``flush``.
        source_run_id: the source's process; "" when it does not tell.
        covers: counts the data that the link's rules cover, by database, where it has rules; other data is none of its.

    Returns:
        Our checkpoint, None when there is none.

    Raises:
        ConfigError: source and target are the same server.
        TargetNotEmpty: it holds data, no checkpoint of ours, and *existing* is ``refuse``.
    """
    if source_run_id and source_run_id == capabilities.run_id:
        raise ConfigError(
            f"source and target are the same server ({endpoint.display})", hint="check --source and --target"
        )
    async with control(endpoint, "looking for data in the target") as client:
        checkpoint = await held_checkpoint(client, key)
        if checkpoint is not None or existing != "refuse":
            return checkpoint
        foreign = await foreign_keys(client, prefix, key)
        if foreign and covers is not None:
            foreign = await covers(client)
        if not foreign:
            return None
    evicts = capabilities.evicts_any_key
    held = ", ".join(f"{count} keys in db {db}" for db, count in sorted(foreign.items()))
    raise TargetNotEmpty(
        f"the target {endpoint.display} is not empty ({held}) and has no checkpoint {key!r}",
        hint="if source and target are the right way round, choose --existing replace, skip or flush"
        + (f"; its policy {capabilities.maxmemory_policy} may have evicted a checkpoint" if evicts else ""),
    )


async def make_room(
    endpoint: Endpoint,
    key: str,
    epoch: Epoch,
    connection: ConnectionOptions,
    prefix: str = DEFAULT_PREFIX,
    *,
    alone: bool = False,
) -> bool:
    """``existing: flush``: deletes everything in a target that holds data and no checkpoint of ours; whether it did.

    To be called when the source has shown that it will send something else.

    Args:
        endpoint: the target.
        key: our checkpoint.
        epoch: that it is fenced by.
        connection: how the connection is made.
        prefix: of all checkpoint keys.
        alone: only where no other link has a checkpoint.

    Raises:
        ConfigError: another link has one.
        TargetError: it refuses, or cannot be reached.
    """
    async with control(endpoint, "looking for data in the target") as client:
        if await held_checkpoint(client, key) is not None:
            return False
        foreign = await foreign_keys(client, prefix, key)
        if foreign and alone and await links_there(client, prefix, besides=key):
            raise others_would_go()
    if foreign:
        await flush(endpoint, epoch, connection)
        _log.warning("target flushed", reason="existing is flush", keys=sum(foreign.values()))
    return bool(foreign)


async def flush(endpoint: Endpoint, epoch: Epoch, connection: ConnectionOptions, *, functions: bool = False) -> None:
    """Deletes everything in the target, checkpoints and leases of other links included; our own lease is back soon.

    Args:
        endpoint: the target.
        epoch: that it is fenced by.
        connection: how the connection is made.
        functions: function libraries as well.

    Raises:
        TargetError: it refuses, or cannot be reached.
    """
    commands = [request("FLUSHALL", "ASYNC"), epoch.renewed()]
    if functions:
        commands.append(request("FUNCTION", "FLUSH"))
    for answer in await write_once(endpoint, connection, epoch, *commands, what=FLUSHALL):
        check(answer, FLUSHALL)


async def foreign_keys(client: Control, prefix: str, key: str) -> dict[int, int]:
    """Keys that are not checkpoints, nor beside them, by database; *key* is our checkpoint."""
    sizes = keys_by_database(parse_info(await client.call("INFO", "keyspace")))
    beside = [key + LEASE_SUFFIX, key + EPOCH_SUFFIX, prefix + IMPORTS_SUFFIX, prefix + IMAGES_SUFFIX]
    if sizes.get(0, 0) <= len(beside) and await client.call("EXISTS", *beside) == sizes.get(0):  # needs no +scan
        return {db: count for db, count in sizes.items() if db}
    if 0 < sizes.get(0, 0) <= FEW_KEYS:
        sizes[0] = await _count_others(client, prefix.encode())
    elif 0 in sizes:
        sizes[0] -= await client.call("EXISTS", key, *beside)
    return {db: count for db, count in sizes.items() if count > 0}


def others_would_go() -> ConfigError:
    """The error of a link with rules that is to flush a target in which another link has data."""
    return ConfigError(
        "existing is flush, and another link has its checkpoint in the target: its data would be deleted, too",
        hint="set existing to replace, or remove what is in the way there",
    )


async def links_there(client: Control, prefix: str, besides: str | None = None) -> set[str]:
    """Links that have a checkpoint here, by name; with *besides*, it ends with the first that is not the one of that key.

    Looks at every key of db 0 in the worst case.
    """
    found: set[str] = set()
    cursor = b"0"
    while True:
        cursor, keys = await client.call("SCAN", cursor, "MATCH", _pattern(prefix), "COUNT", SCAN_COUNT)
        found |= {
            name[len(prefix.encode()) :].decode("utf-8", "replace")
            for name in keys
            if b":" not in name[len(prefix.encode()) :] and (besides is None or name != besides.encode())
        }
        if cursor == b"0" or (found and besides is not None):
            return found


def _pattern(prefix: str) -> str:
    """What matches names that begin so."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in prefix) + "*"


async def _count_others(client: Control, prefix: bytes) -> int:
    """How many keys of db 0, which holds few, begin with something else.

    Names are looked at, and not how many keys there are: a lease that has expired counts among these as long as it is there, which
    is for good in import mode.
    """
    names: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, found = await client.call("SCAN", cursor, "COUNT", SCAN_COUNT)
        names.update(found)
        if cursor == b"0":
            return sum(not name.startswith(prefix) for name in names)
