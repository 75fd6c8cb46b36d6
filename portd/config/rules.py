"""What settings of rules mean: the one place that makes of them what the kernel works by.

Whoever reads a snapshot gives `Choice.rules` and `Choice.mapping` to its decoder; whoever sees a key of the target asks
`Choice.origin` what it is called in the source, and whether it is this link's at all.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portd.config.rulesettings import REGEX, as_bytes
from portd.errors import ConfigError
from portd.kernel.mapping import Mapping
from portd.kernel.rules import TYPES, Rules
from portd.net.topology import ALL_SLOTS, spelled

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Mapping as Mappings

    from portd.config.rulesettings import RuleSettings
    from portd.net.topology import Ranges

# Settings by what a digest tells of them, and what messages call it.
KINDS: Final = {
    "keys": ("include", "exclude"),
    "types": ("include_type", "exclude_type"),
    "databases": ("include_db", "exclude_db"),
    "slots": ("include_slots",),
    "commands": ("exclude_command",),
    "sizes": ("min_bytes", "max_bytes"),
    "times": ("min_ttl", "max_ttl"),
    "map": ("map_db", "all_dbs_to", "map_db_many"),
    "names": ("rename_prefix", "add_prefix"),
}
GLOB: Final = b"*?["
SLOTS_WORD: Final = "slots="  # in the text of an image, before ranges
NOWHERE: Final = [(0, 0)]  # slots of a link that has none: something that is not everything
_DIGITS: Final = 12  # of a digest, hexadecimal


@dataclass(frozen=True, slots=True)
class Image:
    """Where in a target keys of a link can be.

    Attributes:
        databases: None: all of them.
        prefixes: beginnings of names; an empty one stands for all.
        slots: ranges of slots that the names have; empty: any.
    """

    databases: frozenset[int] | None
    prefixes: tuple[bytes, ...]
    slots: Ranges = ()

    def meets(self, other: Image) -> bool:
        """A key can be in both."""
        if self.databases is not None and other.databases is not None and not self.databases & other.databases:
            return False
        if self.slots and other.slots and not _overlap(self.slots, other.slots):
            return False
        return any(one.startswith(two) or two.startswith(one) for one in self.prefixes for two in other.prefixes)

    def text(self) -> str:
        """As a checkpoint keeps it. A build that knows no slots takes one that has some for everything."""
        databases = "*" if self.databases is None else ",".join(map(str, sorted(self.databases)))
        slots = [SLOTS_WORD + ",".join(f"{first}-{last}" for first, last in self.slots)] if self.slots else []
        return " ".join([databases, *(each.hex() for each in self.prefixes), *slots])

    @classmethod
    def parse(cls, text: str) -> Image:
        """Reads it back. One that is missing, or written otherwise, is everything: nothing may be taken for free."""
        databases, *words = text.split(" ") if text else ["*"]
        slots = words.pop().removeprefix(SLOTS_WORD) if words and words[-1].startswith(SLOTS_WORD) else ""
        try:
            numbers = None if databases == "*" else frozenset(int(each) for each in databases.split(",") if each)
            ranges = [each.split("-") for each in slots.split(",") if each]
            return cls(
                numbers,
                tuple(bytes.fromhex(each) for each in words) or (b"",),
                tuple((int(first), int(last)) for first, last in ranges),
            )
        except ValueError:
            return EVERYTHING

    def __str__(self) -> str:
        """For people."""
        where = "all databases" if self.databases is None else f"db {', '.join(map(str, sorted(self.databases)))}"
        names = [each.decode("utf-8", "backslashreplace") for each in self.prefixes]
        slots = f", slots {spelled(self.slots)}" if self.slots else ""
        return f"{where}, {'every name' if '' in names else ', '.join(f'{each}*' for each in names)}{slots}"


def _overlap(one: Ranges, other: Ranges) -> bool:
    """Two sets of ranges have something in common."""
    return any(first <= end and begin <= last for first, last in one for begin, end in other)


EVERYTHING: Final = Image(None, (b"",))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which keys are taken, and where they go.

    Attributes:
        rules: None: all are taken.
        mapping: None: they keep names and databases.
        blocked: databases of the source in whose place another one is put, and nobody said that they may share it.
        digest: of all that; "" where there are no rules.
        image: where in the target they can be.
        databases: of the source that are taken, where they are put into one: those that are named, or one of any.
        anywhere: they are put into one, and none is named.
        source_slots: slots of the source that are taken, as settings have them; "" for all.
        blurs: slots are given up for it that other nodes have keys of: what the stream tells of them is not all.
    """

    rules: Rules | None = None
    mapping: Mapping | None = None
    blocked: frozenset[int] = frozenset()
    digest: str = ""
    image: Image = EVERYTHING
    databases: tuple[int, ...] = ()
    anywhere: bool = False
    source_slots: str = ""
    blurs: bool = False

    def __bool__(self) -> bool:
        return bool(self.digest)

    @property
    def slots(self) -> Ranges:
        """Of a target cluster, the slots in which they can be."""
        return self.image.slots or ALL_SLOTS

    @property
    def of_values(self) -> bool:
        """Names alone do not tell whether a key is taken."""
        return self.rules is not None and self.rules.of_values

    def keys_of(self, databases: Mappings[int, int]) -> int | None:
        """How many keys are taken of a source that has so many in its databases; None where that cannot be known."""
        if self.rules is None:
            return sum(databases.values())
        found = sum(keys for db, keys in databases.items() if self.rules.takes_database(db))
        return found if not found or self.rules.whole_databases else None

    def origins(self, db: int, name: bytes, used: Iterable[int] = ()) -> list[tuple[int, bytes]]:
        """What a key of the target may be called in the source: none where it is not this link's, several where some become one.

        Args:
            db: database in the target.
            name: there.
            used: databases of the source that hold keys, for a link that puts all of them into one; without them, those that
                the rules name, or any one that they take.
        """
        rules, mapping = self.rules, self.mapping
        if mapping is None:
            return [(db, name)] if rules is None or rules.takes(name, db) else []
        databases: Iterable[int] | None = mapping.databases_to(db)
        if databases is None:
            databases = used or self.databases
        return [
            (source, each)
            for source in databases
            if source not in self.blocked
            for each in reversed(mapping.origins(name))  # one that stays as it is comes first there
            if rules is None or rules.takes(each, source)
        ]

    def origin(self, db: int, name: bytes) -> tuple[int, bytes] | None:
        """What a key of the target is called in the source; None where it is none of this link's by name and database.

        Of two names that become one, it is the one that changes. The database is -1 where it may be one of several.
        """
        found = self.origins(db, name)
        if not found:
            return None
        several = len({source for source, _ in found}) > 1 or (self.anywhere and self.mapping is not None)
        return (-1 if several else found[0][0], found[0][1])

    def covers(self, db: int, name: bytes) -> bool:
        """Whether a key of the target is this link's, as far as names and databases tell."""
        return not self.digest or bool(self.origins(db, name))

    def to_target(self, db: int, name: bytes) -> tuple[int, bytes]:
        """What a key of the source is called in the target."""
        return (db, name) if self.mapping is None else (self.mapping.database_of(db), self.mapping.renamed(name))

    def place(self, db: int) -> int:
        """The database of the target in which commands of a stream are executed; 0 where those of *db* are not written."""
        if db < 0 or not self.digest:
            return db
        taken = (self.rules is None or self.rules.takes_database(db)) and db not in self.blocked
        return self.database_to(db) if taken else 0

    def database_to(self, db: int) -> int:
        """The number of a database of the source in the target."""
        return db if self.mapping is None else self.mapping.database_of(db)


