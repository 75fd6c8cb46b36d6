"""One link of the sync, and the server whose writes it brings: all of a single server, or a shard of a cluster.

A cluster has one of these for each of its primaries. What concerns one history is done here: how far it goes, what was written
in it, whether the target has it. `cutover` does it for all of them, and is sure only where each of them is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portd.cutover.doubt import Doubt
from portd.cutover.servers import ask_server, key_specs_of
from portd.cutover.streamwatch import SPOOL_BYTES, StreamWatch
from portd.errors import first_cause
from portd.kernel.slots import key_slot
from portd.link.divide import links_now, links_of
from portd.net.shapes import whole
from portd.target.kept.checkpoint import State, read_checkpoint
from portd.target.kept.lease import read_lease
from portd.units import human_count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portd.config.settings import Settings
    from portd.cutover.places import Place
    from portd.cutover.sync import Sync
    from portd.net.endpoint import Endpoint
    from portd.target.kept.checkpoint import Checkpoint

ALL_SPOOLS_BYTES: Final = 64 << 20  # for the streams of all shards
LEAST_SPOOL_BYTES: Final = 2 << 20


@dataclass(slots=True)
class Told:
    """What the report has of a shard.

    Attributes:
        node: where its clients write.
        offsets: of its history.
    """

    node: str
    offsets: dict[str, int | str] = field(default_factory=dict)


class Shard:
    """One of them; use `begin`, `watch`, then `drain` and `check_still` while writes stand still, `check_end`, `close`.

    Args:
        settings: of the link.
        source: where its history is read.
        writes_at: where its clients write: there, or at its primary.
        target: the server that has its checkpoint.
        one_of: how many there are.

    Attributes:
        name: of the link.
        told: for the report.
        letters: dead letters of the link when it was looked at last.
        offset: up to where the target has to have it.
        removed: what the server has removed by itself behind the last write.
    """

    def __init__(
        self, settings: Settings, source: Endpoint, writes_at: Endpoint, target: Endpoint, one_of: int = 1
    ) -> None:
        self.name = settings.link
        self.told = Told(writes_at.display)
        self.letters: Mapping[str, int] = {}
        self.offset = self.removed = 0
        self._settings = settings
        self._source = source
        self._writes_at = writes_at
        self._target = target
        self._one_of = one_of
        self._start: Checkpoint | None = None
        self._stream: StreamWatch | None = None
        self._seen = 0, 0  # writes and removals in the stream when it was drained
        self._behind = 0  # where the history ended when it was looked at behind that

    @property
    def where(self) -> str:
        """The link and its server, for people; "" where there is no other."""
        return f"{self.name} at {self.told.node}" if self._one_of > 1 else ""

    @property
    def checkpoint(self) -> str:
        """The key of its checkpoint."""
        return self._settings.checkpoint_name()

    @property
    def stream(self) -> StreamWatch:
        """What the source writes, behind `watch`."""
        assert self._stream is not None, "it is watched first"
        return self._stream

    # -- before

    async def begin(self) -> None:
        """Looks where it is.

        Raises:
            Doubt: the target has no stream of it.
            TargetError: it cannot be asked.
        """
        self._start = await read_checkpoint(self._target, self.checkpoint)
        if self._start is None or self._start.state is not State.STREAM:
            raise self.doubt("the target has no checkpoint of a stream", "portd status tells what it has")

    async def watch(self) -> None:
        """Begins to follow what the source writes, from the target's checkpoint on.

        Raises:
            Doubt: the source cannot continue there.
            SourceError: it cannot be reached, or refuses.
        """
        assert self._start is not None, "it has begun"
        size = min(SPOOL_BYTES, max(LEAST_SPOOL_BYTES, ALL_SPOOLS_BYTES // self._one_of))
        specs = await key_specs_of(self._source)
        self._stream = StreamWatch(self._source, self._settings.psync_command, specs, size)
        try:
            await self._stream.connect(self._start)
        except Doubt as error:
            raise self._named(error) from None

    async def follow(self) -> None:
        """Follows it until cancelled; as `StreamWatch.run`."""
        try:
            await self.stream.run()
        except BaseExceptionGroup as errors:
            cause = first_cause(errors)
            raise (self._named(cause) if isinstance(cause, Doubt) else cause) from None

    # -- when writes are stopped

    async def source_offset(self) -> int:
        """Where the history of the source ends now.

        Raises:
            Doubt: it has another history.
        """
        info = await ask_server(self._writes_at)
        offset = whole(info.get("master_repl_offset", ""))
        if info.get("master_replid") != self.stream.replid or info.get("role") != "master" or offset is None:
            raise self.doubt(
                "the source has another history than at the beginning",
                "it was promoted, or started again: run it again",
            )
        return offset

    async def drain(self, sync: Sync, seconds: float) -> None:
        """Waits until the target has what the source has written last: that is `offset` from now on.

        Raises:
            Doubt: it has not, in that time.
        """
        stream, offsets = self.stream, self.told.offsets
        self.offset = offsets["source"] = await self.source_offset()
        offsets["applied"] = await self.reach(sync, self.offset, seconds)
        await stream.reach(self.offset)
        self._seen = stream.touched.writes, stream.touched.removals
        offsets["last_write"] = min(stream.written, self.offset)

    async def reach(self, sync: Sync, offset: int, seconds: float) -> int:
        """Waits until the target has everything up to there; what is applied then.

        Raises:
            Doubt: it has not, in that time.
        """
        try:
            return await sync.drain(self.name, offset, seconds)
        except Doubt as error:
            raise self._named(error) from None

    async def rehearse(self, sync: Sync, seconds: float) -> None:
        """The same while writes go on."""
        offset = await self.source_offset()
        self.told.offsets["applied"] = await self.reach(sync, offset, seconds)
        await self.stream.reach(offset)

    async def check_still(self, *, absolute: bool) -> bool:
        """Nothing was written since the drain.

        Args:
            absolute: not even by the server itself.

        Returns:
            The server has removed something by itself: `reach_again` takes that to the target.

        Raises:
            Doubt: something was.
        """
        stream = self.stream
        latest = await self.source_offset()
        await stream.reach(latest)
        writes, removals = self._seen
        written, removed = stream.touched.writes - writes, stream.touched.removals - removals
        if written and (absolute or written != removed):
            raise self.doubt(
                f"{human_count(written)} commands were written while writes stood still",
                "who writes there, and is he one of those who were stopped?",
            )
        if latest <= self.offset or not (removed or stream.touched.count):
            return False
        self.removed, self._behind = removed, latest
        return True

    async def reach_again(self, sync: Sync, seconds: float) -> None:
        """The target gets what the server has removed by itself.

        Raises:
            Doubt: it does not, in that time.
        """
        await self.reach(sync, self._behind, seconds)
        self.offset = self._behind

    # -- behind it

    def check_handed_over(self, answer: Mapping[str, object]) -> None:
        """Raises: Doubt: the link ended before the target had everything."""
        applied = answer["applied"]
        assert isinstance(applied, int)
        self.told.offsets["handed_over"] = applied
        if not answer["drained"] or applied < self.offset:
            raise self.doubt(f"the link ended at offset {applied}, before {self.offset}", "see the log of the sync")

    async def check_end(self) -> None:
        """The target has all of it, and nobody else has the link.

        Raises:
            Doubt: it is not so.
            TargetError: it cannot be asked.
        """
        name = self.checkpoint
        record, holder = await read_checkpoint(self._target, name), await read_lease(self._target, name)
        if record is None or record.state is not State.STREAM or record.position.offset < self.offset:
            raise self.doubt(
                "the target's checkpoint does not say that it is complete", "portd status tells what it has"
            )
        self.told.offsets["checkpoint"] = record.position.offset
        self.told.offsets["replid"] = record.position.replid
        if record.postponed:
            raise self.doubt(
                "expiry times in the target are postponed still",
                "portd sync --stop-after caught-up sets them back",
            )
        if holder is not None:
            raise self.doubt(f"{holder} has the link", "a second portd stands by? stop it first")

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._stream is not None:
            self._stream.close()

    # -- words

    def doubt(self, text: str, hint: str) -> Doubt:
        """With the name of the shard, where there are several."""
        return Doubt(f"{self.where}: {text}" if self.where else text, hint=hint)

    def _named(self, error: Doubt) -> Doubt:
        return self.doubt(str(error.args[0]), error.hint or "")


async def shards_of(settings: Settings, source: Place, target: Place, writes_at: Endpoint) -> list[Shard]:
    """The links that a sync with these settings has.

    Args:
        settings: of the link that the operator described.
        source: open.
        target: likewise.
        writes_at: where the clients of a source write that is no cluster.
    """

    def holder(link: Settings) -> Endpoint:
        return target.node(key_slot(link.checkpoint_name().encode()))

    if source.topology is None:
        return [Shard(settings, source.endpoint, writes_at, holder(settings))]
    links = await links_now(settings, source.topology)
    found = []
    for each in links:
        node = source.node(min(each.slot_ranges())[0])
        found.append(Shard(each, node, node, holder(each), len(links)))
    return found


async def check_slots(settings: Settings, source: Place) -> None:
    """The target has each shard with the slots that it has now.

    Args:
        settings: see `shards_of`.
        source: likewise.

    Raises:
        Doubt: it has one with others.
        TargetError: it cannot be asked.
    """
    if source.topology is None:
        return
    owned = {tuple(each.slot_ranges()) for each in links_of(settings, source.topology)}
    there = await links_now(settings, source.topology)
    other = [each.link for each in there if tuple(sorted(each.slot_ranges())) not in owned]
    if other or len(there) != len(owned):
        raise Doubt(
            f"slots of the source have moved, and the sync has not followed: {', '.join(other) or 'a shard is missing'}",
            hint="run it again when every link has the slots of its node; docs/clusters.md tells of moves",
        )
