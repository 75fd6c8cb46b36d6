"""What the source's error replies mean to an operator. Matched by their first word; sentences differ by version.

`server.c:processCommand`, `replication.c:syncCommand` and `acl.c` of Redis and Valkey are where the replies come from.
"""

from __future__ import annotations

from portd.errors import HandshakeError, SourceBusy, SourceError

SHOWN_BYTES = 200  # of a reply, in a message

# In all sentences: {end} is which one of the ends the server is.

_BUSY: dict[str, tuple[str, str]] = {
    "LOADING": ("the {end} is still loading its data", "portd tries again until it has loaded"),
    "NOMASTERLINK": (
        "the {end} is a replica without a link to its own primary",
        "see master_link_status in the {end}'s INFO replication; or let portd read from the primary",
    ),
    "MASTERDOWN": (
        "the {end} is a replica without a link to its own primary",
        "see master_link_status in the {end}'s INFO replication; or let portd read from the primary",
    ),
    "BUSY": ("the {end} is busy with a script", "portd tries again; SCRIPT KILL on the {end} would end the script"),
    "TRYAGAIN": ("the {end} asks to try again", "portd tries again"),
    "CLUSTERDOWN": ("the {end}'s cluster is down", "portd tries again until the cluster is up"),
    "MISCONF": (
        "the {end} cannot write its snapshot to disk",
        "see the {end}'s log; it needs disk space, or repl-diskless-sync yes",
    ),
}

# Sentences of servers that answer with the bare code ERR, lower case; the first one found in the reply counts.
_BUSY_SENTENCES: dict[str, tuple[str, str]] = {
    "max number of clients": ("the {end} has no free connection", "raise maxclients on the {end}"),
    "not connected with my": _BUSY["NOMASTERLINK"],  # redis before 5.0
    "bgsave failed": (
        "the {end} could not make a snapshot",
        "see the {end}'s log: fork needs free memory (vm.overcommit_memory 1), a disk-based snapshot needs disk space",
    ),
    "unable to perform background save": (
        "the {end} could not make a snapshot",
        "see the {end}'s log: fork needs free memory (vm.overcommit_memory 1), a disk-based snapshot needs disk space",
    ),
}

NEEDS_PASSWORD = "set {end}_password or {end}_password_file, and a user in the {end}'s URL if it is not the default"  # noqa: S105
CHECK_PASSWORD = "check user and password; a user other than the default one goes into the {end}'s URL"  # noqa: S105
LEAST_ACL = "on the {end}: ACL SETUSER <user> on ><password> +ping +replconf +{acl_psync}; no key patterns are needed"
PROTECTED_MODE = "give the {end} a password, or bind it to a trusted address, as its message describes"
RENAMED = (
    "if it was renamed, set psync_command to its new name; many managed services do not offer it at all: "
    "ask the provider to allow replication to an outside replica"
)

# Refusals for good with the bare code ERR.
_SENTENCES: dict[str, tuple[str, str]] = {
    "operation not permitted": ("the {end} wants a password", NEEDS_PASSWORD),  # redis before 2.8
}
_NO_PASSWORD = (
    "the {end} has no password, but one was given",
    "leave {end}_password out, or name a user in the {end}'s URL",
)
_AUTH_SENTENCES: dict[str, tuple[str, str]] = {
    "no password is set": _NO_PASSWORD,  # redis before 6.0
    "without any password configured": _NO_PASSWORD,
    "invalid password": ("the {end} does not know this password", CHECK_PASSWORD),  # redis before 6.0
    "unknown command": ("the {end} does not know AUTH", "somebody renamed or disabled it there; undo that"),
    "wrong number of arguments": (
        "the {end} knows no users",
        "it is older than Redis 6: leave the user out of the URL",
    ),
}


def refused(
    command: str, line: bytes, *, psync: str = "PSYNC", secret: bool = False, end: str = "source"
) -> SourceError:
    """The error for a `-` reply.

    Args:
        command: what was refused, as shown to the operator.
        line: the reply without its line end, beginning with `-`.
        psync: the name that PSYNC has on this source.
        secret: the request held a password, which some replies repeat: nothing of the reply is shown but its code.
        end: which one the server is, `source` or `target`.
    """
    text = line[1:].decode("ascii", "backslashreplace")
    code, _, sentence = text.partition(" ")
    busy = _BUSY.get(code) or _find(_BUSY_SENTENCES, sentence)
    message, hint = (
        each.format(end=end, command=command, psync=psync, acl_psync=psync.lower())
        for each in busy or _for_good(command, code, sentence.lower(), psync)
    )
    if busy is not None:
        return SourceBusy(message, hint=hint, code=code)
    shown = code if secret else text[:SHOWN_BYTES]
    return HandshakeError(f"{message} ({shown[:SHOWN_BYTES]})", hint=hint)


def _for_good(command: str, code: str, sentence: str, psync: str) -> tuple[str, str]:
    """Message and hint of a refusal that trying again does not change; names in braces are still to be put in."""
    by_code = {
        "NOAUTH": ("the {end} wants a password", NEEDS_PASSWORD),
        "WRONGPASS": ("the {end} does not know this user and password", CHECK_PASSWORD),
        "NOPERM": ("the {end}'s user may not run {command}", LEAST_ACL),
        "DENIED": ("the {end} is in protected mode and takes no connections from other hosts", PROTECTED_MODE),
    }
    found = by_code.get(code) or _find(_AUTH_SENTENCES if command == "AUTH" else _SENTENCES, sentence)
    if found is not None:
        return found
    if "unknown command" in sentence and command == psync:
        return "the {end} does not know the command {psync}", RENAMED
    return "the {end} refused {command}", "see the {end}'s log; it must be Redis 2.8 or newer, or Valkey"


def _find(table: dict[str, tuple[str, str]], sentence: str) -> tuple[str, str] | None:
    lowered = sentence.lower()
    return next((found for words, found in table.items() if words in lowered), None)