def choice_of(settings: RuleSettings, own: str = "") -> Choice:
    """What settings mean.

    Args:
        settings: checked.
        own: what names of ours alone begin with.

    Raises:
        ConfigError: a regular expression cannot be read, or names that are ours would be made.
    """
    if not settings.ruled:
        return Choice()
    rules, mapping = rules_of(settings), mapping_of(settings, own)
    blocked: frozenset[int] = frozenset()
    if mapping is not None and not settings.map_db_many:
        moved = settings.databases()
        blocked = frozenset(
            each for found in mapping.shared().values() for each in found
            if each not in moved and (rules is None or rules.takes_database(each))
        )  # fmt: skip
    named = tuple(sorted(set(settings.include_db) - set(settings.exclude_db)))
    some = next(number for number in itertools.count() if number not in settings.exclude_db)
    anywhere = settings.all_dbs_to is not None and not settings.include_db
    return Choice(
        rules,
        mapping,
        blocked,
        digest_of(settings),
        _image(settings, mapping),
        (some,) if anywhere else named,
        anywhere,
        " ".join(settings.include_slots),
    )


def rules_of(settings: RuleSettings) -> Rules | None:
    """Which keys are taken; None where all are."""
    if not any(
        name in settings.given()
        for kind in ("keys", "types", "databases", "slots", "sizes", "times")
        for name in KINDS[kind]
    ):
        return None
    types = set(settings.include_type or TYPES) - set(settings.exclude_type)
    return Rules(
        settings.patterns("include"),
        settings.patterns("exclude"),
        types=[str(each) for each in types] if settings.include_type or settings.exclude_type else None,
        databases=settings.include_db or None,
        without=settings.exclude_db,
        slots=settings.slot_ranges() if settings.include_slots else None,
        min_bytes=settings.min_bytes or 0,
        max_bytes=settings.max_bytes,
        min_ttl_ms=None if settings.min_ttl is None else int(settings.min_ttl * 1000),
        max_ttl_ms=None if settings.max_ttl is None else int(settings.max_ttl * 1000),
    )


