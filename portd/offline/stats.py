"""The report on a snapshot: what a DBA wants to know before a migration, as text, JSON and one HTML page."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from portd.text import dumps
from portd.units import human_bytes, human_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Counts = list[int]  # keys, bytes, elements, keys that expire

TTL_NAMES: Final = ("1 minute", "1 hour", "1 day", "7 days", "30 days", "1 year")  # as `TTL_LIMITS` of the handler
MOST_PREFIXES: Final = 50  # shown; the JSON report has all
NO_PREFIX: Final = "(no prefix)"
OTHER_PREFIXES: Final = "(others)"
COLOURS: Final = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e")


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
        """Names and counts, most bytes first."""
        named = [(_prefix(name), counts) for name, counts in self.found["prefixes"].items()]
        return sorted(named, key=lambda each: (-each[1][1], each[0]))

    def sorted(self, what: str) -> list[tuple[str, Counts]]:
        """Names and counts of types, encodings or databases, most bytes first; databases by number."""
        named = [(name, counts) for name, counts in self.found[what].items()]
        if what == "databases":
            return [(f"db {name}", counts) for name, counts in sorted(named)]
        return sorted(named, key=lambda each: (-each[1][1], each[0]))

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
    return dict(zip(("keys", "bytes", "elements", "expiring"), counts, strict=True))


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
    ]
    for title, rows in _tables(stats):
        lines += ["", *_text_table(title, rows, total)]
    for title, what in (("biggest keys", "biggest"), ("keys with most elements", "longest")):
        if stats.found[what]:
            lines += ["", f"{title}", f"  {'bytes':>10} {'elements':>14} {'db':>3} {'encoding':22} key"]
            lines += [
                f"  {human_bytes(each['bytes']):>10} {human_count(each['elements']):>14} {each['db']:>3} "
                f"{each['encoding']:22} {show_key(each['key'])}"
                for each in stats.found[what]
            ]
    return "\n".join(lines) + "\n"


def _tables(stats: Stats) -> list[tuple[str, list[tuple[str, Counts]]]]:
    return [
        ("by type", stats.sorted("types")),
        ("by encoding", stats.sorted("encodings")),
        ("by database", stats.sorted("databases")),
        (f"by prefix (first {MOST_PREFIXES})", stats.prefixes()[:MOST_PREFIXES]),
        ("by time to live", stats.expiries()),
    ]


def _text_table(title: str, rows: Iterable[tuple[str, Counts]], total: Counts) -> list[str]:
    lines = [f"{title:32} {'keys':>14} {'bytes':>10} {'share':>6} {'elements':>14} {'expiring':>14}"]
    for name, (keys, size, elements, expiring) in rows:
        shown = name if len(name) <= 30 else name[:29] + "…"
        lines.append(
            f"  {shown:30} {human_count(keys):>14} {human_bytes(size):>10} {size / max(total[1], 1):>6.1%} "
            f"{human_count(elements):>14} {human_count(expiring):>14}"
        )
    return lines


def render_html(stats: Stats) -> str:
    """One page that needs nothing else: tables, and charts as inline SVG."""
    total = stats.found["total"]
    cards = [
        ("keys", human_count(total[0])),
        ("elements", human_count(total[2])),
        ("bytes of values", human_bytes(total[1])),
        ("keys that expire", human_count(total[3])),
        ("function libraries", human_count(stats.found["functions"])),
    ]
    body = [f"<h1>{_escape(stats.source)}</h1>"]
    written = datetime.fromtimestamp(stats.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    body.append(f"<p>{_escape(stats.server())}, {human_bytes(stats.bytes)}, report of {written}</p><div class=cards>")
    body += [f"<div><b>{_escape(value)}</b>{_escape(name)}</div>" for name, value in cards]
    body.append("</div>")
    for title, rows in _tables(stats):
        body.append(f"<h2>{_escape(title)}</h2>{_bars(rows)}{_html_table(rows, total)}")
    for title, what in (("biggest keys", "biggest"), ("keys with most elements", "longest")):
        body.append(f"<h2>{title}</h2>{_html_keys(stats.found[what])}")
    return _PAGE.replace("{title}", _escape(stats.source)).replace("{body}", "\n".join(body))


def _escape(text: str) -> str:
    return html.escape(text)


def _bars(rows: Sequence[tuple[str, Counts]]) -> str:
    """Two bars for each row: its share of the bytes and of the keys."""
    rows = list(rows)[:20]
    if not rows:
        return ""
    width, step, left = 760, 30, 220
    most_bytes = max(counts[1] for _, counts in rows) or 1
    most_keys = max(counts[0] for _, counts in rows) or 1
    shapes = [f'<svg viewBox="0 0 {width} {step * len(rows) + 4}" role="img" aria-label="bytes and keys">']
    for number, (name, (keys, size, _, _)) in enumerate(rows):
        y = number * step
        colour = COLOURS[number % len(COLOURS)]
        room = width - left - 150
        long, short = room * size / most_bytes, room * keys / most_keys
        label = name if len(name) <= 28 else name[:27] + "…"
        shapes.append(
            f'<text x="{left - 8}" y="{y + 18}" text-anchor="end">{_escape(label)}</text>'
            f'<rect x="{left}" y="{y + 4}" width="{max(long, 1):.1f}" height="12" fill="{colour}"/>'
            f'<rect x="{left}" y="{y + 17}" width="{max(short, 1):.1f}" height="6" fill="{colour}" opacity="0.45"/>'
            f'<text x="{left + max(long, short) + 6:.1f}" y="{y + 18}" class="value">{human_bytes(size)}, '
            f"{human_count(keys)} keys</text>"
        )
    return "".join(shapes) + "</svg>"


def _html_table(rows: Iterable[tuple[str, Counts]], total: Counts) -> str:
    lines = ["<table><tr><th><th>keys<th>bytes<th>share<th>elements<th>expiring</tr>"]
    for name, (keys, size, elements, expiring) in rows:
        cells = (human_count(keys), human_bytes(size), f"{size / max(total[1], 1):.1%}", human_count(elements),
                 human_count(expiring))  # fmt: skip
        lines.append(f"<tr><td>{_escape(name)}" + "".join(f"<td>{cell}" for cell in cells) + "</tr>")
    return "".join(lines) + "</table>"


def _html_keys(keys: Iterable[Mapping[str, Any]]) -> str:
    lines = ["<table><tr><th>key<th>db<th>encoding<th>bytes<th>elements<th>expires</tr>"]
    for each in keys:
        at = each["expireat"]
        expires = "never" if at is None else _date(at)
        cells = (str(each["db"]), each["encoding"], human_bytes(each["bytes"]), human_count(each["elements"]), expires)
        lines.append(f"<tr><td>{_escape(show_key(each['key']))}" + "".join(f"<td>{_escape(cell)}" for cell in cells))
    return "".join(lines) + "</table>"


def _date(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return "far away"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.4rem;overflow-wrap:anywhere}h2{font-size:1.05rem;margin-top:2.2rem}
.cards{display:flex;flex-wrap:wrap;gap:.8rem}.cards div{border:1px solid #ddd;border-radius:.5rem;padding:.6rem 1rem}
.cards b{display:block;font-size:1.25rem}svg{width:100%;height:auto}svg text{font-size:12px;fill:#222}
svg .value{fill:#666}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:right;padding:.2rem .5rem;border-bottom:1px solid #eee}
th:first-child,td:first-child{text-align:left;overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}svg text{fill:#ddd}svg .value{fill:#999}
th,td{border-color:#333}.cards div{border-color:#444}}
</style>
{body}
</html>
"""
