"""Sorts the whole keys of a snapshot by the node of a cluster that has their slots."""

from typing import final

from portd.kernel.batch import Batch

@final
class Scatter:
    """Takes batches of whole keys as the decoder makes them, and gives batches for one node each.

    What knows no slot, function libraries and scripts, goes to every node, and counts at none. The keys of a batch count
    where they go.

    Args:
        table: the number of the node that has each slot, as native u16.
        nodes: how many there are.
        size: bytes at which a node's batch is full.
    """

    def __init__(self, table: bytes, nodes: int, size: int) -> None: ...
    def add(self, batch: Batch) -> list[tuple[int, Batch]]:
        """Takes a batch; those that are full by it, with the numbers of their nodes.

        Raises:
            InternalError: it does not hold whole commands on one slot each, or a slot has no node.
        """
    def rest(self) -> list[tuple[int, Batch]]:
        """What is not full."""
    def node_of(self, key: bytes) -> int:
        """The node that has the slot of a key."""
    @property
    def owned_bytes(self) -> int:
        """Bytes allocated."""
