"""The settings that choose keys and map names: which of the source is taken, and what it is called in the target.

One meaning for every command that knows them; `portd.config.rules` makes of them what the kernel works by.
"""
# ruff: noqa: RUF009 - `option` makes a dataclass field

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from portd.config.choices import KeyType, OnRulesChange, Prune, StopAfter
from portd.config.option import option
from portd.errors import ConfigError
from portd.net.shapes import whole
from portd.net.topology import NONE
from portd.units import show_size

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP: Final = "Rules"
SLOTS: Final = 16384  # of a cluster
MOST_DATABASE: Final = 1 << 20  # numbers above are a mistake
MOST_SECONDS: Final = 10**12  # times above are a mistake, and no clock counts them
STRUCTURE: Final = frozenset({"SELECT", "MULTI", "EXEC", "DISCARD"})  # commands on which those behind them depend
REGEX: Final = b"re:"  # before a pattern that is a regular expression
NO_RULES: Final = frozenset({"on_rules_change", "share_image"})  # settings of the group that are none


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSettings:
    """Which keys are taken, and where they go. Call `check` once it is made.

    Attributes:
        include: and all the others: each is described where it is declared.
    """

    include: tuple[str, ...] = option(
        (),
        "Take only keys like this: a prefix; with *, ? or [ a glob that has to fit the whole name, as in KEYS; with re: in front a "
        "regular expression that is looked for anywhere in the name (pip install 'portd[regex]'). Repeated: keys that one of them fits.",
        group=GROUP,
        unit="pattern",
    )
    exclude: tuple[str, ...] = option(
        (), "Leave out keys like this, written as for include. What is excluded stays out whatever includes it.", group=GROUP,
        unit="pattern",
    )  # fmt: skip
    include_type: tuple[KeyType, ...] = option(
        (),
        "Take only values of this type. Commands of a stream do not tell the type of every key: for a snapshot only, that is with "
        "stop_after snapshot, dump, restore, decode and verify.",
        group=GROUP,
        split=",",
    )
    exclude_type: tuple[KeyType, ...] = option(
        (), "Leave out values of this type; for a snapshot only, as include_type.", group=GROUP, split=","
    )
    include_db: tuple[int, ...] = option(
        (), "Take only this database of the source.", group=GROUP, unit="number", split=","
    )
    exclude_db: tuple[int, ...] = option(
        (), "Leave out this database of the source.", group=GROUP, unit="number", split=","
    )
    include_slots: tuple[str, ...] = option(
        (), "Take only keys of these slots of a cluster, a number or a range such as 0-5460.", group=GROUP, unit="a-b", split=","
    )  # fmt: skip
    exclude_command: tuple[str, ...] = option(
        (),
        "Leave this command out of the stream, by its name. What it would have changed in the target is not changed: the ends "
        "differ by it from then on.",
        group=GROUP,
        unit="name",
        split=",",
    )
    min_bytes: int | None = option(
        None,
        "Take only values of at least this size, as they stand in the snapshot; chunk_bytes at most. For a snapshot only, as "
        "include_type.",
        group=GROUP,
        unit="bytes",
        ge=1,
    )
    max_bytes: int | None = option(
        None, "Take only values of at most this size; see min_bytes.", group=GROUP, unit="bytes", ge=1
    )
    min_ttl: float | None = option(
        None,
        "Take only keys that have longer to live when they are read, or no expiry. For a snapshot only, as include_type.",
        group=GROUP,
        unit="seconds",
        ge=0,
        le=MOST_SECONDS,
    )
    max_ttl: float | None = option(
        None,
        "Take only keys that have an expiry, and no longer to live; see min_ttl.",
        group=GROUP,
        unit="seconds",
        ge=0,
        le=MOST_SECONDS,
    )
    map_db: tuple[str, ...] = option(
        (), "Put a database of the source into another one of the target: 0=3.", group=GROUP, unit="from=to", split=","
    )
    all_dbs_to: int | None = option(
        None,
        "Put every database of the source into this one of the target; not together with map_db. A name that is in two of them is the "
        "last one's that was written.",
        group=GROUP,
        unit="number",
        ge=0,
        le=MOST_DATABASE,
    )
    map_db_many: bool = option(
        False,
        "Let map_db put several databases into one: a name that is in two of them is the last one's that was written.",
        group=GROUP,
    )
    rename_prefix: tuple[str, ...] = option(
        (),
        "Give keys with one prefix another one in the target: old:=new:. Of several that fit, the longest counts. The first = "
        "stands between the two.",
        group=GROUP,
        unit="old=new",
    )
    add_prefix: str = option(
        "", "Put this before the name of every key in the target, behind what rename_prefix makes of it.", group=GROUP,
        unit="prefix",
    )  # fmt: skip
    on_rules_change: OnRulesChange = option(
        OnRulesChange.REFUSE,
        "When the data in the target was made by other rules: refuse to start, with exit code 78, or full-sync, which copies the "
        "snapshot again. Keys that the rules do not cover any more stay in the target.",
        group=GROUP,
    )
    share_image: bool = option(
        False,
        "Start although another link of the target may write keys of the same names: the last one wins, key by key.",
        group=GROUP,
    )

    def check(self) -> None:
        """Looks at what does not depend on other settings.

        Raises:
            ConfigError: a rule cannot be understood, or two contradict each other.
        """
        for name in ("include", "exclude"):
            for text in getattr(self, name):
                if not text or text == REGEX.decode():
                    raise ConfigError(f"{name} has an empty pattern", hint="write * for every key")
        for name in ("include_db", "exclude_db"):
            for number in getattr(self, name):
                if not 0 <= number <= MOST_DATABASE:
                    raise ConfigError(f"{name}: {number} is not a database", hint="databases are numbers from 0 on")
        for one, other in (("min_bytes", "max_bytes"), ("min_ttl", "max_ttl")):
            least, most = getattr(self, one), getattr(self, other)
            if least is not None and most is not None and least > most:
                raise ConfigError(f"{one} is larger than {other}", hint="no key is both")
        for word in self.exclude_command:
            if not word.isascii() or not word.replace("-", "").replace("_", "").replace(".", "").isalnum():
                raise ConfigError(
                    f"exclude_command: {word!r} is not the name of a command", hint="write INCR, or JSON.SET"
                )
            if word.upper() in STRUCTURE:
                raise ConfigError(
                    f"exclude_command: {word} cannot be left out",
                    hint="the commands behind it depend on it; name those that change something",
                )
        self.slot_ranges()
        self._check_map()
        self.renames()

    def _check_map(self) -> None:
        """Raises: ConfigError: two databases go into one, and nobody said that they may."""
        if self.all_dbs_to is not None and self.map_db:
            raise ConfigError("map_db and all_dbs_to are both set", hint="keep one of the two")
        places: dict[int, int] = {}
        for source, target in self.databases().items():
            if target in places and not self.map_db_many:
                raise ConfigError(
                    f"map_db puts the databases {places[target]} and {source} into {target}",
                    hint="keys of the same name would overwrite each other; set map_db_many if that may be",
                )
            places[target] = source

    def check_use(self, stop_after: StopAfter, prune: Prune, chunk_bytes: int) -> None:
        """Makes sure that what is done keeps the rules.

        Raises:
            ConfigError: it cannot keep one.
        """
        if stop_after is not StopAfter.SNAPSHOT and (names := self.of_snapshots()):
            raise ConfigError(
                f"{', '.join(names)} cannot be kept in a stream: its commands do not tell what is asked for",
                hint="set stop_after to snapshot, or choose by key and database; dump, restore and verify know these rules, too",
            )
        if self.ruled and prune is Prune.FLUSH:
            raise ConfigError(
                "prune is flush, which deletes everything in the target, and rules take a part of the source only",
                hint="set prune to prune: it removes what the rules cover and the source does not have",
            )
        if self.of_snapshots() and prune is Prune.PRUNE:
            raise ConfigError(
                f"prune is prune, but names do not tell which keys {self.of_snapshots()[0]} takes",
                hint="set prune to leave, or choose by key and database",
            )
        for name in ("min_bytes", "max_bytes"):
            if (getattr(self, name) or 0) > chunk_bytes:
                raise ConfigError(
                    f"{name} is larger than chunk_bytes ({show_size(chunk_bytes)})",
                    hint="larger values are not measured before they are written: raise chunk_bytes",
                )

    def databases(self) -> dict[int, int]:
        """What `map_db` says: numbers in the target by those in the source.

        Raises:
            ConfigError: a line of it cannot be understood.
        """
        found: dict[int, int] = {}
        for text in self.map_db:
            old, _, new = text.partition("=")
            source, target = whole(old, MOST_DATABASE), whole(new, MOST_DATABASE)
            if source is None or target is None:
                raise ConfigError(f"map_db: {text!r} is not a pair of databases", hint="write 0=3")
            if found.setdefault(source, target) != target:
                raise ConfigError(f"map_db puts database {source} into two", hint="a database goes to one place")
        return found

    def renames(self) -> dict[bytes, bytes]:
        """What `rename_prefix` says: prefixes in the target by those in the source.

        Raises:
            ConfigError: a line of it cannot be understood.
        """
        found: dict[bytes, bytes] = {}
        for text in self.rename_prefix:
            old, equals, new = text.partition("=")
            if not (equals and old):
                raise ConfigError(f"rename_prefix: {text!r} is not a pair of prefixes", hint="write old:=new:")
            if found.setdefault(as_bytes(old), as_bytes(new)) != as_bytes(new):
                raise ConfigError(f"rename_prefix gives {old!r} two names", hint="a prefix has one name in the target")
        return found

    def slot_ranges(self) -> list[tuple[int, int]]:
        """What `include_slots` says: first and last of each range.

        Raises:
            ConfigError: a line of it cannot be understood.
        """
        found: list[tuple[int, int]] = []
        for text in self.include_slots:
            if text == NONE:
                continue
            first, dash, last = text.partition("-")
            begin, end = whole(first, SLOTS - 1), whole(last if dash else first, SLOTS - 1)
            if begin is None or end is None or begin > end:
                raise ConfigError(
                    f"include_slots: {text!r} is not a range of slots", hint=f"write 0-5460; there are {SLOTS}"
                )
            found.append((begin, end))
        return found

    def patterns(self, name: str) -> tuple[bytes, ...]:
        """`include` or `exclude` as bytes."""
        return tuple(as_bytes(each) for each in getattr(self, name))

    @property
    def ruled(self) -> bool:
        """Not everything is taken as it is."""
        return any(True for _ in self.given())

    def given(self) -> Iterator[str]:
        """Names of the rules that are set."""
        for each in fields(RuleSettings):
            if each.name not in NO_RULES and getattr(self, each.name) != each.default:
                yield each.name

    def of_snapshots(self) -> list[str]:
        """Names of the rules that are set and that a stream cannot follow: its commands do not tell what they ask for."""
        asked = ("include_type", "exclude_type", "min_bytes", "max_bytes", "min_ttl", "max_ttl")
        given = set(self.given())
        return [name for name in asked if name in given]


def as_bytes(text: str) -> bytes:
    """A name or a part of one, as keys have it: flags may hold bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


RULES: Final = tuple(each.name for each in fields(RuleSettings) if each.name not in NO_RULES)  # settings that are rules
