"""Small pieces of HTML: escaped text, tables, the frame of a page. No templates, no assets from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path
from typing import TYPE_CHECKING

from portd import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HERE = Path(__file__).parent
STYLE = (_HERE / "style.css").read_text(encoding="utf-8")
SCRIPT = (_HERE / "live.js").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


# Nothing but our own style and script runs or loads, whatever a key is named.
CONTENT_POLICY = (
    f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

# Our own pages learn that we sent a browser there (`portd.http.origin`), others do not.
PAGE_HEADERS = {"Referrer-Policy": "same-origin"}


def esc(value: object) -> str:
    """Text, safe between tags and in quoted attributes."""
    return html.escape(str(value))


def page(root: str, title: str, state: str, body: str) -> str:
    """A whole document.

    Args:
        root: of all pages as seen from this one: `./`, `../`. Links are relative, so that a proxy may serve them below a path.
        title: of the window.
        state: HTML beside the name, replaced while the page is open.
        body: HTML of the cards, replaced while the page is open.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<noscript><meta http-equiv="refresh" content="5"></noscript>'
        f"<title>{esc(title)}</title><style>{STYLE}</style></head><body>"
        f'<header><h1>portd</h1><span id="state">{state}</span>'
        '<span id="stale" class="bad">no answer, trying again</span>'
        f'<nav><a href="{root}">status</a><a href="{root}debug/memory">memory</a><a href="{root}metrics">metrics</a>'
        f'<a href="{root}status">json</a></nav></header>\n'
        f'<main id="main">\n{body}</main>\n'
        f"<footer>portd {esc(__version__)}</footer><script>{SCRIPT}</script></body></html>\n"
    )


def card(title: str, body: str, *, note: str = "", wide: bool = False) -> str:
    """A box with a heading; *title* and *note* are text, *body* is HTML."""
    heading = f"<h2>{esc(title)}{f' <small>{esc(note)}</small>' if note else ''}</h2>" if title else ""
    return f'<section class="card{" wide" if wide else ""}">{heading}{body}</section>\n'


def tiles(entries: Iterable[tuple[str, str]]) -> str:
    """Figures to see from afar: (figure, what it is), both text."""
    return (
        '<section class="tiles wide">'
        + "".join(
            f'<div class="card tile"><b>{esc(figure)}</b><span>{esc(what)}</span></div>' for figure, what in entries
        )
        + "</section>\n"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, sums: int = 0) -> str:
    """A table that scrolls by itself where it is too wide.

    Args:
        columns: headings; one that begins with `#` is over numbers.
        rows: cells as HTML; the first of a row names it.
        sums: how many rows at the end are totals.
    """
    numeric = [name.startswith("#") for name in columns]
    classes = [' class="n"' if number else "" for number in numeric]
    head = "".join(
        f'<th scope="col"{mark}>{esc(name.removeprefix("#"))}</th>' for name, mark in zip(columns, classes, strict=True)
    )
    listed = list(rows)
    body = ""
    for place, (first, *others) in enumerate(listed):
        cells = "".join(f"<td{mark}>{cell}</td>" for cell, mark in zip(others, classes[1:], strict=True))
        total = ' class="sum"' if place >= len(listed) - sums else ""
        body += f'<tr{total}><th scope="row">{first}</th>{cells}</tr>'
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def bar(share: float | None, label: str) -> str:
    """A progress bar; *share* None is "moving, nobody knows how far"."""
    value = "" if share is None else f' value="{min(1.0, max(0.0, share)):.4f}"'
    return f'<progress max="1"{value} aria-label="{esc(label)}"></progress>'


def badge(text: str, mood: str) -> str:
    """A word in a coloured rim; *mood* is good, wait, bad or soft."""
    return f'<span class="badge {mood}">{esc(text)}</span>'
