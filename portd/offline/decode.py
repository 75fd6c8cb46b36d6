"""Shows a snapshot: bytes of a file, a pipe or a live source through the decoder into an output."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from portd.config.rules import choice_of
from portd.errors import UnsupportedRdb
from portd.feed.pour import pour
from portd.feed.snapshot import SnapshotCopy
from portd.files.inputs import open_input
from portd.log import get_logger
from portd.net.clusterview import of_node, view_of
from portd.net.topology import ALL_SLOTS, ranges_of, spelled
from portd.source import HandshakeOptions, cluster
from portd.source.fetch import Fetch

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.files.inputs import Input
    from portd.files.outputs import Output
    from portd.kernel.snapshot import SnapshotDecoder
    from portd.net.endpoint import Endpoint
    from portd.source import Transfer

log = get_logger("decode")


def decode_file(path: str, decoder: SnapshotDecoder, output: Output) -> None:
    """Decodes a file, or standard input.

    Args:
        path: as `portd.files.inputs.open_input` takes it.
        decoder: with a handler that makes bytes.
        output: takes them.

    Raises:
        PortdError: the input is not there or no snapshot, or the output cannot be written.
    """
    with closing(open_input(path)) as source:
        pump(source, decoder, output)


def pump(source: Input, decoder: SnapshotDecoder, output: Output) -> None:
    """Moves a snapshot through *decoder*; bytes behind its end are left alone."""
    while not decoder.ended:
        data = source.read()
        if not data:
            if source.read_bytes == 0:
                raise UnsupportedRdb(f"{source.name} is empty", hint="a snapshot begins with REDIS or VALKEY")
            decoder.finish()
        for part in pour(decoder, data):
            output.write(part)


async def decode_source(endpoint: Endpoint, decoder: SnapshotDecoder, output: Output, *, alone: bool = True) -> None:
    """Decodes the snapshot of a live source; of a cluster node that is decoded *alone*, the log says that it is one shard.

    Raises:
        PortdError: the source is not there or refuses, or the output cannot be written.
    """
    fetch = Fetch(endpoint, HandshakeOptions(rdb_only=True))

    async def write(part: bytes) -> None:
        await asyncio.to_thread(output.write, part)

    async def consume(fetch: Fetch, transfer: Transfer) -> None:
        progress = fetch.progress.snapshot
        await SnapshotCopy(fetch.spool, decoder, write, progress, transfer).run()

    try:
        await fetch.run(consume)
    finally:
        fetch.close()
    if alone and (decoder.of_cluster_node or await cluster.ask(endpoint)):
        log.warning("the source is a node of a cluster: what was shown is one shard", url=endpoint.display)


async def decode_cluster(settings: Settings, fresh: Callable[[Choice], SnapshotDecoder], output: Output) -> None:
    """Decodes the snapshots of all shards of a cluster, one after the other, each with its own slots only.

    Args:
        settings: the source, and which keys are shown.
        fresh: makes a decoder that works by rules.
        output: takes what is made.

    Raises:
        PortdError: see `decode_source`; also where the map cannot be read.
    """
    endpoint, wanted = settings.source_endpoint(), tuple(settings.slot_ranges()) or ALL_SLOTS
    before = await view_of(endpoint)
    for node, slots in before.nodes_of(wanted):
        choice = choice_of(replace(settings, include_slots=tuple(f"{first}-{last}" for first, last in slots)))
        await decode_source(of_node(endpoint, node), fresh(choice), output, alone=False)
    if moved := (await view_of(endpoint)).elsewhere_since(before, wanted):
        log.warning(
            "slots moved meanwhile, or have no owner: their keys may be missing, or shown twice",
            slots=spelled(ranges_of(moved)),
        )
