"""Who a server is, as its INFO tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portd.errors import TargetLost
from portd.net.control import parse_fields
from portd.net.shapes import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_VERSION: Final = 10_000  # no part of a version is larger

# The highest RDB version that a release of Redis loads, newest first (rdb.h:RDB_VERSION).
_RDB_VERSIONS: Final = (
    ((8, 10), 15),
    ((8, 8), 14),
    ((8, 6), 13),
    ((7, 4), 12),
    ((7, 2), 11),
    ((7, 0), 10),
    ((5, 0), 9),
    ((4, 0), 8),
)

ROLES: Final = {"master": "primary", "slave": "replica"}  # what INFO says, in the words of today's servers


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Family, version, process and role.

    Attributes:
        family: ``valkey`` or ``redis``; "" when it does not tell.
        version: (major, minor, patch) in the numbering of its family; zeros when it does not tell.
        run_id: changes with each start of the process; "" when it does not tell.
        role: ``master`` or ``slave``; "" when it does not tell.
        cluster: it is a node of a cluster; None when it does not tell.
        modules: names of the loaded modules.
    """

    family: str
    version: tuple[int, int, int]
    run_id: str
    role: str
    cluster: bool | None
    modules: tuple[str, ...]

    @classmethod
    def of(cls, info: Mapping[str, str]) -> ServerIdentity:
        """From the fields of INFO. A Valkey also tells the Redis version that it is compatible with."""
        family = next((each for each in ("valkey", "redis") if f"{each}_version" in info), "")
        parts = info.get(f"{family}_version", "").split(".")
        numbers = [number for part in parts if (number := whole(part, MOST_VERSION)) is not None]
        major, minor, patch = [*numbers, 0, 0, 0][:3]
        cluster = info.get("cluster_enabled")
        modules = (parse_fields(each).get("name") for each in info.get("module", "").split())
        return cls(
            family=family,
            version=(major, minor, patch),
            run_id=info.get("run_id", ""),
            role=info.get("role", ""),
            cluster=None if cluster is None else cluster != "0",
            modules=tuple(name for name in modules if name),
        )

    @property
    def number(self) -> str:
        """The version, ``9.1.2``."""
        return ".".join(map(str, self.version))

    @property
    def name(self) -> str:
        """Family and version, ``valkey 9.1.2``."""
        return f"{self.family} {self.number}" if self.family else "an unknown server"

    @property
    def rdb_version(self) -> int:
        """The highest RDB version that it loads, by the table of releases."""
        return rdb_version_of(self.family, self.version)


def run_id_of(info: bytes) -> str:
    """The process id of a server, from the reply to ``INFO server``; "" when it does not tell."""
    return next((line[7:] for line in info.decode("utf-8", "replace").splitlines() if line.startswith("run_id:")), "")


def require_process(info: bytes, run_id: str, when: str = "during the snapshot") -> None:
    """Makes sure that a target is the process that acknowledged what was sent; one that does not tell is taken for it.

    Args:
        info: the reply to ``INFO server``.
        run_id: of the process; "" for any.
        when: it may have changed.

    Raises:
        TargetLost: it is another one.
    """
    if run_id and run_id_of(info) not in {"", run_id}:
        raise TargetLost(
            f"the target was restarted or replaced {when}, so acknowledged keys may be missing",
            hint="the snapshot starts over",
        )


def rdb_version_of(family: str, version: tuple[int, int, int]) -> int:
    """The highest RDB version that a release loads."""
    release = version[:2]
    if family == "valkey":
        return 80 if release >= (9, 0) else 11
    return next((rdb for since, rdb in _RDB_VERSIONS if release >= since), 7)
