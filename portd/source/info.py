"""What the source says about itself, where it lets us ask. A user with the least ACL may not: then all is unknown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from portd.errors import SourceBusy
from portd.log import get_logger
from portd.net.control import NO_ROOM, Refused, keys_by_database, open_control, parse_info, parse_pairs
from portd.net.identity import ROLES, ServerIdentity
from portd.net.resp import request
from portd.net.shapes import whole
from portd.source.cluster import QUESTION, is_node
from portd.source.losses import connect_error
from portd.source.refusals import refused as refusal

if TYPE_CHECKING:
    from portd.errors import SourceError
    from portd.net.endpoint import Endpoint

_log = get_logger("source")

_SECTIONS = ("server", "replication", "persistence", "memory", "modules", "keyspace", "cluster")
_CONFIG = ("client-output-buffer-limit", "repl-backlog-size", "repl-timeout", "repl-diskless-sync")


@dataclass(frozen=True, slots=True)
class OutputLimit:
    """What the source queues for one replica before it drops it; 0 is no limit.

    Attributes:
        hard_bytes: dropped at once.
        soft_bytes: dropped when exceeded for `soft_seconds`.
        soft_seconds: see there.
    """

    hard_bytes: int
    soft_bytes: int
    soft_seconds: int


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """INFO and CONFIG of the source as far as they were answered; None is unknown.

    Attributes:
        family: `redis` or `valkey`.
        version: as the family numbers it.
        run_id: changes with every start of the process.
        role: `primary` or `replica`.
        replid: replication id.
        replid2: the one before a promotion.
        offset: replication offset now.
        link_up: of a replica: whether its own link is up.
        backlog_bytes: size of the backlog, or what it will be.
        replicas: connected replicas, ours included.
        used_memory: bytes.
        keys: in all databases.
        databases: keys in each that holds some; empty where it does not tell.
        output_limit: of the class replica.
        repl_timeout_seconds: how long the source waits for an ACK.
        diskless: snapshots are sent without a file.
        modules: loaded modules.
        cluster: it is a node of a cluster.
        refused: what was not allowed to ask, such as `INFO`.
    """

    family: str | None = None
    version: str | None = None
    run_id: str | None = None
    role: str | None = None
    replid: str | None = None
    replid2: str | None = None
    offset: int | None = None
    link_up: bool | None = None
    backlog_bytes: int | None = None
    replicas: int | None = None
    used_memory: int | None = None
    keys: int | None = None
    databases: dict[int, int] = field(default_factory=dict)
    output_limit: OutputLimit | None = None
    repl_timeout_seconds: int | None = None
    diskless: bool | None = None
    modules: tuple[str, ...] = ()
    cluster: bool | None = None
    refused: frozenset[str] = field(default_factory=frozenset)

    def shown(self) -> dict[str, str]:
        """For `Progress.source_info`: what is known, as text."""
        names = (
            "family",
            "version",
            "role",
            "run_id",
            "replid",
            "replid2",
            "keys",
            "used_memory",
            "backlog_bytes",
            "diskless",
        )
        known = {name: getattr(self, name) for name in names} | {"cluster": self.cluster or None}
        return {name: str(value) for name, value in known.items() if value is not None}


async def read_info(endpoint: Endpoint) -> SourceInfo:
    """Asks the source who it is.

    Raises:
        ReceiverLost: it cannot be reached, or does not answer. Refusals are not errors.
        SourceBusy: it has no free connection.
        HandshakeError: TLS fails, or our user may not open the unix socket.
        ConfigError: a TLS file cannot be used.
    """
    questions = [request("INFO", section) for section in _SECTIONS]
    questions += [request("CONFIG", "GET", name) for name in _CONFIG]
    questions += [QUESTION]
    refused = set()
    info: dict[str, str] = {}
    config: dict[str, str] = {}
    try:
        async with open_control(endpoint) as control:
            *answers, node = await control.ask(*questions)
    except Refused:  # the receiver will say what is wrong with user and password
        return _understand({}, {}, None, frozenset({"INFO", "CONFIG GET"}))
    except OSError as error:  # TimeoutError is one
        raise _silent(endpoint, error) from error
    for answer in answers[: len(_SECTIONS)]:
        if isinstance(answer, bytes):
            info |= parse_info(answer)
        else:
            refused.add("INFO")
    for answer in answers[len(_SECTIONS) :]:
        if isinstance(answer, list):
            config |= parse_pairs(answer)
        else:
            refused.add("CONFIG GET")
    return _understand(info, config, node, frozenset(refused))


async def ask_info(endpoint: Endpoint, section: str) -> dict[str, str]:
    """One section of INFO; empty where our user may not ask, and where the source does not answer."""
    try:
        async with open_control(endpoint) as control:
            return parse_info(await control.call("INFO", section))
    except (Refused, OSError) as error:
        _log.debug("source does not tell", section=section, error=str(error))
        return {}


async def ask_offset(endpoint: Endpoint) -> int | None:
    """The source's replication offset now; None where it does not let us ask.

    Raises:
        SourceError: it does not answer, or not now: that says nothing, and it may be asked again.
    """
    try:
        async with open_control(endpoint) as control:
            told = parse_info(await control.call("INFO", "replication"))
    except Refused as error:
        why = refusal("INFO", f"-{error.text}".encode(), secret=error.login)
        if isinstance(why, SourceBusy):
            raise why from None
        _log.debug("source does not tell its offset", error=str(why))
        return None
    except OSError as error:
        raise _silent(endpoint, error) from error
    return _number(told, "master_repl_offset")


def _silent(endpoint: Endpoint, error: OSError) -> SourceError:
    """What to raise when a question could not be asked, or was not answered."""
    if str(error).startswith(NO_ROOM):
        return refusal("INFO", f"-{error}".encode())
    return connect_error(endpoint.display, error)


async def ask_keys(endpoint: Endpoint) -> int | None:
    """Keys in all databases of the source; None where it does not tell."""
    info = await ask_info(endpoint, "keyspace")
    return sum(keys_by_database(info).values()) if info else None


async def ask_branch(endpoint: Endpoint, before: str, now: str) -> int:
    """The offset up to which a history is part of the one that goes on from it; -1 where the source does not tell.

    What somebody has of the former behind it was lost with the server that wrote it
    (``replication.c:masterTryPartialResynchronization``).

    Args:
        endpoint: the source.
        before: id of the former history.
        now: id of the one that the source has.
    """
    info = await ask_info(endpoint, "replication")
    second = _number(info, "second_repl_offset")
    told = info.get("master_replid"), info.get("master_replid2")
    return -1 if second is None or told != (now, before) else second - 1


def _understand(info: dict[str, str], config: dict[str, str], node: object, refused: frozenset[str]) -> SourceInfo:
    identity = ServerIdentity.of(info)
    link = info.get("master_link_status")
    second = info.get("master_replid2", "")
    keys = keys_by_database(info)
    return SourceInfo(
        family=identity.family or None,
        version=identity.number if identity.family else None,
        run_id=identity.run_id or None,
        role=ROLES.get(identity.role),
        replid=info.get("master_replid"),
        replid2=second if second.strip("0") else None,
        offset=_number(info, "master_repl_offset"),
        link_up=None if link is None else link == "up",
        backlog_bytes=_number(info, "repl_backlog_size") or _number(config, "repl-backlog-size"),
        replicas=_number(info, "connected_slaves"),
        used_memory=_number(info, "used_memory"),
        keys=sum(keys.values()) if info else None,
        databases=keys,
        output_limit=parse_output_limit(config.get("client-output-buffer-limit", "")),
        repl_timeout_seconds=_number(config, "repl-timeout"),
        diskless=None if "repl-diskless-sync" not in config else config["repl-diskless-sync"] == "yes",
        modules=identity.modules,
        cluster=is_node(info, node),
        refused=refused,
    )


def parse_output_limit(text: str) -> OutputLimit | None:
    """The limit of replicas in CONFIG GET client-output-buffer-limit: `normal 0 0 0 slave 268435456 67108864 60 ...`."""
    words = text.split()
    for at in range(0, len(words) - 3, 4):
        numbers = [number for word in words[at + 1 : at + 4] if (number := whole(word)) is not None]
        if words[at] in {"slave", "replica"} and len(numbers) == 3:
            return OutputLimit(*numbers)
    return None


def _number(values: dict[str, Any], name: str) -> int | None:
    text = str(values.get(name, ""))
    return whole(text)
