"""One node of a cluster while its connection lasts, and what the answers to a window mean."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portd.kernel.requests import head
from portd.kernel.slotgroups import NO_RECORD
from portd.net.replies import Verdict, abort_cause, classify, code_of, fatal
from portd.target.stream.group import Culprit

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from portd.kernel.replies import Note
    from portd.kernel.slotwindow import Window
    from portd.model import LaneState
    from portd.target.cluster.strand import Marks
    from portd.target.clusternodes import ClusterNode
    from portd.target.connection import Connection

ELSEWHERE = frozenset(
    {"MOVED", "ASK", "READONLY", "LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN"}
)  # the map has changed


@dataclass(slots=True)
class Shard:
    """A node that is connected.

    Attributes:
        node: which one.
        connection: nothing else is sent on it.
        state: counters that operators see.
        window: in flight; None when nothing is.
        marks: when that was received.
        answer: to it.
        sent_at: seconds of the loop's clock; when *window* was.
        rests_until: likewise; it refused something for now.
        refused_since: likewise; it has refused since, 0 when it does not.
        refusal: what it said then.
        gone: its connection was lost.
        marker: the last command for all nodes that it did (`portd.target.cluster.barrier`).
        marked: the node did it, as it is now; else the marker came to it with a slot.
        told: answers that are to come to what nobody waits for.
    """

    node: ClusterNode
    connection: Connection
    state: LaneState
    window: Window | None = None
    marks: Marks | None = None
    answer: asyncio.Future[Sequence[Note]] | None = None
    sent_at: float = 0.0
    rests_until: float = 0.0
    refused_since: float = 0.0
    refusal: str = ""
    gone: bool = False
    marker: int = NO_RECORD
    marked: bool = False
    told: deque[asyncio.Future[Sequence[Note]]] = field(default_factory=deque)

    def tell(self, commands: Sequence[bytes]) -> None:
        """Sends commands whose answers are no news.

        Raises:
            Disconnected: the connection is gone.
        """
        while self.told and self.told[0].done():
            self.told.popleft()
        self.told.append(self.connection.confirm(commands, len(commands)))

    async def quiet(self) -> None:
        """Waits until all is answered that was told, so that something can be asked.

        Raises:
            Disconnected: the connection was lost.
        """
        while self.told:
            await self.told.popleft()


@dataclass(slots=True)
class Verdicts:
    """What became of a window that was answered.

    Attributes:
        executed: slots whose transaction ran, with what their records say.
        refused: commands that never pass, by slot and number.
        failed: commands that ran and were refused; with their replies.
        copies: likewise, of which are copies of keys; by their keys.
        elsewhere: a reply that says that another node has the slot, or will; "" for none.
        trouble: one that passes by itself; "" for none.
        scripts: a script was not there.
    """

    executed: list[tuple[int, int]] = field(default_factory=list)
    refused: dict[int, dict[int, str]] = field(default_factory=dict)
    failed: list[tuple[Culprit, str]] = field(default_factory=list)
    copies: list[bytes] = field(default_factory=list)
    elsewhere: str = ""
    trouble: str = ""
    scripts: bool = False


def judge(window: Window, notes: Sequence[Note]) -> Verdicts:
    """Reads the notes on the replies to a window.

    Raises:
        TargetError: nothing can go on.
    """
    found = Verdicts()
    undone: set[int] = set()
    for note in notes:
        place = window.place(note.reply)
        text = note.text or "nil"
        if note.element > 0:  # of EXEC, behind the record
            data, offset = window.command(place.slot, note.element - 1)
            refused = culprit(data, offset)
            found.failed.append((refused, text))
            if window.copies(place.slot, note.element - 1):
                found.copies.append(refused.key)
            found.scripts |= code_of(text) == "NOSCRIPT"
            continue
        undone.add(place.slot)
        text = abort_cause(text) or text
        code = code_of(text)
        if code in ELSEWHERE:
            found.elsewhere = found.elsewhere or text
        elif classify(text) is Verdict.RETRY:
            found.trouble = found.trouble or text
        elif classify(text).ends:
            raise fatal(text)
        elif place.command >= 0:
            found.refused.setdefault(place.slot, {})[place.command] = text
        elif code != "EXECABORT":  # MULTI, the record or EXEC itself
            raise fatal(text)
    found.executed = [(slot, behind) for slot, behind in window.slots() if slot not in undone]
    return found


def culprit(data: bytes, offset: int) -> Culprit:
    """A command that was refused."""
    command = head(data)
    return Culprit(offset, 0, command.title, command.key)
