"""What a verification found."""

from __future__ import annotations

import base64
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from portd.kernel import digest
from portd.units import human_bytes, human_count, human_seconds

EXIT_DIFFERENT: Final = 1
OUTCOMES: Final = {os.EX_OK: "equal", EXIT_DIFFERENT: "different", os.EX_TEMPFAIL: "undecided"}
WORDS: Final = {
    digest.MISSING: "missing",
    digest.EXTRA: "extra",
    digest.TYPE: "type",
    digest.VALUE: "value",
    digest.TTL: "ttl",
    digest.FIELD_TTL: "field-ttl",
}


@dataclass(slots=True)
class PartReport:
    """How one server was read."""

    where: str = ""
    slots: str = ""
    method: str = ""
    keys: int = 0
    expired: int = 0  # in the snapshot, but expired: they do not count
    unreadable: int = 0  # too large or too strange to be compared as a whole
    not_owned: int = 0  # of slots that the node does not own: leftovers, and what is on its way to it
    bytes: int = 0
    seconds: float = 0.0

    def shown(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "node": self.where,
            "slots": self.slots,
            "method": self.method,
            "keys": self.keys,
            "expired": self.expired,
            "unreadable": self.unreadable,
            "not_owned": self.not_owned,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class EndReport:
    """How one end was read.

    Attributes:
        server: family and version.
        one_shard: a node of a cluster: keys of other shards were not seen.
        parts: its servers, as they were read the first time: of a cluster, its shards.
        open_slots: slots that were never at rest while they were looked at, in words; "" for none.
    """

    server: str
    one_shard: bool = False
    parts: list[PartReport] = field(default_factory=list)
    open_slots: str = ""

    def part(self, where: str, slots: str) -> PartReport:
        """A server that is about to be read."""
        self.parts.append(PartReport(where, slots))
        return self.parts[-1]

    def _sum(self, name: str) -> Any:
        return sum(getattr(each, name) for each in self.parts)

    @property
    def is_cluster(self) -> bool:
        """Its servers are shards of a cluster."""
        return any(each.slots for each in self.parts)

    @property
    def method(self) -> str:
        """How its servers were read: ``PSYNC``, ``SCAN``, or both where they differ."""
        return " and ".join(dict.fromkeys(each.method for each in self.parts if each.method))

    @property
    def keys(self) -> int:
        """Of all its servers."""
        return int(self._sum("keys"))

    @property
    def unreadable(self) -> int:
        """Likewise."""
        return int(self._sum("unreadable"))

    @property
    def seconds(self) -> float:
        """Likewise: they were read one after the other."""
        return float(self._sum("seconds"))

    def text(self) -> str:
        """One line."""
        size, seconds, expired = self._sum("bytes"), self.seconds, self._sum("expired")
        rate = f" at {human_bytes(size / seconds)}/s" if seconds > 0 else ""
        extra = f", {human_count(expired)} expired" if expired else ""
        extra += f", {human_count(self.unreadable)} not compared as a whole" if self.unreadable else ""
        strays = self._sum("not_owned")
        extra += f", {human_count(strays)} of slots that their node does not own left out" if strays else ""
        shard = f", {_count(len(self.parts), 'shard')}" if self.is_cluster else ""
        shard += ", one shard of a cluster" if self.one_shard else ""
        return (
            f"{self.server}{shard}: {human_count(self.keys)} keys by {self.method}, {human_bytes(size)} in "
            f"{human_seconds(seconds)}{rate}{extra}"
        )

    def shown(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"server": self.server, "one_shard": self.one_shard, "method": self.method}
        for name in ("keys", "expired", "unreadable", "bytes"):
            found[name] = self._sum(name)
        found["seconds"] = round(self.seconds, 3)
        if self.is_cluster:
            found |= {"open_slots": self.open_slots, "shards": [each.shown() for each in self.parts]}
        return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass(slots=True)
class Found:
    """One differing key."""

    db: int
    name: bytes
    kinds: int
    note: str = ""
    source: tuple[int, bytes] | None = None  # database and name in the source, where keys are mapped

    @property
    def differs(self) -> list[str]:
        """In what, as words for reports: missing, extra, type, value, ttl, field-ttl."""
        return [word for bit, word in WORDS.items() if self.kinds & bit]

    def shown(self) -> dict[str, Any]:
        """A JSON line: `key` is text where the name is UTF-8, else `key_base64` holds it."""
        line: dict[str, Any] = {"db": self.db, **_named("key", self.name)}
        if self.source is not None:
            line |= {"source_db": self.source[0], **_named("source_key", self.source[1])}
        line["differs"] = self.differs
        if self.note:
            line["note"] = self.note
        return line


def _named(label: str, name: bytes) -> dict[str, str]:
    """A name for JSON."""
    try:
        return {label: name.decode()}
    except UnicodeDecodeError:
        return {f"{label}_base64": base64.b64encode(name).decode()}


@dataclass(slots=True)
class Report:
    """The outcome; `exit_code` says it in one number."""

    source: EndReport
    target: EndReport
    equal: int = 0  # keys that were equal in the first comparison
    suspects: int = 0  # keys that were read again
    settled: int = 0  # and turned out to be equal
    unsettled: int = 0  # and were changed again and again, or are too large to be read again
    different: int = 0
    repaired: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    functions: str = ""  # how function libraries differ; "" when they do not

    @property
    def shards(self) -> str:
        """Which ends are nodes of clusters, so that only one shard was seen there: source, target, both; "" for none."""
        return " and ".join(name for name, end in (("source", self.source), ("target", self.target)) if end.one_shard)

    @property
    def exit_code(self) -> int:
        """0 equal, 1 different, 75 (EX_TEMPFAIL) when some keys or slots could not be decided."""
        if self.different or self.functions:
            return EXIT_DIFFERENT
        undecided = self.unsettled or self.source.open_slots or self.target.open_slots
        return os.EX_TEMPFAIL if undecided else os.EX_OK

    @property
    def outcome(self) -> str:
        """The same as a word: equal, different, undecided."""
        return OUTCOMES[self.exit_code]

    def count(self, found: Found) -> None:
        """Takes one difference."""
        self.different += 1
        self.kinds.update(found.differs)

    def shown(self) -> dict[str, Any]:
        """The last JSON line."""
        ends = {name: end.shown() for name, end in (("source", self.source), ("target", self.target))}
        return {
            "equal": self.exit_code == os.EX_OK,
            "exit_code": self.exit_code,
            "different": self.different,
            "kinds": dict(self.kinds),
            "unsettled": self.unsettled,
            "repaired": self.repaired,
            "read_again": self.suspects,
            "settled": self.settled,
            "functions": self.functions,
            **ends,
        }

    def text(self) -> str:
        """A few lines for people."""
        lines = [f"source {self.source.text()}", f"target {self.target.text()}"]
        lines.append(
            f"{human_count(self.equal)} keys equal at once, {human_count(self.suspects)} read again, "
            f"{human_count(self.settled)} of them equal"
        )
        if self.repaired:
            lines.append(f"{human_count(self.repaired)} keys repaired")
        if self.functions:
            lines.append(f"function libraries differ: {self.functions}")
        if self.unsettled:
            lines.append(
                f"{human_count(self.unsettled)} keys not decided: changed whenever they were looked at, or too large to be read again"
            )
        for name, end in (("source", self.source), ("target", self.target)):
            if end.open_slots:
                lines.append(
                    f"slots {end.open_slots} of the {name} are open: they moved, or had no owner, whenever they were looked at"
                )
        if self.different:
            kinds = ", ".join(f"{human_count(count)} {kind}" for kind, count in sorted(self.kinds.items()))
            lines.append(f"DIFFERENT: {human_count(self.different)} keys ({kinds})")
        elif self.exit_code == os.EX_OK:
            lines.append(f"EQUAL, as far as one shard goes ({self.shards})" if self.shards else "EQUAL")
        return "\n".join(lines)
