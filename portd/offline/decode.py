"""Shows a snapshot: bytes of a file, a pipe or a live source through the decoder into an output."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from portd.errors import UnsupportedRdb
from portd.feed.snapshot import SnapshotCopy
from portd.files.inputs import open_input
from portd.log import get_logger
from portd.source import HandshakeOptions, ReceiverOptions, cluster
from portd.source.fetch import Fetch

if TYPE_CHECKING:
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
    with open_input(path) as source:
        pump(source, decoder, output)


def pump(source: Input, decoder: SnapshotDecoder, output: Output) -> None:
    """Moves a snapshot through *decoder*; bytes behind its end are left alone."""
    while not decoder.ended:
        data = source.read()
        if not data:
            if source.read_bytes == 0:
                raise UnsupportedRdb(f"{source.name} is empty", hint="a snapshot begins with REDIS or VALKEY")
            write_outputs(decoder, output)
            decoder.finish()
        while data and not decoder.ended:
            data = data[decoder.feed(data) :]
            write_outputs(decoder, output)


def write_outputs(decoder: SnapshotDecoder, output: Output) -> None:
    """Writes what the decoder's handler has made."""
    while (part := decoder.next_output()) is not None:
        output.write(cast("bytes", part))


class _OutputSink:
    """Takes the decoder's parts instead of batches; writing blocks, so that a thread does it."""

    def __init__(self, output: Output) -> None:
        self._output = output

    async def put(self, batch: Any) -> None:
        await asyncio.to_thread(self._output.write, batch)


async def decode_source(endpoint: Endpoint, decoder: SnapshotDecoder, output: Output) -> None:
    """Decodes the snapshot of a live source; of a cluster node, the log says that it is one shard.

    Raises:
        PortdError: the source is not there or refuses, or the output cannot be written.
    """
    fetch = Fetch(endpoint, ReceiverOptions(handshake=HandshakeOptions(rdb_only=True)))

    async def consume(fetch: Fetch, transfer: Transfer) -> None:
        progress = fetch.progress.snapshot
        await SnapshotCopy(fetch.spool, decoder, _OutputSink(output), progress, transfer, lambda _: None).run()

    try:
        await fetch.run(consume)
    finally:
        fetch.close()
    if decoder.of_cluster_node or await cluster.ask(endpoint):
        log.warning("the source is a node of a cluster: what was shown is one shard", url=endpoint.display)
