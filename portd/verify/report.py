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
class EndReport:
    """How one end was read."""

    server: str
    method: str = ""
    keys: int = 0
    expired: int = 0  # in the snapshot, but expired: they do not count
    unreadable: int = 0  # too large or too strange to be compared as a whole
    bytes: int = 0
    seconds: float = 0.0
    one_shard: bool = False  # a node of a cluster: keys of other shards were not seen

    def text(self) -> str:
        """One line."""
        rate = f" at {human_bytes(self.bytes / self.seconds)}/s" if self.seconds > 0 else ""
        extra = f", {human_count(self.expired)} expired" if self.expired else ""
        extra += f", {human_count(self.unreadable)} not compared as a whole" if self.unreadable else ""
        shard = ", one shard of a cluster" if self.one_shard else ""
        return (
            f"{self.server}{shard}: {human_count(self.keys)} keys by {self.method}, {human_bytes(self.bytes)} in "
            f"{human_seconds(self.seconds)}{rate}{extra}"
        )


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
        """0 equal, 1 different, 75 (EX_TEMPFAIL) when some keys could not be decided."""
        if self.different or self.functions:
            return EXIT_DIFFERENT
        return os.EX_TEMPFAIL if self.unsettled else os.EX_OK

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
        ends = {
            name: {
                "server": end.server,
                "one_shard": end.one_shard,
                "method": end.method,
                "keys": end.keys,
                "expired": end.expired,
                "unreadable": end.unreadable,
                "bytes": end.bytes,
                "seconds": round(end.seconds, 3),
            }
            for name, end in (("source", self.source), ("target", self.target))
        }
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
        if self.different:
            kinds = ", ".join(f"{human_count(count)} {kind}" for kind, count in sorted(self.kinds.items()))
            lines.append(f"DIFFERENT: {human_count(self.different)} keys ({kinds})")
        elif self.exit_code == os.EX_OK:
            lines.append(f"EQUAL, as far as one shard goes ({self.shards})" if self.shards else "EQUAL")
        return "\n".join(lines)
