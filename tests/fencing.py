"""An epoch that stands in a target, for tests that write without a lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.model import ConnectionState
from portd.net.resp import request
from portd.target.connection import ConnectionOptions, connect
from portd.target.kept.checkpoint import write_checkpoint
from portd.target.kept.epoch import Epoch

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint
    from portd.target.kept.checkpoint import Checkpoint

KEY = "portd:checkpoint:default"


async def stand(endpoint: Endpoint, epoch: Epoch) -> None:
    """Lets an epoch stand in a target, whatever stood there."""
    assert isinstance(await _ask(endpoint, epoch.stated()), int)


async def fall(endpoint: Endpoint, epoch: Epoch) -> None:
    """Takes an epoch away, which stands in a target."""
    assert await _ask(endpoint, request("DEL", epoch.key)) == 1


async def _ask(endpoint: Endpoint, command: bytes) -> object:
    connection = await connect(endpoint, "test", ConnectionState(), ConnectionOptions())
    try:
        (answer,) = await connection.ask(command)
    finally:
        connection.close()
    return answer


async def put_checkpoint(endpoint: Endpoint, key: str, checkpoint: Checkpoint, epoch: Epoch | None = None) -> Epoch:
    """Writes a checkpoint under an epoch that stands then, a new one when None; returns that."""
    epoch = epoch or Epoch.of(key)
    await stand(endpoint, epoch)
    await write_checkpoint(endpoint, key, checkpoint, epoch, ConnectionOptions())
    return epoch
