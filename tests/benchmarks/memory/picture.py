"""Resident set over time as CSV and as an SVG without any library."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MIB = 1 << 20
WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 56, 52
COLOURS = {"naive": "#c2493d", "portd": "#2f6f9f"}
DOTS = 400  # points of a line, at most


@dataclass(frozen=True, slots=True)
class Track:
    """One contender.

    Attributes:
        name: `naive` or `portd`.
        points: (seconds since its start, resident bytes).
        peak: highest resident set, from the kernel.
        wall: seconds until the target had everything.
        cpu: its own seconds.
    """

    name: str
    points: list[tuple[float, int]]
    peak: int
    wall: float
    cpu: float


def write_csv(path: Path, tracks: Sequence[Track]) -> None:
    """One row a sample."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["contender", "seconds", "rss_bytes"])
        for track in tracks:
            writer.writerows((track.name, f"{at:.2f}", rss) for at, rss in _thin(track.points))


def write_svg(path: Path, tracks: Sequence[Track], title: str, *, ceiling: int) -> None:
    """A line for each contender, and portd's ceiling."""
    seconds = max(track.points[-1][0] for track in tracks) * 1.02
    top = max(track.peak for track in tracks) * 1.08

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / seconds

    def y(size: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * size / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="26" font-size="16" fill="#222">{title}</text>',
    ]
    for size in _steps(top / MIB):
        at = y(size * MIB)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#555">{size:.0f} MiB</text>')
    for at in _steps(seconds):
        label = f'<text x="{x(at):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle" fill="#555">{at:g} s</text>'
        parts.append(label)
    line = y(ceiling)
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{line:.1f}" y2="{line:.1f}" stroke="#888" stroke-dasharray="5 4"/>'
    )
    for place, track in enumerate(tracks):
        colour = COLOURS[track.name]
        points = " ".join(f"{x(at):.1f},{y(rss):.1f}" for at, rss in _thin(track.points))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        words = f"{track.name}: peak {track.peak / MIB:,.0f} MiB, {track.wall:.1f} s, own CPU {track.cpu:.1f} s"
        parts.append(f'<text x="{LEFT + place * 380}" y="46" fill="{colour}">{words}</text>')
    note = f"dashed: the ceiling that portd announces, {ceiling / MIB:.0f} MiB; resident set of the copying process"
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 10}" fill="#555">{note}</text></svg>')
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _thin(points: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most `DOTS` points, the highest of each group."""
    step = max(1, -(-len(points) // DOTS))
    return [max(points[at : at + step], key=lambda point: point[1]) for at in range(0, len(points), step)]


def _steps(top: float) -> list[float]:
    """About five round numbers below *top*."""
    step = 10.0 ** len(str(int(top / 5))) / 10
    for factor in (1, 2, 5, 10):
        if top / (step * factor) <= 6:
            step *= factor
            break
    return [step * number for number in range(int(top / step) + 1)]
