"""What the replies to a batch mean for its keys: which were refused, which must be sent again, which were left alone.

Pure functions over bytes and notes; they run only when something other than plain acknowledgements came back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portd.errors import InternalError, TargetError
from portd.kernel.requests import find, of_keys, singles
from portd.net.replies import already_applied, code_of, presentable, sort_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.replies import Note
    from portd.kernel.requests import Command


@dataclass(slots=True)
class Settlement:
    """The outcome of a batch that was answered.

    Attributes:
        refused: commands that were refused for good, with the reply; one per key.
        failed: keys they stand for.
        filtered: keys that exist and were left alone.
        again: commands that must be sent again, as bytes; b"" when nothing must.
        again_replies: replies they will bring.
        trouble: the reply because of which something must be sent again, "" when nothing must.
        fatal: a reply after which nothing can go on, "" when there is none.
    """

    refused: list[tuple[Command, str]] = field(default_factory=list)
    failed: int = 0
    filtered: int = 0
    again: bytes = b""
    again_replies: int = 0
    trouble: str = ""
    fatal: str = ""


def settle(data: bytes, notes: Sequence[Note], *, resent: bool, skip_existing: bool) -> Settlement:
    """Judges the replies to a batch of whole commands.

    When one command of a key has to be sent again, all commands of that key in the batch are, since they may depend on
    each other; keys are independent. Commands that make a key begin with one that removes it, so a second time is
    harmless.

    Args:
        data: the commands.
        notes: errors and nils among their replies; reply numbers count the commands.
        resent: the batch was sent before, on a connection that was lost or to a target that was not ready.
        skip_existing: existing keys are left alone.
    """
    settlement = Settlement()
    errors: dict[int, str] = {}
    for number, _, text in notes:
        if text is None:
            continue
        if skip_existing and code_of(text) == "BUSYKEY":
            settlement.filtered += 1
        elif not (resent and already_applied(text)):
            errors[number] = text
    if errors:
        _judge(data, errors, settlement)
    return settlement


def _judge(data: bytes, errors: dict[int, str], settlement: Settlement) -> None:
    """Sorts *errors*, by number of the command, into *settlement*."""
    commands = _find(data, errors)
    found = sort_out(errors)
    settlement.fatal, settlement.trouble = found.fatal, found.trouble
    waiting = {commands[number].key for number in found.passing}
    again, replies = of_keys(data, waiting) if waiting else (b"", 0)
    parts = [again]
    refused: set[bytes] = set()
    for number, text in found.refused.items():
        command = commands[number]
        if command.key in waiting:
            continue
        if command.keys > 1:  # one key of an MSET was refused, and with it all
            alone, count = singles(data, command)
            parts.append(alone)
            replies += count
        elif command.key not in refused:
            refused.add(command.key)
            settlement.refused.append((command, text))
            settlement.failed += command.keys
    settlement.again = b"".join(parts)
    settlement.again_replies = replies


def _find(data: bytes, errors: dict[int, str]) -> dict[int, Command]:
    """The commands that errors are about, by number."""
    numbers = sorted(errors)
    try:
        return dict(zip(numbers, find(data, numbers), strict=True))
    except IndexError as error:
        raise InternalError(
            f"a batch of {error.args[0]} commands was answered with an error to number {numbers[-1]}"
        ) from None


@dataclass(slots=True)
class Remainder:
    """A batch without the commands that can never be queued.

    Attributes:
        data: the others, in order.
        replies: they will bring.
        refused: what was left out, with the reply; one per key.
        failed: keys they stand for.
    """

    data: bytes = b""
    replies: int = 0
    refused: list[tuple[Command, str]] = field(default_factory=list)
    failed: int = 0


def without(data: bytes, replies: int, errors: dict[int, str]) -> Remainder:
    """Leaves commands out of *data*, by number; an MSET, of which one key was refused, is taken apart instead.

    Args:
        data: whole commands.
        replies: how many.
        errors: with which they were refused.
    """
    left = Remainder(replies=replies)
    parts: list[bytes] = []
    kept = 0
    refused: set[bytes] = set()
    for number, command in _find(data, errors).items():
        parts.append(data[kept : command.start])
        kept = command.end
        left.replies -= 1
        if command.keys > 1:
            alone, count = singles(data, command)
            parts.append(alone)
            left.replies += count
        elif command.key not in refused:
            refused.add(command.key)
            left.refused.append((command, errors[number]))
            left.failed += command.keys
    left.data = b"".join((*parts, data[kept:]))
    return left


@dataclass(slots=True)
class Outcome:
    """What became of ``MULTI commands EXEC``.

    Attributes:
        queued: errors when a command was queued, by its number; any of them makes EXEC refuse.
        aborted: EXEC refused with this reply; "" when it ran.
        nil: EXEC did nothing, since a watched key was touched.
        failed: errors of commands that ran, by number; the others took effect.
    """

    queued: dict[int, str] = field(default_factory=dict)
    aborted: str = ""
    nil: bool = False
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        """The transaction ran."""
        return not self.aborted and not self.nil


def outcome(notes: Sequence[Note], commands: int) -> Outcome:
    """Reads the notes on *commands* replies of queueing and the reply of EXEC behind them."""
    result = Outcome()
    for number, element, text in notes:
        if number < commands:
            if text is not None:
                result.queued[number] = text
        elif element >= 0:
            if text is not None:
                result.failed.setdefault(element, text)
        elif text is None:
            result.nil = True
        else:
            result.aborted = text
    return result


def inside(errors: dict[int, str], head_commands: int, commands: int) -> dict[int, str]:
    """Errors by number in a transaction, as errors by number of the commands in it that are not ours.

    Args:
        errors: replies.
        head_commands: of ours, before the others.
        commands: the others.

    Raises:
        TargetError: a command of ours is among them.
    """
    for number, text in errors.items():
        if not 0 <= number - head_commands < commands:
            raise TargetError(f"the target refuses the checkpoint: {presentable(text)}")
    return {number - head_commands: text for number, text in errors.items()}
