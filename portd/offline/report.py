"""The page of the report on a snapshot: one file that needs nothing else, in the look of portd's other pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from portd.http.markup import (
    STYLE,
    Html,
    bar,
    card,
    code,
    document,
    fill,
    join,
    paragraph,
    policy,
    soft,
    table,
    tile,
    tiles,
)
from portd.offline.stats import show_key, tables
from portd.units import human_bytes, human_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from portd.offline.stats import Counts, Stats

_POLICY: Final = fill('<meta http-equiv="Content-Security-Policy" content="{}">', policy(STYLE))
_ESTIMATE: Final = (
    "Memory is what the keys would take in a server of 64 bits, with names, tables and expiries, estimated from their encoding "
    "and the length of each element. MEMORY USAGE of a server tells it for one key."
)


def render_html(stats: Stats) -> str:
    """The page."""
    found = stats.found
    keys, size, elements, expiring, memory = found["total"]
    written = datetime.fromtimestamp(stats.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = f"{stats.server()}, {human_bytes(stats.bytes)}, report of {written}"
    main = (
        fill('<section class="card wide"><h2>{}</h2>{}</section>', stats.source, paragraph(about, "soft")),
        tiles(
            (
                tile(human_count(keys), "keys"),
                tile(human_count(elements), "elements"),
                tile(human_bytes(memory), "of memory, estimated"),
                tile(human_bytes(size), "of values in the snapshot"),
                tile(human_count(expiring), "keys that expire"),
                tile(human_count(found["functions"]), "function libraries"),
            )
        ),
        *(card(title.capitalize(), _table(rows, found["total"]), wide=True) for title, rows in tables(stats)),
        *(
            card(title, _keys(found[what]), wide=True)
            for title, what in (("Biggest keys", "biggest"), ("Keys with most elements", "longest"))
        ),
        fill('<section class="card wide">{}</section>', paragraph(_ESTIMATE, "soft")),
    )
    return document(f"{stats.source} - portd", soft("report on a snapshot"), join(main), head=_POLICY)


def _table(rows: Sequence[tuple[str, Counts]], total: Counts) -> Html:
    """A row for each name, with bars for its shares of memory and of keys."""
    columns = ("", "#memory", "share of memory, of keys", "#keys", "#in the snapshot", "#elements", "#expiring")
    return table(columns, (_row(name, counts, total) for name, counts in rows))


def _row(name: str, counts: Counts, total: Counts) -> tuple[object, ...]:
    keys, size, elements, expiring, memory = counts
    share, of_keys = memory / max(total[4], 1), keys / max(total[0], 1)
    bars = fill(
        '<div class="shares"><span>{}{}</span><i>{}</i></div>',
        bar(share, f"{name}: share of memory"),
        bar(of_keys, f"{name}: share of keys", "second"),
        f"{share:.1%}",
    )
    return (
        *(name, human_bytes(memory), bars, human_count(keys)),
        *(human_bytes(size), human_count(elements), human_count(expiring)),
    )


def _keys(keys: Iterable[Mapping[str, Any]]) -> Html:
    rows = (
        (
            code(show_key(each["key"])),
            human_bytes(each["memory"]),
            human_count(each["elements"]),
            human_bytes(each["bytes"]),
            str(each["db"]),
            each["encoding"],
            "never" if each["expireat"] is None else _date(each["expireat"]),
        )
        for each in keys
    )
    return table(("key", "#memory", "#elements", "#in the snapshot", "#db", "encoding", "expires"), rows)


def _date(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return "far away"
