"""The report on a snapshot: what a DBA wants to know before a migration, as text and JSON; `report` is its page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from portd.text import dumps
from portd.units import human_bytes, human_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Counts = list[int]  # keys, bytes in the snapshot, elements, keys that expire, bytes of memory in a server (estimated)

TTL_NAMES: Final = ("1 minute", "1 hour", "1 day", "7 days", "30 days", "1 year")  # as `TTL_LIMITS` of the handler
MOST_PREFIXES: Final = 50  # shown; the JSON report has all
NO_PREFIX: Final = "(no prefix)"
OTHER_PREFIXES: Final = "(others)"


@dataclass(frozen=True, slots=True)
class Stats:
    """A report.

    Attributes:
        source: where the snapshot came from.
        found: `portd.kernel.tally.StatsHandler.report`.
        aux: fields of the snapshot's head.
        bytes: of the snapshot.
        keys: of the snapshot, those not asked for included.
        at: unix time that times to live count from.
    """

    source: str
    found: Mapping[str, Any]
    aux: Mapping[str, str]
    bytes: int
    keys: int
    at: float

    def expiries(self) -> list[tuple[str, Counts]]:
        """Names and counts of the buckets of times to live."""
        names = ["expired", *(f"up to {name}" for name in TTL_NAMES), "longer", "never"]
        return list(zip(names, self.found["expiries"], strict=True))

    def prefixes(self) -> list[tuple[str, Counts]]:
        """Names and counts, most memory first."""
        named = [(_prefix(name), counts) for name, counts in self.found["prefixes"].items()]
        return sorted(named, key=lambda each: (-each[1][4], each[0]))

    def sorted(self, what: str) -> list[tuple[str, Counts]]:
        """Names and counts of types, encodings or databases, most memory first; databases by number."""
        named = [(name, counts) for name, counts in self.found[what].items()]
        if what == "databases":
            return [(f"db {name}", counts) for name, counts in sorted(named)]
        return sorted(named, key=lambda each: (-each[1][4], each[0]))

    def server(self) -> str:
        """Who wrote the snapshot, as far as it says."""
        for name in ("valkey-ver", "redis-ver"):
            if name in self.aux:
                return f"{name.removesuffix('-ver')} {self.aux[name]}"
        return "an unknown server"


def _prefix(name: bytes | None) -> str:
    if name is None:
        return OTHER_PREFIXES
    return show_key(name) if name else NO_PREFIX


def show_key(key: bytes) -> str:
    """A key for people: escaped where it is not text."""
    text = key.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _json_key(key: bytes) -> str | dict[str, str]:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(key).decode()}


def _named(counts: Sequence[int]) -> dict[str, int]:
    return dict(zip(("keys", "bytes", "elements", "expiring", "memory"), counts, strict=True))


def render_json(stats: Stats) -> str:
    """All of it, for programs."""
    found = stats.found
    document = {
        "source": stats.source,
        "server": stats.server(),
        "snapshot_bytes": stats.bytes,
        "snapshot_keys": stats.keys,
        "time": datetime.fromtimestamp(stats.at, UTC).isoformat(timespec="seconds"),
        "total": _named(found["total"]),
        "functions": found["functions"],
        **{what: {name: _named(counts) for name, counts in stats.sorted(what)} for what in ("types", "encodings")},
        "databases": {str(name): _named(counts) for name, counts in sorted(found["databases"].items())},
        "prefixes": [{"prefix": name, **_named(counts)} for name, counts in stats.prefixes()],
        "expiries": [{"ttl": name, **_named(counts)} for name, counts in stats.expiries()],
        **{what: [each | {"key": _json_key(each["key"])} for each in found[what]] for what in ("biggest", "longest")},
    }
    return dumps(document, indent=1) + "\n"


def render_text(stats: Stats) -> str:
    """For a terminal."""
    total = stats.found["total"]
    lines = [
        f"{stats.source}, written by {stats.server()}: {human_bytes(stats.bytes)}, {human_count(stats.keys)} keys",
        (
            f"counted: {human_count(total[0])} keys, {human_count(total[2])} elements, {human_bytes(total[1])} of values; "
            f"{human_count(total[3])} keys expire; {human_count(stats.found['functions'])} function libraries"
        ),
        f"about {human_bytes(total[4])} in the memory of a server",
    ]
    for title, rows in tables(stats):
        lines += ["", *_text_table(title, rows, total)]
    for title, what in (("biggest keys", "biggest"), ("keys with most elements", "longest")):
        if stats.found[what]:
            lines += ["", f"{title}", f"  {'bytes':>10} {'memory':>10} {'elements':>14} {'db':>3} {'encoding':22} key"]
            lines += [
                f"  {human_bytes(each['bytes']):>10} {human_bytes(each['memory']):>10} {human_count(each['elements']):>14} "
                f"{each['db']:>3} {each['encoding']:22} {show_key(each['key'])}"
                for each in stats.found[what]
            ]
    return "\n".join(lines) + "\n"


def tables(stats: Stats) -> list[tuple[str, list[tuple[str, Counts]]]]:
    """All tables of counts, with their titles."""
    return [
        ("by type", stats.sorted("types")),
        ("by encoding", stats.sorted("encodings")),
        ("by database", stats.sorted("databases")),
        (f"by prefix (first {MOST_PREFIXES})", stats.prefixes()[:MOST_PREFIXES]),
        ("by time to live", stats.expiries()),
    ]


def _text_table(title: str, rows: Iterable[tuple[str, Counts]], total: Counts) -> list[str]:
    lines = [f"{title:32} {'keys':>14} {'bytes':>10} {'share':>6} {'memory':>10} {'elements':>14} {'expiring':>14}"]
    for name, (keys, size, elements, expiring, memory) in rows:
        shown = name if len(name) <= 30 else name[:29] + "…"
        lines.append(
            f"  {shown:30} {human_count(keys):>14} {human_bytes(size):>10} {size / max(total[1], 1):>6.1%} "
            f"{human_bytes(memory):>10} {human_count(elements):>14} {human_count(expiring):>14}"
        )
    return lines
