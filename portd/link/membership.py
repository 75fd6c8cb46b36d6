"""What a link of a source cluster's shard has to do with those of the others: where its stream waits for them, and where its node is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from portd.feed.border import SlotBorder
from portd.net.endpoint import Whereabouts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Membership:
    """Kept by the link, and used by who follows the slots of all of them (`portd.link.handover`).

    Attributes:
        border: where the stream waits for other links.
        whereabouts: of the node.
        drawn: the link has the slots that stand beside its data.
        left: it has no slots any more, and is over.
        rests: set while nothing of it is applied.
        permit: awaited before a full sync begins; may refuse it for now.
    """

    def __init__(self) -> None:
        self.border = SlotBorder()
        self.whereabouts = Whereabouts()
        self.drawn = self.left = False
        self.rests = asyncio.Event()
        self.rests.set()
        self.permit: Callable[[], Awaitable[None]] | None = None
