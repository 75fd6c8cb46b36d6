"""Small pieces of HTML, escaped by their type: text becomes markup only in `fill`, which escapes whatever is no `Html`.

One look for the pages, the flame graph and the report of `portd decode`. No assets from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portd import __version__
from portd.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HERE = Path(__file__).parent
STYLE: Final = (_HERE / "style.css").read_text(encoding="utf-8")
SCRIPT: Final = (_HERE / "live.js").read_text(encoding="utf-8")


class Html(str):
    """Markup that is ready to be shown. Made by the functions here; pages put it together with them."""

    __slots__ = ()


NOTHING: Final = Html()


def esc(value: object) -> Html:
    """Anything, safe between tags and in quoted attributes, control characters as escapes; markup stays as it is."""
    return value if isinstance(value, Html) else Html(html.escape(plain(str(value))))


def fill(template: str, *values: object) -> Html:
    """A template with `{}` for each of the values, which are escaped.

    Args:
        template: markup, a literal: nothing that comes from elsewhere.
        values: text, or `Html`.
    """
    return Html(template.format(*map(esc, values)))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Pieces one behind the other, escaped where they are no markup."""
    return Html(between.join(map(esc, parts)))


def policy(style: str, script: str = "", more: str = "") -> str:
    """Content-Security-Policy: nothing but this style and script runs or loads, whatever a key is named.

    Args:
        style: all of the page's.
        script: all of the page's; "" for none.
        more: further directives, each with its semicolon.
    """

    def named(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" if text else "'none'"

    return f"default-src 'none'; style-src {named(style)}; script-src {named(script)}; {more}base-uri 'none'"


CONTENT_POLICY: Final = policy(STYLE, SCRIPT, "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; ")

# Our own pages learn that we sent a browser there (`portd.http.origin`), others do not.
PAGE_HEADERS: Final = {"Referrer-Policy": "same-origin"}


def document(title: str, header: Html, main: Html, *, head: Html = NOTHING, script: str = "") -> str:
    """A whole document in the look of all.

    Args:
        title: of the window.
        header: beside the name.
        main: what it is about.
        head: more for the head.
        script: at its end.
    """
    text = fill(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "{}<title>{}</title><style>{}</style></head><body>\n"
        "<header><h1>portd</h1>{}</header>\n"
        '<main id="main">\n{}</main>\n<footer>portd {}, times of UTC{}</footer>{}</body></html>\n',
        *(head, title, Html(STYLE), header, main, __version__, _zone()),
        Html(f"<script>{script}</script>" if script else ""),
    )
    return str(text)


def _zone() -> str:
    """How far the clock of this host is from UTC, as in `+02:00`."""
    zone = time.strftime("%z")
    return f"{zone[:3]}:{zone[3:]}"


def page(root: str, title: str, state: Html, body: Html) -> str:
    """A page that is kept up to date while it is looked at.

    Args:
        root: of all pages as seen from this one: `./`, `../`. Links are relative, so that a proxy may serve them below a path.
        title: of the window.
        state: beside the name.
        body: the cards.
    """
    links = (("status", ""), ("memory", "debug/memory"), ("metrics", "metrics"), ("json", "status"))
    header = fill(
        '<div id="state" class="state">{}</div>'
        '<span id="stale" class="badge bad" role="alert"></span>'
        '<nav aria-label="pages">{}</nav>',
        state,
        join(fill('<a href="{}{}">{}</a>', root, path, name) for name, path in links),
    )
    refresh = Html('<noscript><meta http-equiv="refresh" content="5"></noscript>')
    return document(title, header, body, head=refresh, script=SCRIPT)


def card(title: str, body: Html, *, note: str = "", wide: bool = False, mood: str = "") -> Html:
    """A box with a heading; *mood* is good, wait, bad, or "" for none."""
    small = fill(" <small>{}</small>", note) if note else ""
    heading = fill("<h2>{}{}</h2>", title, small) if title else ""
    return fill(
        '<section class="card{} {}">{}{}</section>\n', " wide" if wide else "", mood and f"edge {mood}", heading, body
    )


def tile(figure: str, what: str, mood: str = "") -> Html:
    """A figure to see from afar, and what it is."""
    return fill('<div class="card tile {}"><b>{}</b><span>{}</span></div>', mood and f"edge {mood}", figure, what)


def tiles(entries: Iterable[Html]) -> Html:
    """Tiles beside one another."""
    return fill('<section class="tiles wide">{}</section>\n', join(entries))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, sums: int = 0) -> Html:
    """A table that scrolls by itself where it is too wide.

    Args:
        columns: headings; one that begins with `#` is over numbers.
        rows: cells, text or markup; the first of a row names it.
        sums: how many rows at the end are totals.
    """
    marks = [Html(' class="n"') if name.startswith("#") else Html() for name in columns]
    head = join(
        fill('<th scope="col"{}>{}</th>', mark, name.removeprefix("#"))
        for name, mark in zip(columns, marks, strict=True)
    )
    listed = list(rows)
    body = join(
        fill(
            '<tr{}><th scope="row">{}</th>{}</tr>',
            Html(' class="sum"') if place >= len(listed) - sums else "",
            first,
            join(fill("<td{}>{}</td>", mark, cell) for cell, mark in zip(others, marks[1:], strict=True)),
        )
        for place, (first, *others) in enumerate(listed)
    )
    return fill('<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>', head, body)


def listed(entries: Iterable[Html]) -> Html:
    """Entries below one another, for texts of any length."""
    return fill('<ul class="list">{}</ul>', join(entries))


def entry(text: str, about: str, mark: Html = NOTHING) -> Html:
    """A line of such a list: what is marked, and what is to be said about it."""
    return fill('<li>{}<span class="text">{}</span>{}</li>', mark, text, soft(about))


def bar(share: float | None, label: str, mood: str = "") -> Html:
    """A progress bar; *share* None is "moving, nobody knows how far"."""
    value = "" if share is None else fill(' value="{}"', f"{min(1.0, max(0.0, share)):.4f}")
    return fill('<progress max="1"{} class="{}" aria-label="{}"></progress>', value, mood, label)


def badge(text: str, mood: str) -> Html:
    """A word in a coloured rim; *mood* is good, wait, bad or soft."""
    return fill('<span class="badge {}">{}</span>', mood, text)


def soft(text: object) -> Html:
    """Text in the background."""
    return fill('<span class="soft">{}</span>', text)


def coloured(text: object, mood: str) -> Html:
    """Text in the colour of a mood; "" for none."""
    return fill('<span class="{}">{}</span>', mood, text) if mood else esc(text)


def paragraph(text: object, mood: str = "") -> Html:
    """A paragraph."""
    return fill('<p class="{}">{}</p>', mood, text) if mood else fill("<p>{}</p>", text)


def code(text: object) -> Html:
    """A name as it is; a long one is broken anywhere."""
    return fill("<code>{}</code>", text)


def moment(at: float, now: float | None = None) -> str:
    """A time of this host's clock, with the date where that is another than today's; "" for 0: never."""
    if not at:
        return ""
    when, today = time.localtime(at), time.localtime(now)
    return time.strftime("%H:%M:%S" if when[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", when)
