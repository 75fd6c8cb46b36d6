"""What an error reply means: wait and send again, keep a dead letter, or give up.

Only the code is looked at (the first word), since the sentences behind it differ by version and vendor. The exceptions
are the few ``ERR`` replies that have no code of their own; they are named here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from portd.errors import TargetBusy, TargetError, TargetLost, TargetRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_TEXT: Final = 200  # bytes of a reply that are kept


class Verdict(StrEnum):
    """What to do about an error reply."""

    RETRY = "retry"  # the same bytes may pass later
    REJECTED = "rejected"  # never: a dead letter
    REROUTE = "reroute"  # another node of the cluster takes it
    FATAL = "fatal"  # nothing of ours will pass until the operator changes something

    @property
    def ends(self) -> bool:
        """Nothing can go on."""
        return self in {Verdict.REROUTE, Verdict.FATAL}


RETRY_CODES: Final = frozenset(
    {"OOM", "LOADING", "MISCONF", "NOREPLICAS", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "READONLY"}
)
# Credentials and permissions: only the operator can change that.
REFUSAL_CODES: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM", "DENIED"})
FATAL_CODES: Final = frozenset({"NOAUTH", "WRONGPASS"})
REROUTE_CODES: Final = frozenset({"MOVED", "ASK"})  # cluster.c:clusterRedirectClient
# The connection that said this will not recover: a replica was promoted elsewhere, or the server is starting.
RECONNECT_CODES: Final = frozenset({"READONLY", "LOADING", "MASTERDOWN", "BUSY"})

WRONG_TYPE: Final = "WRONGTYPE"
USER_HINT: Final = "docs/operations.md lists what portd's user needs"
# What a server says before it closes the connection (networking.c:setProtocolError).
PROTOCOL_ERROR: Final = "ERR Protocol error"

_HINTS: Final = {
    "ERR": "an argument is larger than the target takes: raise its proto-max-bulk-len, and let portd's user read it (+config|get)",
}

BUSY_HINT: Final = (
    "it passes when the target has memory, replicas or its data again; a running sync waits for that, a start does not"
)


def code_of(text: str) -> str:
    """The first word of an error reply: ``OOM``, ``WRONGTYPE``, ``ERR``."""
    return text.split(" ", 1)[0]


def classify(text: str) -> Verdict:
    """What an error reply (without its ``-``) asks for."""
    code = code_of(text)
    if code in RETRY_CODES:
        return Verdict.RETRY
    if code in REROUTE_CODES:
        return Verdict.REROUTE
    if code in FATAL_CODES or text.startswith(PROTOCOL_ERROR):
        return Verdict.FATAL
    return Verdict.REJECTED


def abort_cause(text: str) -> str:
    """Why EXEC refused: the error behind ``EXECABORT Transaction discarded because of: ...``, or "" for queue errors.

    EXEC itself is refused so when one of its commands could not run now (server.c:processCommand, rejectCommand).
    """
    _, found, cause = text.partition("because of: ")
    return cause if found else ""


def presentable(text: str) -> str:
    """The reply as it may be logged: without the arguments that some servers repeat, and not too long."""
    head, found, _ = text.partition(", with args")
    return head[:MAX_TEXT] if found else text[:MAX_TEXT]


def already_applied(text: str) -> bool:
    """Whether the reply to a command that is sent a second time says that the first time did it.

    Covers ``XADD`` with an ID that is there already, and ``XGROUP CREATE`` of a group that is.
    """
    return code_of(text) == "BUSYGROUP" or (code_of(text) == "ERR" and "equal or smaller" in text)


def is_refusal(text: str) -> bool:
    """Whether an error reply is about what our user may do, or about a command that is not there."""
    return code_of(text) in REFUSAL_CODES or text.startswith("ERR unknown command")


def wrong_type(key: str) -> TargetError:
    """The error where a key that is ours alone holds something that we did not write."""
    return TargetError(
        f"the target's key {key!r} is portd's own and holds something else",
        hint=f"somebody wrote it: delete the key {key!r} in database 0 of the target",
    )


def fatal(text: str, who: str = "the target") -> TargetError:
    """The error that ends a sync because of a reply of *who* whose verdict `ends` it."""
    if is_refusal(text):
        return login_refused(who, text)
    if code_of(text) in REROUTE_CODES:
        return TargetLost(
            f"{who} has given slots away: {presentable(text)}", hint="the sync starts over by the new map"
        )
    return TargetError(f"{who} refuses everything: {presentable(text)}", hint=_HINTS.get(code_of(text)))


def _busy(message: str, code: str) -> TargetBusy:
    return TargetBusy(message, hint=BUSY_HINT, code=code)


def error_of(
    text: str,
    refuses: str,
    *,
    who: str = "the target",
    for_now: str = "is not ready",
    hint: str | None = None,
    key: str = "",
    login: bool = False,
    busy: Callable[[str, str], Exception] = _busy,
) -> Exception:
    """What an error reply to something of ours means: all but commands of the source, whose refusals are dead letters.

    Args:
        text: the reply.
        refuses: what *who* does by it: "refuses transactions".
        who: sent it, with its address where that is known.
        for_now: the same where it passes by itself.
        hint: what to do.
        key: that was asked for, where that is one of ours.
        login: it is about user or password.
        busy: makes the error of what passes by itself, from a message and the reply's code.
    """
    text = abort_cause(text) or text
    shown, code, verdict = presentable(text), code_of(text), classify(text)
    if verdict in {Verdict.RETRY, Verdict.REROUTE}:  # another node has the slot by now: the next try asks who
        return busy(f"{who} {for_now}: {shown}", code)
    if login:
        return login_refused(who, text)
    if verdict.ends:
        return fatal(text, who)
    if key and code == WRONG_TYPE:
        return wrong_type(key)
    if is_refusal(text):
        return TargetRefused(f"{who} {refuses}: {shown}", hint=hint or USER_HINT)
    return TargetError(f"{who} {refuses}: {shown}", hint=hint)


@dataclass(frozen=True, slots=True)
class Sorted:
    """Errors in a group of commands, by what they ask for.

    Attributes:
        passing: by number of the command, what passes by itself.
        refused: likewise what never passes.
        fatal: one after which nothing goes on, "" when there is none.
        trouble: one that passes by itself, "" when there is none.
    """

    passing: dict[int, str]
    refused: dict[int, str]
    fatal: str
    trouble: str


def sort_out(errors: Mapping[int, str], cause: str = "") -> Sorted:
    """Sorts errors.

    Args:
        errors: by number of the command.
        cause: an error that is about none of them.
    """
    verdicts = {number: classify(text) for number, text in errors.items()}
    passing = {number: errors[number] for number, verdict in verdicts.items() if verdict is Verdict.RETRY}
    refused = {number: errors[number] for number, verdict in verdicts.items() if verdict is Verdict.REJECTED}
    others = [*errors.values(), cause] if cause else errors.values()
    return Sorted(
        passing,
        refused,
        fatal=next((text for text in others if classify(text).ends), ""),
        trouble=next((text for text in others if classify(text) is Verdict.RETRY), ""),
    )


def login_refused(who: str, text: str) -> TargetRefused:
    """The error for a refused login.

    Args:
        who: refused it, with its address where that is known.
        text: the reply; it may repeat what was sent, so that only its code is told.
    """
    code, sentence = code_of(text), text.lower()
    if code == "NOAUTH" or "operation not permitted" in sentence:
        return TargetRefused(
            f"{who} wants a password and got none ({code})", hint="set it in a password file, a variable or the URL"
        )
    if "no password is set" in sentence or "without any password configured" in sentence:
        return TargetRefused(
            f"{who} has no password, but one was given ({code})",
            hint="leave the password out, or name a user in the URL",
        )
    return TargetRefused(
        f"{who} refused the credentials ({code})", hint="check user and password; a user goes into the URL"
    )
