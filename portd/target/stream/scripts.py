"""Scripts for the target: each transaction brings the texts that its ``EVALSHA`` commands need.

``EVALSHA`` of a text that the target does not know fails alone, and everything else in its transaction takes effect
(script.c, multi.c:execCommand): it could not be sent again. So ``SCRIPT LOAD`` goes in front, in the same transaction, and
nobody's ``SCRIPT FLUSH``, no restart and no eviction can come in between. It is idempotent, and costs the target a SHA1.
Where a text is not known, the target is asked whether it has it; a full sync answers what is left, since the source sends
every text again behind a snapshot.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portd.errors import ScriptMissing, TargetRefused
from portd.net.replies import abort_cause, code_of
from portd.net.resp import request
from portd.target.connection import Disconnected
from portd.target.control import control
from portd.target.judge import outcome
from portd.target.kept.checkpoint import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portd.kernel.stream import Piece
    from portd.net.endpoint import Endpoint
    from portd.target.capabilities import Capabilities
    from portd.target.judge import Outcome
    from portd.target.kept.checkpoint import Checkpoint
    from portd.target.stream.scriptbook import ScriptBook
    from portd.target.transactions import Transactions

NOSCRIPT: Final = "NOSCRIPT"
HINT: Final = "grant it: ACL SETUSER <user> +script +eval +evalsha"
_FLUSH: Final = request("SCRIPT", "FLUSH")


class Scripts:
    """What is known of the source's scripts, and may be given to the target.

    Args:
        book: of texts; more come in.
        loads: our user may run SCRIPT LOAD and EXISTS.
        flushes: and SCRIPT FLUSH.
    """

    def __init__(self, book: ScriptBook, *, loads: bool = True, flushes: bool = True) -> None:
        self._book = book
        self._loads = loads
        self._flushes = flushes

    @classmethod
    def of(cls, book: ScriptBook, capabilities: Capabilities) -> Scripts:
        """For a target as it was probed."""
        return cls(book, loads="script" in capabilities.commands, flushes="script|flush" in capabilities.commands)

    def note(self, piece: Piece) -> None:
        """Keeps what a piece brings."""
        for text in piece.bodies:
            self._book.add(text)

    async def before(self, endpoint: Endpoint, pieces: Iterable[Piece]) -> list[bytes]:
        """Commands that go in front of pieces, in their transaction.

        Raises:
            ScriptMissing: neither we nor the target know a text that is needed.
            TargetRefused: our user may not give it.
            TargetError: the target cannot be asked.
        """
        wanted: dict[bytes, None] = {}
        texts: dict[bytes, None] = {}  # what came by SCRIPT LOAD, for clients that will move
        flushed = False
        for piece in pieces:
            if piece.digests or piece.loaded or piece.flushed:
                wanted |= dict.fromkeys(piece.digests)
                texts |= dict.fromkeys(piece.loaded)
                flushed |= piece.flushed
        if wanted and not self._loads:
            raise _refused("the target does not let us run SCRIPT LOAD")
        unknown = []
        for digest in wanted:
            text = self._book.get(digest)
            if text is None:
                unknown.append(digest)
            else:
                texts[text] = None
        if unknown:
            await _make_sure(endpoint, unknown)
        commands = [_FLUSH] if flushed and self._flushes and not unknown else []
        return commands + [request("SCRIPT", "LOAD", text) for text in texts if self._loads]


async def _make_sure(endpoint: Endpoint, digests: Sequence[bytes]) -> None:
    """Asks the target whether it has these texts."""
    async with control(endpoint, "looking for scripts") as client:
        answer = await client.call("SCRIPT", "EXISTS", *digests)
    missing = [digest for digest, there in zip(digests, answer, strict=False) if not there]
    if missing:
        raise missing_script(missing[0].decode())


def missing_script(digest: str = "") -> ScriptMissing:
    """The error for an EVALSHA that nobody knows the text of."""
    return ScriptMissing(
        f"the source runs a script{f' {digest}' if digest else ''} by its SHA1, and neither portd nor the target has its text",
        hint="a sync starts over with a full one, behind which the source sends it again; for a file, load it there before",
    )


def lacked(result: Outcome) -> bool:
    """Whether a script was not there after all when a transaction ran."""
    return any(code_of(text) == NOSCRIPT for text in result.failed.values())


def _refused(why: str) -> TargetRefused:
    return TargetRefused(f"{why}, which the source's EVALSHA needs", hint=HINT)


def load_refused(text: str) -> TargetRefused:
    """The error for a SCRIPT command of ours that was refused with *text*."""
    return _refused(f"the target refuses SCRIPT ({code_of(text)})")


async def disown(transactions: Transactions, checkpoint: Checkpoint, key: str) -> str:
    """Writes into the checkpoint that the data beside it is worth nothing by itself.

    For when a script was forgotten between our question and the transaction that ran it, whose other commands took effect.

    Args:
        transactions: the applier's.
        checkpoint: the newest one.
        key: of it.

    Returns:
        Why the target refuses that, "" when it does not.

    Raises:
        Disconnected: somebody else wrote the checkpoint.
    """
    await transactions.opened()
    mine = replace(checkpoint, state=State.SNAPSHOT, time_ms=0)
    result = outcome(await transactions.execute(mine.commands(key), 2), 2)
    if result.nil:
        raise Disconnected("the checkpoint was touched while it was disowned", "contended")
    if result.aborted:
        return abort_cause(result.aborted) or next(iter(result.queued.values()), result.aborted)
    return ""
