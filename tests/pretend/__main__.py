"""``python -m tests.pretend``: both clusters in one process, until it is ended."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from functools import partial
from typing import Any, cast

import uvloop

from tests.pretend.nodes import Half
from tests.pretend.source import Sending, Shard
from tests.pretend.target import Kept, Taking


class Orders(asyncio.Protocol):
    """Carries out what the test wants: ``GO commands``, ``TELL``; an answer is a line of JSON."""

    def __init__(self, source: Half, target: Half) -> None:
        self._source, self._target = source, target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """One order at a time."""
        words = data.split()
        if words[0] == b"GO":
            Sending.limit = int(words[1])
            for each in tuple(Sending.going):
                each.go()
        self._transport.write(json.dumps(self._told()).encode() + b"\n")

    def _told(self) -> dict[str, Any]:
        halves = {"source": self._source, "target": self._target}
        told: dict[str, Any] = {"sets": Taking.sets, "following": len(Sending.going)}
        for name, half in halves.items():
            told[name] = {
                "ports": half.ports[:2],
                "connections": half.connections,
                "asked": dict(half.asked.most_common()),
            }
        return told


async def serve(sources: int, targets: int, keys: int, path: str) -> None:
    """Runs both clusters until the process is ended."""
    source, target = Half("source", sources, Sending), Half("target", targets, Taking)
    Sending.shards = [Shard(source.slots(number), keys // sources) for number in range(sources)]
    Sending.going = set()
    Taking.nodes = [Kept() for _ in range(targets)]
    Taking.commands = sys.stdin.buffer.read()
    await source.start()
    await target.start()
    orders = await asyncio.get_running_loop().create_unix_server(partial(Orders, source, target), path)
    print("ready", flush=True)
    await orders.serve_forever()


def main() -> None:
    """Parses arguments, runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.pretend", description=__doc__)
    parser.add_argument("sources", type=int)
    parser.add_argument("targets", type=int)
    parser.add_argument("keys", type=int)
    parser.add_argument("path")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.sources, arguments.targets, arguments.keys, arguments.path))


if __name__ == "__main__":
    main()
