"""The targets that the kernel is tested against, described as a probe of the real one would."""

from __future__ import annotations

from dataclasses import dataclass, replace

from portd.kernel.snapshot import Dialect

_SINCE_5 = frozenset(
    [
        "append",
        "del",
        "exists",
        "eval",
        "evalsha",
        "expire",
        "get",
        "hdel",
        "hget",
        "hgetall",
        "hset",
        "incr",
        "lpush",
        "mset",
        "multi",
        "exec",
        "pexpireat",
        "ping",
        "restore",
        "rpush",
        "sadd",
        "script",
        "select",
        "set",
        "setrange",
        "unlink",
        "xack",
        "xadd",
        "xclaim",
        "xdel",
        "xgroup",
        "xreadgroup",
        "xsetid",
        "xtrim",
        "zadd",
    ]
)
_SINCE_7 = _SINCE_5 | {"function", "fcall", "pexpiretime"}
_FIELD_TTL = frozenset({"hpexpireat", "hpexpiretime", "hpersist"})
_HSETEX = frozenset({"hsetex", "hgetex"})
_ARRAYS = frozenset({"armset", "arseek", "arget"})


@dataclass(frozen=True, slots=True)
class Spec:
    """What ``Dialect`` is made from; readable, unlike a ``Dialect``."""

    name: str
    valkey: bool
    rdb_version: int
    footer: int
    server_version: tuple[int, int]
    commands: frozenset[str]
    mset: bool = True
    modules: frozenset[str] = frozenset()
    maxmemory_policy: str = "noeviction"
    max_bulk_bytes: int = 512 << 20

    def dialect(self) -> Dialect:
        """The kernel's form."""
        return Dialect(
            valkey=self.valkey,
            rdb_version=self.rdb_version,
            footer=self.footer,
            server_version=self.server_version,
            mset=self.mset,
            modules=self.modules,
            commands=self.commands,
            maxmemory_policy=self.maxmemory_policy,
            max_bulk_bytes=self.max_bulk_bytes,
        )

    def but(self, **changes: object) -> Spec:
        """The same with other settings."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def since(self, *, redis: tuple[int, int] | None, valkey: tuple[int, int] | None = (0, 0)) -> bool:
        """The server is at least that version; None: no version of that family."""
        wanted = valkey if self.valkey else redis
        return wanted is not None and self.server_version >= wanted

    def knows(self, kind: int) -> bool:
        """RESTORE of this type byte is understood (section 2.1 of the format notes)."""
        if kind <= 21:
            since = {5: 8, 7: 8, 9: 2, 10: 2, 11: 2, 12: 2, 13: 4, 14: 7, 15: 9, 16: 10, 17: 10, 18: 10, 19: 10, 20: 11}
            return kind not in (6, 8) and self.rdb_version >= since.get(kind, 11 if kind == 21 else 1)
        if self.valkey:
            return kind == 22 and self.rdb_version >= 80
        return self.rdb_version >= {24: 12, 25: 12, 26: 13, 27: 14, 28: 14, 29: 15, 31: 15}.get(kind, 99)

    def accepts(self, footer: int) -> bool:
        """RESTORE of a payload with this footer is tried at all."""
        if self.valkey:
            return 1 <= footer <= 11 or (footer == 80 and self.rdb_version >= 80)
        return 1 <= footer <= self.rdb_version


VALKEY_9 = Spec("valkey-9.1", True, 80, 80, (9, 1), _SINCE_7 | _FIELD_TTL | _HSETEX)
VALKEY_8 = Spec("valkey-8.0", True, 11, 11, (8, 0), _SINCE_7)
REDIS_4 = Spec("redis-4.0", False, 8, 8, (4, 0), frozenset(name for name in _SINCE_5 if not name.startswith("x")))
REDIS_6 = Spec("redis-6.2", False, 9, 9, (6, 2), _SINCE_5)
REDIS_6_0 = Spec("redis-6.0", False, 9, 9, (6, 0), _SINCE_5)
REDIS_7_0 = Spec("redis-7.0", False, 10, 10, (7, 0), _SINCE_7)
REDIS_7_4 = Spec("redis-7.4", False, 12, 12, (7, 4), _SINCE_7 | _FIELD_TTL)
REDIS_8_10 = Spec("redis-8.10", False, 15, 15, (8, 10), _SINCE_7 | _FIELD_TTL | _HSETEX | _ARRAYS)

SPECS = (VALKEY_9, VALKEY_8, REDIS_8_10, REDIS_7_4, REDIS_7_0, REDIS_6, REDIS_6_0)
