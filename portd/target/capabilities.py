"""What a target is and can do, as `portd.target.probe` found out."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypedDict

from portd.config.rules import Choice
from portd.errors import ConfigError, TargetRefused
from portd.kernel.commandtable import CommandTable
from portd.kernel.forms import Forms, lacking
from portd.kernel.keyspecs import KeySpecs
from portd.kernel.snapshot import Dialect
from portd.log import get_logger
from portd.net.identity import ROLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portd.kernel.border import Border
    from portd.kernel.mapping import Mapping as RuleMapping
    from portd.kernel.rules import Rules

_log = get_logger("target")

# Commands that a sync cannot do without, on the target: the least ACL.
# The stream brings whatever the source's users write, so `+@write` or the like comes on top. `CLIENT SETNAME`, `ID` and
# `KILL` are tried on each connection: without KILL, what a lost connection had sent during the snapshot can in rare
# cases (a target that stood still) take effect late.
NEEDED_COMMANDS: Final = (
    *("multi", "exec", "watch", "select", "info"),  # transactions of the stream
    *("hset", "hget", "hgetall", "del", "exists", "pexpire"),  # the checkpoint and the lease
    *("set", "setrange", "rpush", "llen", "sadd", "zadd", "pexpireat"),  # values of the snapshot
)
# Commands that a sync uses where the target has them and the user may run them, and what is lost without.
USEFUL_COMMANDS: Final = {
    "restore": "values go as element commands: slower, and idle time and frequency are lost",
    "mset": "strings go one by one: slower",
    "unlink": "large keys are removed with DEL, which blocks the target",
    "xadd": "streams are not copied",
    "xsetid": "streams are not copied",
    "xgroup": "consumer groups are not copied",
    "xclaim": "pending entries of consumer groups are not copied",
    "function": "function libraries are not copied",
    "hpexpireat": "expiry times of hash fields are lost in large hashes",
    "hsetex": "expiry times of hash fields take two commands instead of one",
    "eval": "elements larger than the memory for them cannot be added to sorted sets, and commands whose form for an older"
    " target is a script are refused",
    "script": "scripts of the source are not there for clients that move, and EVALSHA of a source cannot be followed",
    "scan": "the guard counts checkpoints of other links as data",
    "config": "limits of the target are not known and defaults are assumed",
    "command": "only commands portd knows go on from the stream, those of modules become dead letters",
    "client|list": "snapshots go in transactions: a tenth slower",
    "client|kill": "snapshots go in transactions: a tenth slower",
    "client|setname": "snapshots go in transactions: a tenth slower",
    "client|id": "snapshots go in transactions: a tenth slower",
}

# To end the connections of others, which must have names, and not the one that asks.
EVICTING_COMMANDS: Final = ("client|list", "client|kill", "client|setname", "client|id")


ALLKEYS: Final = "allkeys-"  # maxmemory-policies that take any key
KEEP_KEYS: Final = "CONFIG SET maxmemory-policy noeviction on the target"
OLDEST_REDIS: Final = (4, 0)  # HSET with several fields, UNLINK, scripts whose effects are replicated
TRANSACTION_BYTES: Final = 64 * 1024  # of a snapshot, where it goes in transactions
RESTORE_ROOM_BYTES: Final = 64 * 1024  # of an argument of RESTORE, for what stands around the value


class StreamForms(TypedDict):
    """Which forms of commands the stream may have on its way to a target; see `portd.kernel.stream.StreamSplitter`."""

    pxat: bool
    entries_read: bool
    unlink: bool
    commands: CommandTable
    databases: int
    own: bytes
    stops: bool
    rules: Rules | None
    mapping: RuleMapping | None
    blocked: frozenset[int]
    owes: bool
    border: Border | None
    parted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """A target.

    Attributes:
        family: ``valkey`` or ``redis``.
        version: (major, minor, patch) in the numbering of its family.
        run_id: changes with each start of the process.
        role: ``master`` or ``slave``, as INFO says.
        read_only: a replica that takes no writes.
        cluster_enabled: a cluster node.
        rdb_version: highest RDB version of its family that it loads.
        footer: RDB version to write into RESTORE payloads.
        footer_probed: the target accepted that footer; else it is known from the release.
        commands: lower-case names of the commands it has and that our user may run.
        forbidden: commands it has, that portd would use, and that our user may not run.
        modules: names of the loaded modules.
        maxmemory: bytes; 0 is no limit; -1 when not known.
        maxmemory_policy: "" when not known.
        used_memory: bytes.
        proto_max_bulk_bytes: largest argument it takes.
        keys: keys by database.
        io_threads: threads that read from connections; 1 when not known.
        databases: how many it has; 0 when not known.
        flags: whether each of its commands writes, by lower-case name; empty where it does not tell.
        key_specs: where the keys of its commands stand, as `portd.net.commands.key_specs` says it.
    """

    family: str
    version: tuple[int, int, int]
    run_id: str
    role: str
    read_only: bool
    cluster_enabled: bool
    rdb_version: int
    footer: int
    footer_probed: bool
    commands: frozenset[str]
    forbidden: frozenset[str]
    modules: frozenset[str]
    maxmemory: int
    maxmemory_policy: str
    used_memory: int
    proto_max_bulk_bytes: int
    keys: dict[int, int]
    io_threads: int = 1
    databases: int = 0
    flags: Mapping[bytes, bool] = field(default_factory=dict)
    key_specs: Mapping[bytes, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Family and version, ``valkey 9.1.2``."""
        return f"{self.family} {'.'.join(map(str, self.version))}"

    def dialect(self) -> Dialect:
        """What the decoder needs to know."""
        return Dialect(
            valkey=self.family == "valkey",
            rdb_version=self.rdb_version,
            footer=self.footer,
            server_version=self.version[:2],
            mset="mset" in self.commands and not self.cluster_enabled,
            modules=self.modules,
            commands=self.commands,
            maxmemory_policy=self.maxmemory_policy,
            max_bulk_bytes=self.proto_max_bulk_bytes,
            databases=self.databases,
        )

    @property
    def evicts(self) -> bool:
        """Our user may end connections."""
        return self.commands.issuperset(EVICTING_COMMANDS)

    def batch_bytes(self, wanted: int) -> int:
        """What a lane sends in one go: a transaction is executed without a break, which other clients notice."""
        return wanted if self.evicts else min(wanted, TRANSACTION_BYTES)

    def chunk_bytes(self, wanted: int) -> int:
        """What is held whole of a value, so that the target takes it as one argument of RESTORE or of a command."""
        return min(wanted, self.proto_max_bulk_bytes - RESTORE_ROOM_BYTES)

    @property
    def evicts_any_key(self) -> bool:
        """It deletes keys of its own choice when its memory is full, also ones without an expiry: a checkpoint, too."""
        return self.maxmemory != 0 and self.maxmemory_policy.startswith(ALLKEYS)

    def warn_of_eviction(self) -> None:
        """Says at the start what may happen to what a sync rests on."""
        if self.evicts_any_key:
            _log.warning(
                "the target may evict the checkpoint, as any key: the sync starts over then",
                maxmemory=self.maxmemory,
                maxmemory_policy=self.maxmemory_policy,
                hint=KEEP_KEYS,
            )

    @property
    def too_old(self) -> bool:
        """It lacks what a sync is built on."""
        return self.family == "redis" and self.version[:2] < OLDEST_REDIS

    @property
    def pxat(self) -> bool:
        """SET takes PXAT."""
        return self.family == "valkey" or self.version >= (6, 2, 0)

    @property
    def keys_of_commands(self) -> KeySpecs:
        """Where the keys of commands stand: one table for all targets that say the same of their commands."""
        return _keys_of_commands(frozenset(self.key_specs.items()))

    def stream_forms(
        self, source: Mapping[str, str], *, own: str, publish: bool = True, stops: bool = False,
        choice: Choice | None = None, left: Iterable[str] = (), owes: bool = False,
        border: Border | None = None, parted: bool = False,
    ) -> StreamForms:  # fmt: skip
        """What the stream splitter needs to know.

        Args:
            source: ``family`` and ``version`` of what wrote the stream, as `Progress.source_info` has them; without them
                it is taken to be new.
            own: prefix of keys that are ours alone.
            publish: messages go on.
            stops: the first refusal ends the sync.
            choice: which keys are taken, and where they go; None: all, as they are.
            left: names of commands that do not go on.
            owes: keys can be copied from the source whose values the target does not have.
            border: where the stream of a cluster's shard stops.
            parted: the target is a cluster.
        """
        chosen = choice or Choice()
        return {
            "pxat": self.pxat,
            "entries_read": self.family == "valkey" or self.version >= (7, 0, 0),
            "unlink": "unlink" in self.commands,
            "commands": CommandTable(
                self.flags,
                publish=publish,
                forms=Forms(lacking(self.family, self.version), "eval" in self.commands, _removes_claimed(source)),
                dialect=self.dialect(),
                keys=self.keys_of_commands,
                left=frozenset(name.encode() for name in left),
            ),
            "databases": self.databases,
            "own": own.encode(),
            "stops": stops,
            "rules": chosen.rules,
            "mapping": chosen.mapping,
            "blocked": chosen.blocked,
            "owes": owes,
            "border": border,
            "parted": parted,
        }

    def shown(self) -> dict[str, str]:
        """What operators see."""
        return {
            "server": self.name,
            "role": ROLES.get(self.role, self.role),
            "run_id": self.run_id,
            "rdb_version": str(self.rdb_version),
            "restore_footer": f"{self.footer}{'' if self.footer_probed else ' (assumed)'}",
            "commands": str(len(self.commands)),
            "forbidden": " ".join(sorted(self.forbidden)),
            "modules": " ".join(sorted(self.modules)),
            "databases": str(self.databases or "unknown"),
            "maxmemory": str(self.maxmemory),
            "maxmemory_policy": self.maxmemory_policy,
        }

    def require_usable(self, *, cluster: bool = False) -> None:
        """Makes sure that a sync into this target can work.

        Args:
            cluster: its URL names it as a cluster.

        Raises:
            ConfigError: it is a cluster node and was not named as one, a read-only replica, or older than any that can be written to.
            TargetRefused: commands are missing, or our user may not run them.
        """
        if self.too_old:
            raise ConfigError(
                f"the target is {self.name}, and portd writes to Redis {'.'.join(map(str, OLDEST_REDIS))} or newer",
                hint="upgrade the target; an older server can be the source of a sync",
            )
        if self.cluster_enabled and not cluster:
            raise ConfigError(
                "the target is a cluster node",
                hint="redis+cluster://host:port,host:port is the URL of a cluster; docs/clusters.md says what holds there",
            )
        if self.read_only:
            raise ConfigError("the target is a read-only replica", hint="point --target at its primary")
        missing = [name for name in NEEDED_COMMANDS if name not in self.commands]
        if missing:
            raise TargetRefused(
                f"the target lacks commands that a sync needs, or our user may not run them: {', '.join(missing)}",
                hint="grant them: ACL SETUSER <user> ~* +@write +@transaction "
                + " ".join(f"+{name}" for name in missing),
            )


@lru_cache(maxsize=4)
def _keys_of_commands(told: frozenset[tuple[bytes, str]]) -> KeySpecs:
    return KeySpecs(dict(told))


def _removes_claimed(source: Mapping[str, str]) -> bool:
    """Whether XCLAIM removes a pending entry whose message was deleted: since Redis 7.0 (t_stream.c:xclaimCommand)."""
    major = source.get("version", "").partition(".")[0]
    return source.get("family") != "redis" or not major.isdecimal() or int(major) >= 7
