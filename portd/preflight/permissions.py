"""May we do what a sync does? Asked without doing any of it."""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from portd.errors import PortdError
from portd.kernel.slots import slot_tag
from portd.link.keycopies import HINT
from portd.model import ConnectionState
from portd.net.control import Refused, open_control
from portd.net.resp import request
from portd.preflight.findings import error, fine, note, warning
from portd.target.capabilities import NEEDED_COMMANDS, USEFUL_COMMANDS
from portd.target.connection import ConnectionOptions, connect, text_of

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint
    from portd.preflight.findings import Finding
    from portd.preflight.survey import Survey
    from portd.target.capabilities import Capabilities

SOURCE_COMMANDS = ("PING", "REPLCONF", "PSYNC")


async def source_permissions(endpoint: Endpoint, psync: str) -> list[Finding]:
    """Whether the source lets us replicate.

    PSYNC is sent in one packet behind a PING, with an offset that is no number. Every server checks permissions first,
    then refuses it because the PING's reply is still pending (`replication.c:syncCommand`); one that did not would
    refuse the offset. No snapshot is made.

    Args:
        endpoint: the source.
        psync: name of PSYNC there.
    """
    try:
        async with open_control(endpoint) as control:
            answers = await control.ask(request("PING"), request("REPLCONF", "capa", "eof"), request(psync, "?", "x"))
    except (OSError, Refused, PortdError) as problem:
        return [
            warning(
                "source.permissions",
                f"could not be tried: {str(problem) or type(problem).__name__}",
                "a sync may be refused",
                "try again, or look into the source's log",
            )
        ]
    return [
        _source_command(name, psync, text_of(answer)) for name, answer in zip(SOURCE_COMMANDS, answers, strict=True)
    ]


def _source_command(name: str, psync: str, answer: str) -> Finding:
    subject = f"source.permissions.{name.lower()}"
    shown = psync if name == "PSYNC" else name
    if answer.startswith("NOPERM"):
        if name == "PING":
            return note(subject, "our user may not PING", "a sync works without")
        return error(
            subject,
            f"our user may not run {shown}",
            "a replica cannot connect without it",
            f"on the source: ACL SETUSER <user> +ping +replconf +{psync.lower()}; no key patterns are needed",
            exit_code=os.EX_NOPERM,
        )
    if "unknown command" in answer.lower():
        return error(
            subject,
            f"the source does not know {shown}",
            "somebody renamed it, or the service does not offer replication",
            "set psync_command to its new name, or ask the provider to allow replication to an outside replica",
            exit_code=os.EX_NOPERM,
        )
    return fine(subject, f"allowed{'' if name != 'PSYNC' else f' ({psync})' if psync != 'PSYNC' else ''}")


async def copying_permissions(endpoint: Endpoint, slot: int | None = None) -> list[Finding]:
    """Whether the source lets us copy single keys, which rules and targets that are clusters may ask for (docs/filters.md). A key is asked for that is not there.

    Args:
        endpoint: the source, or a node of it.
        slot: of a cluster, one that the node has.
    """
    subject = "source.permissions.copying"
    key = secrets.token_hex(8) if slot is None else f"{{{slot_tag(slot)}}}{secrets.token_hex(8)}"
    words = [
        ("SELECT", "0"), ("MEMORY", "USAGE", key), ("DUMP", key), ("PEXPIRETIME", key), ("PTTL", key), ("TIME",),
        ("INFO", "replication"), ("MULTI",), ("EXEC",),
    ]  # fmt: skip
    try:
        async with open_control(endpoint) as control:
            answers = await control.ask(*(request(*each) for each in words))
    except (OSError, Refused, PortdError) as problem:
        return [note(subject, f"could not be tried: {str(problem) or type(problem).__name__}")]
    said = {each[0]: text_of(answer) for each, answer in zip(words, answers, strict=True)}
    if "unknown command" in said["PEXPIRETIME"].lower():
        del said["PEXPIRETIME"]  # an older one is asked for both of the others
    elif not said["PEXPIRETIME"]:
        del said["PTTL"], said["TIME"]
    refused = [name for name, text in said.items() if text]
    if not refused:
        return [fine(subject, "keys may be copied one by one, where that is needed")]
    return [
        warning(
            subject,
            f"our user may not run, or the source lacks: {', '.join(refused)}",
            "keys that get values from keys outside of the rules, or in other slots, become dead letters (not_copied)",
            HINT,
        )
    ]


async def target_permissions(endpoint: Endpoint, found: Capabilities, checkpoint: str) -> list[Finding]:
    """Whether the target lets us write; *checkpoint* is the key of this link's checkpoint."""
    findings = []
    missing = [name for name in NEEDED_COMMANDS if name not in found.commands]
    if missing:
        forbidden = [name for name in missing if name in found.forbidden]
        findings.append(
            error(
                "target.permissions.needed",
                f"our user may not run, or the target lacks: {' '.join(missing)}",
                "a sync cannot do without them",
                "on the target: ACL SETUSER <user> ~* +@write +@transaction "
                + " ".join(f"+{name}" for name in (forbidden or missing)),
                exit_code=os.EX_NOPERM,
            )
        )
    else:
        findings.append(fine("target.permissions.needed", f"all {len(NEEDED_COMMANDS)} needed commands are allowed"))
    findings += [
        warning(
            f"target.permissions.{name}",
            f"our user may not run {name.upper()}",
            loss,
            f"on the target: ACL SETUSER <user> +{name}",
        )
        for name, loss in USEFUL_COMMANDS.items()
        if name in found.forbidden
    ]
    if not missing:
        findings += await _keys(endpoint, checkpoint)
    return findings


async def _keys(endpoint: Endpoint, checkpoint: str) -> list[Finding]:
    """Whether our user may write any key: queued in a transaction that is never executed."""
    hasty = replace(endpoint, silence_seconds=endpoint.connect_seconds)
    anything = f"{secrets.token_hex(8)}"
    connection = await connect(hasty, "check", ConnectionState(), ConnectionOptions())
    try:
        answers = await connection.ask(
            request("MULTI"), request("SET", anything, ""), request("HSET", checkpoint, "f", "")
        )
    finally:
        connection.close()  # with its transaction
    findings = []
    for subject, key, answer in zip(
        ("target.permissions.keys", "target.permissions.checkpoint"),
        ("any key", checkpoint),
        answers[1:],
        strict=True,
    ):
        if text_of(answer).startswith("NOPERM"):
            findings.append(
                error(
                    subject,
                    f"our user may not write {key}",
                    "keys outside of its patterns would end as dead letters",
                    "on the target: ACL SETUSER <user> ~*",
                    exit_code=os.EX_NOPERM,
                )
            )
        else:
            findings.append(fine(subject, f"{key} may be written"))
    return findings


def unanswered(side: str, survey: Survey) -> list[Finding]:
    """What could not be looked at because asking is forbidden."""
    names = {"INFO", "CONFIG GET", "TIME"} & survey.refused
    if not names:
        return []
    return [
        note(
            f"{side}.permissions.asking",
            f"our user may not run {', '.join(sorted(names))}",
            "a sync works without, but what they tell could not be checked",
            f"for this check, on the {side}: ACL SETUSER <user> +info +config|get +time",
        )
    ]
