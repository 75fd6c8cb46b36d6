"""Every error portd raises on purpose, with its exit code and whether trying again can help.

Messages are lowercase, without a final stop, and name what and where; ``hint`` says what to do about it.
Values and passwords never appear in a message.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

REDACTED: Final = "(redacted)"  # stands for the name of a key where none may be seen
_redacting = False


class PortdError(Exception):
    """Base of every error of portd.

    Attributes:
        exit_code: the sysexits code the process ends with when this error is what ended it.
        retriable: whether the same attempt may succeed later without a change by the operator.
        hint: one sentence that says what to do, printed on a line of its own.
    """

    exit_code: ClassVar[int] = os.EX_SOFTWARE
    retriable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nHINT: {self.hint}" if self.hint else message


def first_cause(
    error: BaseException, less: type[BaseException] | tuple[type[BaseException], ...] = ()
) -> BaseException:
    """The error that ended a group: its first leaf; one of *less* only where no other explains more."""
    found = list(leaves(error))
    return next((each for each in found if not isinstance(each, less)), found[0])


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside of groups of groups, in order."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


class Busy(PortdError):
    """A server refuses for now.

    Attributes:
        code: first word of its reply; "" where there was none that is a code.
    """

    retriable = True

    def __init__(self, message: str, *, hint: str | None = None, code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class ConfigError(PortdError):
    """A setting is missing, malformed or contradicts another one."""

    exit_code = os.EX_CONFIG


class SourceError(PortdError):
    """The source, or the connection to it, failed."""

    exit_code = os.EX_UNAVAILABLE


class SourceLost(SourceError):
    """The connection to the source ended or went silent."""

    retriable = True


class SourceBusy(Busy, SourceError):
    """The source cannot serve a replica now (``-LOADING``, ``-NOMASTERLINK``, a failed fork)."""


class SlotsMoved(SourceError):
    """Slots of a source cluster are on their way to another node, have another owner than at the start, or none."""


class HandshakeError(SourceError):
    """The source refused the handshake for good: credentials, permissions or an unknown command."""

    exit_code = os.EX_NOPERM


class DecodeError(PortdError):
    """Bytes of the source are corrupt, unknown or beyond a limit.

    Attributes:
        offset: byte offset in the snapshot, or replication offset in the stream, where decoding stopped.
        db: database in effect, -1 where none was selected yet.
        key: the key whose value was being decoded, None outside of keys.
        type: name of the value type.
        part: what was being read there: "an entry of a listpack", "opcode AUX"; None where that is not known.
    """

    exit_code = os.EX_DATAERR

    def __init__(
        self,
        message: str,
        *,
        offset: int = -1,
        db: int = -1,
        key: bytes | None = None,
        type: str | None = None,  # noqa: A002 - the field's word for it
        part: str | None = None,
        hint: str | None = None,
    ) -> None:
        where = [f"in {part}"] if part is not None else []
        if offset >= 0:
            where.append(f"offset {offset}")
        if db >= 0:
            where.append(f"db {db}")
        if key is not None:
            where.append(f"key {printable(key)}")
        if type is not None:
            where.append(f"type {type}")
        super().__init__(f"{message} ({', '.join(where)})" if where else message, hint=hint)
        self.offset = offset
        self.db = db
        self.key = key
        self.type = type
        self.part = part


class TruncatedSnapshot(DecodeError):
    """The snapshot ended before its end mark."""


class ChecksumMismatch(DecodeError):
    """The CRC64 of the snapshot differs from the one it carries."""


class UnsupportedRdb(DecodeError):
    """A version, opcode or value type that this build does not know."""


class LimitExceeded(DecodeError):
    """A length or count is larger than anything the format or a setting allows."""


class TargetError(PortdError):
    """The target, or a connection to it, failed."""

    exit_code = os.EX_UNAVAILABLE


class TargetLost(TargetError):
    """A connection to the target ended or went silent."""

    retriable = True


class DataLost(TargetLost):
    """The target answers, and does not have any more what was written to it."""

    def __init__(self, message: str, *, hint: str = "the sync starts over; who flushed the target?") -> None:
        super().__init__(message, hint=hint)


class TargetBusy(Busy, TargetError):
    """The target refuses for now (``-OOM``, ``-LOADING``, ``-MISCONF`` and the like); the same bytes go again later."""


class TargetRejected(TargetError):
    """The target refused a command for good, and the policy is to stop."""

    exit_code = os.EX_DATAERR


class TargetRefused(TargetError):
    """The target, or an end that is compared, refused us for good: credentials, permissions or an unknown command."""

    exit_code = os.EX_NOPERM


class TargetNotEmpty(TargetError):
    """The target holds data that is not ours: the guard against syncing the wrong way round."""

    exit_code = os.EX_CONFIG


class ScriptMissing(TargetError):
    """The stream runs a script that was not seen, and that the target does not have: only a full sync makes up for it."""

    retriable = True


class LinkTaken(TargetError):
    """Another portd has the link: one that was there first, or one that took over."""

    exit_code = os.EX_TEMPFAIL


class SpoolError(PortdError):
    """The spool's directory cannot be used, or a segment was altered."""

    exit_code = os.EX_IOERR


class InternalError(PortdError):
    """An invariant of portd itself broke: a bug, never the operator's fault."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="this is a bug in portd, please report it with the log")


def redact_keys(*, on: bool) -> None:
    """From now on no message of this process names a key, or each does again."""
    global _redacting  # noqa: PLW0603 - errors are made everywhere, the kernel included, and know no settings
    _redacting = on


def printable(key: bytes, limit: int = 64) -> str:
    """A key as it may stand in a message: escaped, quoted, cut to *limit* bytes; see also `redact_keys`."""
    if _redacting:
        return REDACTED
    shown = key[:limit].decode("utf-8", "backslashreplace")
    return repr(shown) + ("…" if len(key) > limit else "")


class InputError(PortdError):
    """An input file is not there, not readable, or no file."""

    exit_code = os.EX_NOINPUT


class OutputError(PortdError):
    """Output cannot be written: the disk is full, the directory is missing."""

    exit_code = os.EX_IOERR


class OutputClosed(PortdError):
    """Whoever read our output has gone, as ``head`` does: nobody wants the rest. A dump, though, must not be cut."""

    exit_code = os.EX_IOERR


class Interrupted(PortdError):
    """A command was told to stop before its work was whole; it can be run again."""

    exit_code = os.EX_TEMPFAIL
