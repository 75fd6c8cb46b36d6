"""Brings a file into a server: a snapshot through the lanes, commands behind it through the applier.

What a file is, its first bytes say: REDIS or VALKEY a snapshot, ``*`` commands (an append-only file, or a stream that
`portd dump --follow` recorded). A snapshot may be followed by commands in the same file (``aof-use-rdb-preamble``).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portd.config.choices import Existing
from portd.config.rules import choice_of
from portd.errors import ConfigError, DecodeError, Interrupted, UnsupportedRdb, first_cause
from portd.feed.file import FileFeed
from portd.feed.loading import Loading
from portd.feed.pour import pour_into
from portd.feed.snapshot import Counts, stream_database
from portd.files.aof import parts_of
from portd.files.inputs import open_input
from portd.files.manifest import is_manifest, read_manifest
from portd.groups import TaskGroup
from portd.link import clusters
from portd.log import get_logger
from portd.memory.plan import plan_memory
from portd.model import Position, Work
from portd.net.resp import request
from portd.net.shapes import whole
from portd.offline.job import OfflineService
from portd.pipeline import ByteBudget
from portd.target.connection import ConnectionOptions
from portd.target.deadletter import DeadLetters, read_keys, unsupported
from portd.target.destination import Destination
from portd.target.kept.checkpoint import MOST_OFFSET, Checkpoint, guard, make_room, read_checkpoint, write_checkpoint
from portd.target.kept.contents import keys_there
from portd.target.kept.epoch import write_once
from portd.target.kept.lease import Lease
from portd.target.limiter import LIMITS, Limiter
from portd.target.stream.applier import Applier
from portd.target.stream.applying import ApplierOptions
from portd.target.stream.scriptbook import ScriptBook
from portd.target.stream.scripts import Scripts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.config.settings import Settings
    from portd.files.inputs import Input
    from portd.kernel.snapshot import DeadLetter, SnapshotDecoder
    from portd.target.capabilities import StreamForms

log = get_logger("restore")

LINK: Final = "restore+"  # before a link's name: no sync has a link of such a name
UNKNOWN_REPLID: Final = "0" * 40  # of commands whose history nobody knows


class Restore(OfflineService):
    """One `portd restore`.

    Args:
        settings: what sync knows about targets, memory and refusals; the source is not looked at.
        paths: the files: snapshots, or one append-only file, or the manifest of one, or of a dumped cluster; ``-`` is standard input.
        follow: a recorded stream to apply behind it.
        only: dead letters of an earlier restore: nothing but their keys is restored.

    Raises:
        InputError: a manifest, or a file that it names, cannot be read.
        DecodeError: it is none, or a file is another one.
    """

    def __init__(self, settings: Settings, paths: Sequence[str], follow: Path | None, only: Path | None = None) -> None:
        super().__init__()
        self._settings = replace(settings, link=LINK + settings.link)
        self._checksums: dict[str, str] = {}  # of files of a manifest
        found: list[list[str]] = []
        for path in paths:
            if is_manifest(path):
                shards = read_manifest(path)
                self._checksums |= {str(Path(path).with_name(each.file)): each.sha256 for each in shards}
                found += [[str(Path(path).with_name(each.file))] for each in shards]
            else:
                found.append(parts_of(path))
        self._paths, *more = found
        self._more = [part for parts in more for part in parts]
        self._follow = follow
        self._target = self._settings.target_endpoint()
        cgroup = self._accounting.cgroup
        self._plan = plan_memory(settings, cgroup.limit() if cgroup else None)
        self._limiter = Limiter.of(settings, self.progress.limit)
        self._choice = choice_of(settings, settings.checkpoint_key)
        self._letters = DeadLetters.of(settings, self.progress, self._choice)
        self._position = Position(UNKNOWN_REPLID, 0)  # of the first command behind the snapshot
        self._db = 0
        self._begun = False  # something may have been written or removed
        self._written_by: dict[str, str] = {}  # family and version, where the snapshot tells them
        self._length = 0  # of the snapshot, bytes
        self._wanted = read_keys(only) if only is not None else None

    async def run(self) -> None:
        """Restores all of it.

        Raises:
            PortdError: the file is not there or corrupt, the target refuses.
            Interrupted: it was told to stop.
        """
        try:
            if not await self._unless_stopped(self._run(), "restore"):
                if not self._begun:
                    raise Interrupted("stopped before anything was written", hint="restore again")
                raise Interrupted(
                    "stopped: the target holds a part of the file",
                    hint="restore again with --existing replace, skip or flush",
                )
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        finally:
            self._letters.close()
        self.progress.ended = True

    def change(self, link: str, name: str, value: float) -> None:  # noqa: ARG002 - there are no links
        """Lets a limit on the load of the target take effect; no other setting can."""
        if name in LIMITS:
            self._limiter.change_setting(name, int(value))

    async def _run(self) -> None:
        progress, settings = self.progress, self._settings
        for path in self._more:  # what is not there is said before anything is done to the target
            await asyncio.to_thread(_require_snapshot, path)
        with closing(self._open(self._paths[0])) as source:
            data = await asyncio.to_thread(source.read)
            is_snapshot = looks_like_snapshot(source, data)
            self._require_snapshots(alone=is_snapshot and len(self._paths) == 1 and self._follow is None)
            capabilities, nodes = await clusters.look_at(self._target, self._choice)
            progress.target_info = capabilities.shown()
            log.info("target", url=self._target.display, **progress.target_info)
            key = settings.checkpoint_name()
            lease = Lease(
                self._target,
                key,
                settings.link,
                run_id=capabilities.run_id,
                connection=ConnectionOptions(troubles=progress.troubles),
                evicts=capabilities.evicts,
            )
            epoch = await lease.acquire()
            destination = Destination(
                settings=settings,
                endpoint=self._target,
                capabilities=capabilities,
                connection=lease.options(),
                limiter=self._limiter,
                budget=ByteBudget(self._plan.queue_bytes),
                letters=self._letters,
                scripts=ScriptBook(),
                lease=lease,
                epoch=epoch,
                choice=self._choice,
                cluster=nodes,
            )
            try:
                async with TaskGroup() as group:
                    keeper = group.create_task(lease.keep(), name="lease")
                    destination = await clusters.take(destination)
                    await self._restore(source, data, destination, is_snapshot=is_snapshot)
                    keeper.cancel()
            finally:
                lease.close()
                await clusters.forget(destination)
                await lease.release(forget=True, keys=[key])

    def _open(self, path: str) -> Input:
        """A file; one of a manifest has to be the one that it names."""
        return open_input(path, self._checksums.get(path, ""))

    def _require_snapshots(self, *, alone: bool) -> None:
        """Raises: ConfigError: there are commands, and nothing can be done with them."""
        if alone:
            return
        if self._more:
            raise ConfigError(
                "several files are restored one after the other, and one of them is not a snapshot alone",
                hint="restore an append-only file, or a snapshot and the stream behind it, by itself",
            )
        if self._target.seeds is not None:
            raise ConfigError(
                "commands of a file cannot be brought into a cluster yet, only snapshots",
                hint="restore it into a single server, and sync that into the cluster",
            )

    async def _restore(self, source: Input, data: memoryview, into: Destination, *, is_snapshot: bool) -> None:
        """Restores the files; the link is ours."""
        settings, prefix = into.settings, into.settings.checkpoint_key
        await self._forget_another(into)
        if into.cluster is not None:
            await clusters.guard_contents(into.cluster, settings, into.choice)
        else:
            covers = partial(keys_there, prefix=prefix, key=into.key, choice=into.choice) if into.choice else None
            await guard(into.endpoint, into.capabilities, into.key, prefix, settings.existing.value, covers=covers)
        if not is_snapshot or self._follow is not None:
            self._require_plain_rules()
        self._begun = True
        if settings.existing is Existing.FLUSH and into.cluster is not None:
            await clusters.flush_all(into)
        elif settings.existing is Existing.FLUSH:
            await make_room(into.endpoint, into.key, into.epoch, into.connection, prefix, alone=bool(into.choice))
        if is_snapshot:
            rest, skip = await self._restore_snapshot(source, data, into)
            rest = rest or bytes(await asyncio.to_thread(source.read))
            self._require_snapshots(alone=not rest)
            for path in self._more:
                await self._restore_another(path, into)
            feed = self._feed(source, rest, skip, into) if rest or self._paths[1:] else None
        else:
            feed = self._feed(source, bytes(data), 0, into)
        if feed is not None:
            self._require_plain_rules()
        if feed is not None and self._wanted is not None:
            raise ConfigError(
                "keys cannot be picked from commands: there are some in the file, or behind its snapshot",
                hint="restore the whole file instead of --only-letters",
            )
        if feed is not None:
            into = await self._apply(feed, into)
        if self._follow is not None:
            position = self._position
            forms = self._forms(into)
            self.progress.attributes_dropped = self.progress.dropped()
            self.progress.stream = type(self.progress.stream)()
            await self._apply(
                FileFeed([str(self._follow)], self.progress.stream, forms, offset=position.offset, db=self._db),
                into,
                position,
            )

    def _require_plain_rules(self) -> None:
        """Makes sure that commands can keep the rules.

        Raises:
            ConfigError: they do not tell what a rule asks for.
        """
        if names := self._settings.of_snapshots():
            raise ConfigError(
                f"{', '.join(names)} cannot be kept by commands, and there are some in the file or behind it",
                hint="choose by key and database, or restore a snapshot alone",
            )

    async def _forget_another(self, into: Destination) -> None:
        """Deletes the checkpoint of a restore that was killed: nobody goes on from there, and what it wrote is not ours."""
        key = into.key
        if await read_checkpoint(into.endpoint, key) is not None:
            log.warning("a restore was cut off before: what the target holds may be a part of its file", checkpoint=key)
            await write_once(into.endpoint, into.connection, into.epoch, request("DEL", key), what="the checkpoint")

    # -- the snapshot

    async def _restore_snapshot(self, source: Input, data: memoryview, into: Destination) -> tuple[bytes, int]:
        """Decodes and applies the snapshot; returns what was read behind it, and its length."""
        snapshot = self.progress.snapshot
        snapshot.started_at = time.time()
        snapshot.bytes_total = source.size
        loading = Loading(self._plan, self.progress, into)
        if self._wanted is not None:
            loading.decoder.restrict(self._wanted)
        with self.progress.doing(Work.COPYING):
            rest = await loading.run(partial(self._decode, source, data, loading, into.scripts), "restore")
        self._note_end(loading.decoder, source.name)
        return rest, self._length

    async def _restore_another(self, path: str, into: Destination) -> None:
        """A further snapshot; counters begin anew with it."""
        self.progress.begin_snapshot()
        with closing(self._open(path)) as source:
            data = await asyncio.to_thread(source.read)
            rest, _ = await self._restore_snapshot(source, data, into)
            behind = await asyncio.to_thread(source.read)
            self._require_snapshots(alone=not rest and not behind)

    async def _decode(self, source: Input, data: memoryview, loading: Loading, scripts: ScriptBook) -> bytes:
        """Puts the whole snapshot into the queue; returns what was read behind it."""
        decoder = loading.decoder
        counts = Counts(decoder, self.progress.snapshot, self._on_letter, scripts.add)
        while True:
            await pour_into(loading.writers.put, decoder, data)
            counts.read()
            self._report(source, decoder)
            if decoder.ended:
                break
            data = await asyncio.to_thread(source.read)
            if not data:
                decoder.finish()
        self._length = decoder.offset
        return bytes(data[len(data) - (source.read_bytes - self._length) :])

    def _on_letter(self, letter: DeadLetter) -> None:
        self._letters.add(unsupported("snapshot", letter.type, letter))

    def _report(self, source: Input, decoder: SnapshotDecoder) -> None:
        snapshot = self.progress.snapshot
        snapshot.bytes_read = source.read_bytes
        snapshot.bytes_decoded = min(source.consumed, decoder.offset) if source.size else decoder.offset

    def _note_end(self, decoder: SnapshotDecoder, name: str) -> None:
        """Remembers where the stream behind the snapshot begins."""
        snapshot = self.progress.snapshot
        snapshot.finished_at = time.time()
        seconds = max(snapshot.finished_at - snapshot.started_at, 1e-6)
        log.info(
            "snapshot restored", **({"file": name} if self._more else {}), keys=snapshot.keys_read, applied=snapshot.keys_applied, filtered=snapshot.keys_filtered,
            expired=snapshot.keys_expired, failed=snapshot.keys_failed, bytes=decoder.offset,
            seconds=round(seconds, 3), megabytes_per_second=round(decoder.offset / seconds / 1e6, 1),
            dropped=dict(self.progress.attributes_dropped) or None,
        )  # fmt: skip
        aux = decoder.aux
        replid, offset = aux.get("repl-id", ""), aux.get("repl-offset", "")
        number = whole(offset, MOST_OFFSET)
        if len(replid) == len(UNKNOWN_REPLID) and number is not None:
            self._position = Position(replid, number)
        if "valkey-ver" not in aux and "redis-ver" in aux:
            self._written_by = {"family": "redis", "version": aux["redis-ver"]}
        self._db = stream_database(aux)

    # -- commands

    def _forms(self, into: Destination) -> StreamForms:
        settings = into.settings
        return into.capabilities.stream_forms(
            self._written_by,
            own=settings.checkpoint_key,
            publish=not settings.skip_messages,
            stops=into.letters.stops,
            choice=into.choice,
            left=settings.exclude_command,
        )

    def _feed(self, source: Input, rest: bytes, skip: int, into: Destination) -> FileFeed:
        return FileFeed(
            self._paths,
            self.progress.stream,
            self._forms(into),
            skip=skip,
            opened=(source, rest),
        )

    async def _apply(self, feed: FileFeed, into: Destination, position: Position | None = None) -> Destination:
        """Applies commands to the end of the files; what can be written to behind them.

        Raises:
            DecodeError: they end inside of a command or a transaction; what is before it is applied.
        """
        progress = self.progress
        position = position or Position(UNKNOWN_REPLID, 0)
        checkpoint = Checkpoint.following(position, self._db if position.offset else 0)
        begun = time.time()
        # Nothing of the snapshot, or of the file before, takes effect behind it.
        await write_checkpoint(into.endpoint, into.key, checkpoint, into.epoch, into.connection, closes=True)
        into = into.behind_checkpoint()
        scripts = Scripts.of(into.scripts, into.capabilities)
        options = ApplierOptions(
            epoch=into.epoch,
            choice=into.choice,
            prefix=into.settings.checkpoint_key,
            unlink="unlink" in into.capabilities.commands,
            limiter=into.limiter,
            connection=into.connection,
            scripts=scripts,
        )
        applier = Applier(into.endpoint, feed, checkpoint, into.key, progress, into.letters, options)
        try:
            with progress.doing(Work.FOLLOWING):
                await applier.run()
        finally:
            feed.close()
        end = applier.checkpoint.position.offset
        stream = progress.stream
        log.info(
            "commands applied", commands=stream.commands_applied, filtered=stream.commands_filtered,
            failed=stream.commands_failed, bytes=end - position.offset, seconds=round(time.time() - begun, 3),
            dropped=dict(progress.dropped()) or None,
        )  # fmt: skip
        if feed.size is not None and end - position.offset < feed.size:
            raise DecodeError(
                f"the file ends inside of a command or a transaction, {feed.size - (end - position.offset)} bytes of it",
                offset=end,
                hint="everything before it was applied",
            )
        return into


def _require_snapshot(path: str) -> None:
    """Raises: PortdError: a file is not there, or no snapshot."""
    with closing(open_input(path)) as source:
        if not looks_like_snapshot(source, source.read()):
            raise ConfigError(
                f"{path} holds commands, and several files can be snapshots only", hint="restore it by itself"
            )


def looks_like_snapshot(source: Input, data: memoryview) -> bool:
    """What the first bytes of a file say: a snapshot, or commands.

    Raises:
        UnsupportedRdb: neither.
    """
    if not data:
        raise UnsupportedRdb(f"{source.name} is empty", hint="a snapshot begins with REDIS or VALKEY")
    if data[0] in b"RV":
        return True
    if data[0] == ord("*") or bytes(data[:4]) == b"#TS:":
        return False
    raise UnsupportedRdb(
        f"{source.name} is neither a snapshot nor an append-only file: it begins with neither REDIS, VALKEY nor *",
        hint="compressed files are known by their names, .gz and .zst",
    )
