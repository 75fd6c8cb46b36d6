"""The small plot of the last minutes: an SVG without text, its labels in HTML so that they stay readable when narrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.http.markup import esc
from portd.units import MIB, human_bytes, human_seconds

if TYPE_CHECKING:
    from portd.memory.history import HistoryReading

_WIDTH, _HEIGHT = 600, 100  # of the drawing's own grid; CSS stretches it


def memory_plot(history: HistoryReading, limit_bytes: int) -> str:
    """RSS and what owners hold over time.

    Args:
        history: columns `rss` and `owned`.
        limit_bytes: a dashed line; 0 draws none.
    """
    if len(history.at) < 2:
        return '<p class="soft">The plot begins with the second sample, in a moment.</p>'
    first, last = history.at[0], history.at[-1]
    rss, owned = history.columns["rss"], history.columns["owned"]
    top = _round_up(max(*rss, *owned, limit_bytes))
    dashed = ""
    if limit_bytes:
        height = _HEIGHT * (1 - limit_bytes / top)
        dashed = f'<line class="limit" x1="0" x2="{_WIDTH}" y1="{height:.1f}" y2="{height:.1f}"/>'
    grid = "".join(f'<line class="grid" x1="0" x2="{_WIDTH}" y1="{y}" y2="{y}"/>' for y in (25, 50, 75))
    lines = "".join(
        f'<path class="{name}" d="{_line(history.at, values, top)}"/>'
        for name, values in (("rss", rss), ("owned", owned))
    )
    summary = f"resident {human_bytes(rss[-1])}, owned {human_bytes(owned[-1])}, over {human_seconds(last - first)}"
    limit = f'<span class="limit">ceiling {human_bytes(limit_bytes)}</span>' if limit_bytes else ""
    return (
        f'<figure><div class="scale"><span>{human_bytes(top)}</span></div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{esc(summary)}">'
        f"{grid}{dashed}{lines}</svg>"
        f'<div class="scale"><span>{human_seconds(last - first)} ago</span><span>now</span></div>'
        f'<figcaption class="legend"><span class="rss">resident {human_bytes(rss[-1])}</span>'
        f'<span class="owned">held by owners {human_bytes(owned[-1])}</span>{limit}</figcaption></figure>'
    )


def _line(at: list[float], values: list[int], top: int) -> str:
    span = max(at[-1] - at[0], 1e-3)
    points = (
        f"{_WIDTH * (moment - at[0]) / span:.1f},{_HEIGHT * (1 - value / top):.1f}"
        for moment, value in zip(at, values, strict=True)
    )
    return "M" + "L".join(points)


def _round_up(size: int) -> int:
    """The next size that reads well as the top of a scale."""
    top = 8 * MIB
    while top < size * 1.05:
        top = top * 3 // 2 if top & (top - 1) == 0 else top // 3 * 4
    return top
