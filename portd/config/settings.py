"""Every setting of ``portd sync``: name, default, unit, meaning, and what contradicts what.

`Settings` is plain data, so that a running sync does not carry what read it. Reading flags, variables, files and
credentials into it is in `portd.config.load`; the flags and the reference are made from the fields here. How a memory
budget is split is in `portd.memory.plan`.
"""
# ruff: noqa: RUF009 - `option` makes a dataclass field

from __future__ import annotations

import dataclasses
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from portd.config.choices import (
    Existing,
    ExpiryGap,
    LogFormat,
    LogLevel,
    OnRefusal,
    Prune,
    ReadFrom,
    StopAfter,
    VerifyMethod,
)
from portd.config.ends import end_of, with_map
from portd.config.option import REQUIRED, option
from portd.config.rulesettings import RuleSettings
from portd.errors import ConfigError
from portd.kernel.slots import key_slot
from portd.net.endpoint import Endpoint, is_cluster
from portd.units import GIB, KIB, MIB, show_size

DEFAULT_LINK = "default"
MOST_LINK_LETTERS = 64
MIN_CHUNK_BYTES = 64 * KIB
MAX_CHUNK_BYTES = 64 * MIB
MAX_BUDGET_BYTES = 32 * MIB  # default ceiling of the budget; an explicit setting may go above
GROUPS = ("Ends", "TLS", "What is done", "Rules", "Speed and memory", "Patience", "What is seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(RuleSettings):
    """What one sync was told to do; checked when it is made, and immutable.

    Raises:
        ConfigError: two settings contradict each other, or an address cannot be understood.
    """

    source: str = option(
        REQUIRED,
        "Server to copy from: redis://[user[:password]@]host[:port], rediss://... for TLS, unix:///path, or "
        "redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/name for the primary that Sentinels tell, or "
        "redis+cluster://[user[:password]@]host[:port][,host[:port]...] for all shards of a cluster (sync only). "
        "All databases are copied; one named in the URL is ignored. A password in the URL of a flag is hidden from other users "
        "(ps) by sync only; with every other command keep it in a file, a variable or a credential.",
        group="Ends",
        secret=True,
        unit="URL",
    )
    target: str = option(
        REQUIRED,
        "Server to copy into, written like the source; what is said of passwords there holds here, too.",
        group="Ends",
        unit="URL",
        secret=True,
    )
    shard_of: str = ""  # of a shard's link: the one that the operator described; and where its node is while
    shard_node: str = ""  # that has no slots yet: <id> <host> <port>
    shard_pending: tuple[str, ...] = ()  # slots of the source that no link has: one was about to be copied with them
    source_password: str | None = option(
        None,
        "Password for the source when the URL has none. Prefer the file or a credential: other users can see flags.",
        group="Ends",
        secret=True,
    )
    source_password_file: Path | None = option(
        None, "File whose first line is the source's password.", group="Ends", unit="path"
    )
    target_password: str | None = option(
        None,
        "Password for the target when the URL has none. Prefer the file or a credential.",
        group="Ends",
        secret=True,
    )
    target_password_file: Path | None = option(
        None, "File whose first line is the target's password.", group="Ends", unit="path"
    )
    link: str = option(
        DEFAULT_LINK,
        "Name of this sync. Syncs into one target that differ in name keep separate checkpoints.",
        group="Ends",
        pattern=rf"^[A-Za-z0-9_.-]{{1,{MOST_LINK_LETTERS}}}$",
    )
    checkpoint_key: str = option(
        "portd:checkpoint:",
        "Prefix of the key in the target's database 0 that holds the checkpoint; the link's name is appended. Keys of the "
        "source that begin with it are not copied, in any database.",
        group="Ends",
        min_length=1,
    )
    source_address_map: str = option(
        "",
        "Addresses to use in place of those that the nodes of a source cluster announce; see target_address_map.",
        group="Ends",
    )
    target_address_map: str = option(
        "",
        "Addresses to use in place of those that the nodes of a target cluster announce, where these cannot be reached from here "
        "(NAT, containers): `announced=used,...`, each a host and a port.",
        group="Ends",
    )
    source_read_from: ReadFrom = option(
        ReadFrom.PRIMARY,
        "Who sends snapshot and stream, where the source is a cluster. With `replica`, one of each shard, so that its primary has neither "
        "the fork nor the buffer; without one that can be read, the link waits. With `prefer-replica`, the primary is read then.",
        group="Ends",
    )
    one_shard: bool = option(
        False,
        "The source is a node of a cluster, and its share of the keys is all that is wanted. Without it such a source is refused: "
        "the other shards would be missing. With a redis+cluster:// URL, it is the node that has all of include_slots.",
        group="Ends",
    )
    takeover: bool = option(
        False,
        "Take the link over from another portd that has it; that one ends with exit code 75. Without it, the second "
        "one refuses to start with that code.",
        group="Ends",
    )
    standby: bool = option(
        False,
        "Where another portd has the link, wait for it and take it when it is free: at once when that one ends in order, within its lease "
        "of 15 seconds otherwise. A portd that loses the link waits for it again. docs/guides/standby.md tells how two of them are run.",
        group="Ends",
    )

    source_tls_ca: Path | None = option(
        None,
        "PEM file of the authorities that may sign the source's certificate; the system's if unset.",
        group="TLS",
        unit="path",
    )
    source_tls_cert: Path | None = option(
        None, "PEM file of portd's certificate for the source.", group="TLS", unit="path"
    )
    source_tls_key: Path | None = option(
        None,
        "PEM file of that certificate's private key, if the certificate file does not hold it.",
        group="TLS",
        unit="path",
    )
    source_tls_server_name: str | None = option(
        None, "Name to ask the source for (SNI) and to find in its certificate; the URL's host if unset.", group="TLS"
    )
    source_tls_insecure: bool = option(
        False,
        "Do not check the source's certificate: anyone on the path can then read and change the data.",
        group="TLS",
    )
    target_tls_ca: Path | None = option(
        None,
        "PEM file of the authorities that may sign the target's certificate; the system's if unset.",
        group="TLS",
        unit="path",
    )
    target_tls_cert: Path | None = option(
        None, "PEM file of portd's certificate for the target.", group="TLS", unit="path"
    )
    target_tls_key: Path | None = option(
        None,
        "PEM file of that certificate's private key, if the certificate file does not hold it.",
        group="TLS",
        unit="path",
    )
    target_tls_server_name: str | None = option(
        None, "Name to ask the target for (SNI) and to find in its certificate; the URL's host if unset.", group="TLS"
    )
    target_tls_insecure: bool = option(
        False,
        "Do not check the target's certificate: anyone on the path can then read and change the data.",
        group="TLS",
    )

    existing: Existing = option(
        Existing.REFUSE,
        "What to do when the target holds keys and no checkpoint of this link: refuse to start; replace keys of the "
        "same name and leave the others; skip keys that exist; or flush, which deletes everything in the target first.",
        group="What is done",
    )
    prune: Prune = option(
        Prune.AUTO,
        "What a full sync does about keys in the target that the source does not have, such as those it deleted while "
        "portd could not follow. prune removes them once the snapshot is applied, exactly; flush deletes everything, "
        "other links' data and checkpoints included, before each snapshot; leave keeps them. auto prunes a target that "
        "held nothing else when its first sync began and has no other link's checkpoint, and leaves any other.",
        group="What is done",
    )
    prune_limit: float = option(
        10.0,
        "Most of the target's keys that a full sync may remove without an operator, in per cent; every key of a target "
        "never goes without one. A full sync that would remove more, or that comes from another server than the one "
        "that was followed, is held: docs/operations.md tells what then.",
        group="What is done",
        unit="per cent",
        ge=0,
        le=100,
    )
    accept_source: bool = option(
        False,
        "Let the first full sync of this start overwrite and remove what it finds, also when it would be held. For one "
        "start: keep it out of files and units.",
        group="What is done",
    )
    full_sync: bool = option(
        False,
        "Begin with a full sync, whatever the target's checkpoint says; rules may be others than before. For one start: keep it out "
        "of files and units.",
        group="What is done",
    )
    stop_after: StopAfter = option(
        StopAfter.NONE,
        "End with exit code 0 once the snapshot is applied, or once the target has caught up with the source; none keeps "
        "following. Stopped before that, it ends with 75.",
        group="What is done",
    )
    on_refusal: OnRefusal = option(
        OnRefusal.CONTINUE,
        "When the target refuses a command for good: continue keeps a dead letter and goes on, stop ends the sync "
        "with exit code 65. Refusals that pass (out of memory, loading) are always waited out.",
        group="What is done",
    )
    skip_messages: bool = option(
        False,
        "Leave out messages that clients of the source PUBLISH or SPUBLISH. Without it, who has subscribed at the target "
        "receives them.",
        group="What is done",
    )
    verify_every: float = option(
        0.0,
        "Compare both ends by itself, so long after the stream has caught up and then after the end of each comparison; "
        "0 never does. What differs is logged and counted, not repaired. docs/verify.md tells what it costs.",
        group="What is done",
        unit="seconds",
        ge=0,
        le=31_536_000,
    )
    verify_method: VerifyMethod = option(
        VerifyMethod.SCAN,
        "How these comparisons read keys: scan reads them one after the other, slowly and without a fork; psync takes "
        "a snapshot of both ends, which forks both servers; auto is psync where it is allowed.",
        group="What is done",
    )
    expiry_gap: ExpiryGap = option(
        ExpiryGap.AUTO,
        "How a key that the source renewed at the last moment is kept from expiring on the target before the renewal "
        "arrives. import-mode: Valkey from 8.1 on neither expires nor evicts by itself while portd runs. postpone: while "
        "portd lags, expiry times that are near are sent later, and set back once it has caught up. hold: all of them, "
        "set back before an end by stop_after only, so that the target expires nothing by itself until then. auto: the first "
        "where the target has it, else the second.",
        group="What is done",
    )
    dead_letters: Path | None = option(
        None,
        "JSON lines file that dead letters are appended to. They are counted and logged in any case.",
        group="What is done",
        unit="path",
    )
    psync_command: str = option(
        "PSYNC",
        "Name of the PSYNC command, for sources that renamed it.",
        group="What is done",
        pattern=r"^[!-~]{1,64}$",
    )

    writers: int = option(
        4,
        "Connections that may write the snapshot to the target. As many as are of use do at a time: one where the "
        "target is what bounds the sync, more where the distance is, or where it has io-threads.",
        group="Speed and memory",
        ge=1,
        le=64,
    )
    max_target_bytes_per_second: int = option(
        0,
        "Most bytes that are written to the target in a second, over all connections together, in the snapshot and in "
        "the stream; 0 for no limit. The source is read on at full speed: what waits goes to the spool.",
        group="Speed and memory",
        unit="bytes",
        ge=0,
        le=1 << 50,
    )
    max_target_ops: int = option(
        0,
        "Most commands that are sent to the target in a second; a command that writes several keys counts for each of "
        "them. 0 for no limit.",
        group="Speed and memory",
        ge=0,
        le=1_000_000_000,
    )
    memory_budget: int | None = option(
        None,
        "Bytes that all buffers together may hold; several links have equal parts of it. Unset, it is what the cgroup's limit "
        "leaves beside the interpreter, at most 32MiB for up to three links, and 3MiB more for each further one. The interpreter and its heap "
        "take up to 60 MiB more, and each link beside the first 0.75 MiB.",
        group="Speed and memory",
        process=True,
        unit="bytes",
        ge=MIB,
    )
    chunk_bytes: int = option(
        MIB,
        "Values up to this size are written whole; larger ones in pieces, so that no value is ever held whole. "
        "A larger chunk costs memory, a smaller one costs the target some work. Unset, it is as much smaller as several links need to fit "
        "into the budget.",
        group="Speed and memory",
        unit="bytes",
        ge=MIN_CHUNK_BYTES,
        le=MAX_CHUNK_BYTES,
    )
    command_bytes: int = option(
        64 * KIB,
        "A command that adds elements ends at this size. Other clients of the target wait while one runs.",
        group="Speed and memory",
        unit="bytes",
        ge=KIB,
        le=16 * MIB,
    )
    command_elements: int = option(
        512, "A command that adds elements ends at this many.", group="Speed and memory", ge=1, le=100_000
    )
    spool_dir: Path | Literal["off"] | None = option(
        None,
        "Directory for what the source sends faster than the target takes; a private subdirectory is made in it. "
        "Unset: $STATE_DIRECTORY, $CACHE_DIRECTORY or the system's temporary directory. off: nothing is spilled, "
        "the source waits and may cut the connection when its output buffer is full.",
        group="Speed and memory",
        process=True,
        unit="path",
    )
    spool_max_bytes: int = option(
        16 * GIB,
        "Most that the spool may take on disk, the spools of several links together; when it is reached, the source waits. "
        "Half of it is kept for the links in equal parts, so that none takes all.",
        group="Speed and memory",
        process=True,
        unit="bytes",
        ge=MIB,
    )

    connect_seconds: float = option(
        10.0,
        "Longest wait for a connection to either end, and for answers before data flows or beside it.",
        group="Patience",
        unit="seconds",
        gt=0,
        le=3600,
    )
    silence_seconds: float = option(
        60.0,
        "A link that brings no byte for this long is given up and made again. Sources send a ping every 10 s.",
        group="Patience",
        unit="seconds",
        gt=0,
        le=86400,
    )
    drain_seconds: float = option(
        20.0,
        "After SIGTERM, how long to go on applying what was already read. Keep it below TimeoutStopSec of the unit.",
        group="Patience",
        process=True,
        unit="seconds",
        ge=0,
        le=3600,
    )

    http: str = option(
        "127.0.0.1:8899",
        "Address of the status page, /metrics and /debug/memory, or off. There is no login: keep it on loopback or "
        "behind something that has one. Port 0 picks a free one.",
        group="What is seen",
        process=True,
        unit="host:port",
    )
    control_socket: Path | Literal["off"] | None = option(
        None,
        "Unix socket that portd ctl talks to; only its owner and root may. Unset: portd-LINK.sock in "
        "$RUNTIME_DIRECTORY where systemd gives one, portd.sock where the process has several links, else none.",
        group="What is seen",
        process=True,
        unit="path",
    )
    http_hosts: str = option(
        "",
        "Further names, with commas between them, by which clients may ask for these pages, such as the name that a proxy passes on or "
        "Prometheus uses. Requests for others than these, loopback and the host of --http are refused (421), so that no page in a "
        "browser can read them under a name of its own. Where --http is 0.0.0.0 or [::], every address will do.",
        group="What is seen",
        process=True,
        unit="names",
        pattern=r"^[A-Za-z0-9_.:\[\], -]*$",
    )
    log_format: LogFormat = option(
        LogFormat.AUTO,
        "auto is console on a terminal and logfmt (key=value) elsewhere.",
        group="What is seen",
        process=True,
    )
    log_level: LogLevel = option(
        LogLevel.INFO, "Least important event that is logged.", group="What is seen", process=True
    )
    progress_seconds: float = option(
        5.0,
        "How often a progress line is logged where there is no terminal; 0 logs none.",
        group="What is seen",
        process=True,
        unit="seconds",
        ge=0,
        le=3600,
    )
    memtrace: float = option(
        0.0,
        "How often a line about memory is logged; 0 logs none.",
        group="What is seen",
        process=True,
        unit="seconds",
        ge=0,
        le=3600,
    )
    heap_profile: bool = option(
        False,
        "Record which lines allocate from the start, so that /debug/memory/heap answers at once and shows everything. "
        "Costs time and memory; without it, a profile records when it is asked for.",
        group="What is seen",
        process=True,
    )
    redact_keys: bool = option(
        False,
        "Show key names nowhere: not on pages, not in logs, not in dead letters, which restore --only-letters cannot use then.",
        group="What is seen",
        process=True,
    )

    def __post_init__(self) -> None:
        source, target = self.source_endpoint(), self.target_endpoint()
        off = self.spool_dir == "off"
        for wrong, what, hint in (
            (source.place == target.place, f"source and target are the same server, {source.display}", "a sync needs two servers"),
            (self.source_read_from is not ReadFrom.PRIMARY and source.seeds is None and source.path is None,
             "source_read_from is set, but the source is no redis+cluster:// URL",
             "name the replica itself as source: nobody tells of the replicas of a single server"),
            (self.standby and self.takeover, "standby and takeover are both set",
             "one waits for the link, the other takes it: drop one"),
            (self.standby and self.stop_after is not StopAfter.NONE,
             f"standby is set, and stop_after is {self.stop_after.value}", "a standby is for a sync that goes on: drop one"),
            (self.command_bytes > self.chunk_bytes,
             f"command_bytes ({show_size(self.command_bytes)}) is larger than chunk_bytes ({show_size(self.chunk_bytes)})",
             "values are cut into chunks and chunks into commands: keep command_bytes at or below chunk_bytes"),
            (off and self.spool_max_bytes != default("spool_max_bytes"),
             "spool_max_bytes is set, but spool_dir is off", "remove one of the two: off never writes to disk"),
            (self.prune is Prune.FLUSH and self.existing is Existing.SKIP,
             "prune is flush, but existing is skip", "nothing exists behind a flush: drop one"),
            (self.prune is Prune.PRUNE and off,
             "prune is prune, but spool_dir is off", "comparing keys needs disk: set spool_dir, or prune to leave"),
            (self.verify_every and self.expiry_gap is ExpiryGap.HOLD,
             "verify_every is set, but expiry_gap is hold", "the target's expiry times are others until the end"),
            (self.verify_every and off,
             "verify_every is set, but spool_dir is off", "a verification keeps its records on disk: set spool_dir"),
        ):  # fmt: skip
            if wrong:
                raise ConfigError(what, hint=hint)
        self.check()
        if self.one_shard and is_cluster(self.source) and not self.include_slots:
            raise ConfigError(
                "one_shard is set, and nothing says which shard of the source is meant",
                hint="say which slots it has, include_slots 0-5460, or leave one_shard out for all shards",
            )
        self.check_use(self.stop_after, self.prune, self.chunk_bytes)
        self.http_address()

    @property
    def divided(self) -> bool:
        """The source is a whole cluster: a link for each of its shards is made of these settings."""
        return is_cluster(self.source) and not self.one_shard

    @property
    def described(self) -> str:
        """The name of the link that the operator described: of a cluster's shard, without its lowest slot."""
        return self.shard_of or self.link

    def source_endpoint(self) -> Endpoint:
        """Where the source is and how to get in; of a cluster, the node that has the lowest of `include_slots`.

        Raises:
            ConfigError: the URL, the password or the TLS settings cannot be used.
        """
        ranges = self.slot_ranges()
        return with_map(
            end_of("source", partial(getattr, self)), "source", self.source_address_map, min(ranges)[0] if ranges else 0
        )

    def target_endpoint(self) -> Endpoint:
        """Where the target is and how to get in.

        Raises:
            ConfigError: the URL, the password or the TLS settings cannot be used.
        """
        end = end_of("target", partial(getattr, self))
        if end.seeds is not None and "{" in self.checkpoint_key:
            raise ConfigError("checkpoint_key may hold no '{' where the target is a cluster: names get a tag behind it")
        return with_map(end, "target", self.target_address_map, key_slot(self.checkpoint_name().encode()))

    def http_address(self) -> tuple[str, int] | None:
        """Host and port to serve HTTP on, None when it is off.

        Raises:
            ConfigError: not an address.
        """
        if self.http == "off":
            return None
        host, colon, port = self.http.rpartition(":")
        if not (colon and host and port.isdecimal() and int(port) < 1 << 16):
            raise ConfigError(
                f"http is {self.http!r}, which is not an address", hint="write host:port, for instance 127.0.0.1:8899"
            )
        return host.removeprefix("[").removesuffix("]"), int(port)

    def http_names(self) -> list[str]:
        """The further names by which HTTP may be asked."""
        return [name.strip(" []") for name in self.http_hosts.split(",") if name.strip(" []")]

    def spool_directory(self) -> Path | None:
        """The directory to make the spool's own directory in; None when nothing may be spilled."""
        if self.spool_dir == "off":
            return None
        if self.spool_dir is not None:
            return self.spool_dir
        for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY"):  # set by systemd; several are separated by colons
            if given := os.environ.get(name):
                return Path(given.split(":")[0])
        return Path(tempfile.gettempdir())

    def control_path(self, *, alone: bool = True) -> Path | None:
        """Where the control socket is; None when there is none.

        Args:
            alone: the process has no other link.
        """
        if self.control_socket is None:
            given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
            return Path(given) / control_name(self.link if alone else "") if given else None
        return None if self.control_socket == "off" else Path(self.control_socket)

    def checkpoint_name(self) -> str:
        """The key in the target's database 0 that holds this link's checkpoint; of a cluster, in the slot of the link's name."""
        return self.checkpoint_of(self.link)

    def checkpoint_of(self, link: str) -> str:
        """The same of another link into this target."""
        return self.checkpoint_key + (f"{{{link}}}" if is_cluster(self.target) else link)

    def records_prefix(self) -> str:
        """What the keys of a target cluster's records begin with: one for each slot."""
        return self.records_of(self.link)

    def records_of(self, link: str) -> str:
        """The same of another link."""
        return f"{self.checkpoint_key}{link}:"

    def shown(self) -> dict[str, Any]:
        """All settings as they may be shown: no secrets, URLs without credentials; JSON-able."""
        values = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
            if name in SETTINGS and not SETTINGS[name].metadata["secret"]
        }
        return {"source": self.source_endpoint().display, "target": self.target_endpoint().display, **values}


_OPTIONS = [each for each in dataclasses.fields(Settings) if each.metadata]
SETTINGS: dict[str, dataclasses.Field[Any]] = {
    each.name: each for each in sorted(_OPTIONS, key=lambda each: GROUPS.index(each.metadata["group"]))
}
SECRETS = tuple(name for name, each in SETTINGS.items() if each.metadata["secret"])
OF_THE_PROCESS = frozenset(name for name, each in SETTINGS.items() if each.metadata["process"])


def control_name(link: str) -> str:
    """File name of the control socket of a process with that link, or with several where it is "", unless it is set."""
    return f"portd-{link}.sock" if link else "portd.sock"


def default(name: str) -> Any:
    """What a setting is when nobody sets it; `REQUIRED` where somebody must."""
    return SETTINGS[name].default