def mapping_of(settings: RuleSettings, own: str = "") -> Mapping | None:
    """Where they go; None where they keep names and databases.

    Raises:
        ConfigError: names that are ours would be made.
    """
    try:
        mapping = Mapping(
            settings.renames(),
            added=as_bytes(settings.add_prefix),
            databases=settings.databases(),
            all_to=settings.all_dbs_to,
            own=own.encode(),
        )
    except ValueError as error:
        raise ConfigError(str(error), hint="choose another prefix, or another checkpoint_key") from None
    return mapping if mapping.names or mapping.databases else None


def digest_of(settings: RuleSettings) -> str:
    """What data made by these rules is marked with: of every kind of rules that is there, its name and a hash; "" for none."""
    parts, given, moved = [], set(settings.given()), settings.databases()
    if set(moved.values()) <= set(moved):  # map_db_many takes nothing more: no database stays where another one is put
        given.discard("map_db_many")
    for kind, names in KINDS.items():
        found = [(name, _plain(name, getattr(settings, name))) for name in names if name in given]
        if found:
            parts.append(f"{kind}={hashlib.sha256(repr(found).encode()).hexdigest()[:_DIGITS]}")
    return " ".join(parts)


def changed(before: str, now: str) -> list[str]:
    """Which settings may differ between two digests, in words; empty where none do."""
    old, new = (dict(part.partition("=")[::2] for part in each.split()) for each in (before, now))
    words = []
    for kind in dict.fromkeys((*KINDS, *old, *new)):
        if old.get(kind) != new.get(kind):
            names = (
                " and ".join(filter(None, (", ".join(KINDS[kind][:-1]), KINDS[kind][-1])))
                if kind in KINDS
                else f"rules of a kind that this build does not know ({kind})"
            )
            words.append(f"{names} {'added' if kind not in old else 'gone' if kind not in new else 'changed'}")
    return words


def differ_in_slots_alone(before: str, now: str) -> bool:
    """Whether two digests tell the same of everything but `include_slots`."""
    return without_slots(before) == without_slots(now)


def without_slots(digest: str) -> str:
    """What a digest tells of everything but `include_slots`."""
    return " ".join(part for part in digest.split() if not part.startswith("slots="))


def _plain(name: str, value: object) -> object:
    """A value such that what it does alone matters: not its order, nor what stands twice, nor the letters of a command."""
    if not isinstance(value, tuple):
        return value
    words = {str(each) for each in value}
    return sorted(word.upper() for word in words) if name == "exclude_command" else sorted(words)


def _image(settings: RuleSettings, mapping: Mapping | None) -> Image:
    """Where in the target keys can be that these settings take."""
    databases: frozenset[int] | None = None
    if settings.all_dbs_to is not None:
        databases = frozenset({settings.all_dbs_to})
    elif settings.include_db:
        taken = set(settings.include_db) - set(settings.exclude_db)
        databases = frozenset(each if mapping is None else mapping.database_of(each) for each in taken)
    found: set[bytes] = set()
    for pattern in settings.patterns("include") or (b"",):
        beginning = beginning_of(pattern)
        longer = [each for each in settings.renames() if each.startswith(beginning)]
        found.update(each if mapping is None else mapping.renamed(each) for each in (beginning, *longer))
    prefixes = sorted(each for each in found if not any(each != other and each.startswith(other) for other in found))
    renames = mapping is not None and bool(mapping.names)  # a name that is changed has another slot
    slots = settings.slot_ranges() or (NOWHERE if settings.include_slots else [])
    return Image(databases, tuple(prefixes), () if renames else tuple(sorted(slots)))


def beginning_of(pattern: bytes) -> bytes:
    """What every name begins with that a pattern fits."""
    if pattern.startswith(REGEX):
        return b""
    if not any(byte in GLOB for byte in pattern):
        return pattern
    found = bytearray()
    at = 0
    while at < len(pattern) and pattern[at] not in GLOB:
        at += pattern[at : at + 1] == b"\\" and at + 1 < len(pattern)
        found.append(pattern[at])
        at += 1
    return bytes(found)
