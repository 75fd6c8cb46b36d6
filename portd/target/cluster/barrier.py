"""Commands that concern every node of a cluster: each does them once, and none sees what is behind before all have.

A node does the command in a transaction with a marker that says so, with the position behind it. So a process that ends
between two nodes, and comes by the same command again, leaves those out that have it. A flush removes the records with
everything else; until they are written again, the marker stands for them. Markers go when the link's hash is behind them.

They may be gone when a command comes by once more, since a node went back to before it. Records tell then who has it: a slot that is
behind it has what follows, and no flush may take that.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from portd.errors import TargetError
from portd.kernel.requests import head
from portd.net.replies import Verdict, abort_cause, classify, code_of, fatal, presentable
from portd.net.resp import request
from portd.net.topology import ALL_SLOTS, ranges_of, slots_of
from portd.target.cluster.nodes import node_key
from portd.target.cluster.records import BARRIER_SUFFIX, parse_record, record_text, write_records
from portd.target.cluster.settled import require_settled
from portd.target.cluster.shard import ELSEWHERE
from portd.target.connection import Disconnected, set_up, text_of
from portd.target.kept.epoch import check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from portd.kernel.slotgroups import SlotGroups
    from portd.net.topology import Ranges
    from portd.target.cluster.shard import Shard

FLUSHES: Final = frozenset({"FLUSHALL", "FLUSHDB"})
DONE: Final = ("ERR Library", "ERR library")  # refusals of FUNCTION by a node that has done it: there already, or gone
MARKER: Final = "the marker of a command for all nodes"  # for messages


class Markers:
    """Where markers are, and what they say.

    Args:
        prefix: of the records' keys.
        key: of the link's hash: its node's marker lies beside it.
        home: the slot of that.
    """

    def __init__(self, prefix: str, key: str, home: int) -> None:
        self._prefix = prefix
        self._key = key
        self._home = home

    def at_home(self, shard: Shard) -> bool:
        """Whether the link's hash lies on a node, in a slot that the link writes to."""
        return shard.node.has(self._home)

    def key(self, shard: Shard) -> str:
        """The key of a node's marker."""
        return (self._key if self.at_home(shard) else node_key(self._prefix, shard.node)) + BARRIER_SUFFIX

    async def read(self, shard: Shard) -> None:
        """Notes the position behind the last command for all nodes that one did, and whether it was that node."""
        key = self.key(shard)
        (found,) = await shard.connection.ask(request("GET", key))
        if text_of(found):
            check(found, MARKER, key)
        shard.marker, _ = parse_record(found, f"the key {key!r}")
        shard.marked = found is not None and found.partition(b" ")[2].startswith(shape_of(shard))

    def text(self, shard: Shard, writer: str, behind: int) -> bytes:
        """What the marker of a node says: a record, with the slots that the node has.

        The key lies in one of these, and goes where that goes: the slots tell whether who has the key is who wrote it, or was
        promoted in its place.
        """
        return record_text(f"{writer} {shape_of(shard).decode()}", behind)

    def forget(self, shard: Shard) -> None:
        """Removes a node's marker; nobody waits for that."""
        shard.tell([request("DEL", self.key(shard))])


def shape_of(shard: Shard) -> bytes:
    """The slots of a node, in few letters."""
    return hashlib.sha256(repr(shard.node.slots).encode()).hexdigest()[:16].encode()


class Barrier:
    """One such command, and everything before it is in the target.

    Args:
        command: as it is sent.
        behind: the position behind it.
        markers: see there.
        prefix: of the records' keys.
        writer: of records.
        empty: removes all keys of some slots from a node.
        owed: keys that records name, by slot.

    Attributes:
        name: of the command.
        flushes: it empties the nodes.
    """

    def __init__(
        self, command: bytes, behind: int, markers: Markers, prefix: str, writer: str,
        empty: Callable[[Shard, set[int], Ranges], Awaitable[None]], owed: Mapping[int, bytes],
    ) -> None:  # fmt: skip
        self.name = head(command).title
        self.flushes = self.name in FLUSHES
        self._command = command
        self._behind = behind
        self._markers = markers
        self._prefix = prefix
        self._writer = writer
        self._empty = empty
        self._owed = owed

    async def run(self, shards: Sequence[Shard], groups: SlotGroups, missing: set[int], ours: Sequence[bytes]) -> str:
        """Does it on every node that has not done it.

        Args:
            shards: all nodes; nothing is outstanding.
            groups: are told that a flush has brought every slot there.
            missing: slots whose records are not there; those that a flush removes are added until they are written.
            ours: what writes hash, lease and epoch, which a flush removes at home.

        Returns:
            The reply with which a node refused it for good, "" when none did.

        Raises:
            Disconnected: a node is lost, or is not what it was.
            TargetBusy: one has slots that are on their way.
            TargetError: one refuses everything.
        """
        refused = ""
        strayed = any(shard.marker >= self._behind and not shard.marked for shard in shards)  # it is of another node
        for shard in shards:
            slots = set(slots_of(shard.node.slots))
            late = {slot for slot in slots if groups.record(slot) < self._behind}
            beyond = bool(slots - missing - late)  # some of its slots may have what follows
            if self.flushes and late and beyond:
                await self._empty(shard, late, ALL_SLOTS)
                missing |= late
                continue
            marked = shard.marker >= self._behind and shard.marked
            if late if self.flushes else not (beyond or marked):
                async with set_up(shard.connection, shard.node.endpoint.silence_seconds):
                    if self.flushes:  # else what is on its way, or elsewhere, would be spared
                        await require_settled(shard.connection, shard.node.slots, ALL_SLOTS)
                    told = await self._do(shard, ours)
                if not (strayed and told.startswith(DONE)):
                    refused = told or refused
                shard.marker, shard.marked = self._behind, True
                if self.flushes:
                    missing |= slots
        if self.flushes:
            groups.set_records(self._behind)
            for shard in shards:
                mine = ranges_of(slot for slot in sorted(missing) if shard.node.has(slot))
                async with set_up(shard.connection, shard.node.endpoint.silence_seconds):
                    await write_records(shard.connection, self._prefix, mine, self._writer, self._behind, self._owed)
            missing.clear()
        return refused

    async def _do(self, shard: Shard, ours: Sequence[bytes]) -> str:
        """Does it on one node; the reply when that refuses it."""
        key = self._markers.key(shard)
        marker = request("SET", key, self._markers.text(shard, self._writer, self._behind))
        own = [marker, *(ours if self.flushes and self._markers.at_home(shard) else ())]
        refused = ""
        for commands in ([self._command, *own], own):  # without it where it cannot be queued: the node is done with it
            answers = await shard.connection.ask(request("MULTI"), *commands, request("EXEC"))
            executed = answers[-1]
            if isinstance(executed, list):
                failed = text_of(executed[0]) if len(commands) > len(own) else ""
                for answer in executed[len(commands) - len(own) :]:
                    check(answer, MARKER, key)
                return failed or refused
            refused = next(filter(None, map(text_of, answers)), "") or "nil"
            refused = abort_cause(refused) or refused
            if code_of(refused) in ELSEWHERE or classify(refused) is Verdict.RETRY:
                raise Disconnected(f"{shard.node.address}: {presentable(refused)}", code_of(refused))
            if classify(refused).ends:
                raise fatal(refused)
        raise TargetError(f"the target {shard.node.address} refuses transactions: {presentable(refused)}")
