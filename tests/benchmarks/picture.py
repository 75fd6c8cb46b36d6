"""``python -m tests.benchmarks.picture``: the pictures of docs/performance.md, from the JSON of the benchmarks.

``--sync FILE`` (of ``python -m tests.benchmarks --json FILE``) draws the wall ratios of each dataset, ``--growth FILE`` (of
``python -m tests.benchmarks.growth --json FILE``) wall, CPU and peak memory over the number of keys. SVG, without any library.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[2] / "docs"
WIDTH = 860
LEFT, RIGHT, TOP, BOTTOM = 110, 24, 64, 44
INK, PALE, GRID = "#222", "#555", "#ddd"
COLOURS = {
    "pipe": "#b98a2f",
    "replicaof": "#2f6f9f",
    "pipe, one by one": "#8a8a8a",
    "wall": "#2f6f9f",
    "cpu": "#b98a2f",
    "rss": "#4c8c4a",
}
NAMES = {"pipe": "redis-cli --pipe", "replicaof": "REPLICAOF", "pipe, one by one": "--pipe, one element a command"}
GOALS = {("strings", "replicaof"): 1.0, ("mixed", "replicaof"): 1.3, ("mixed", "pipe"): 0.7} | {
    ("big-hash", "pipe"): 1.0,
    ("values", "replicaof"): 1.2,
}
BAR, GAP = 18, 16  # heights
PANEL = 260  # height of a panel of the growth picture
MIB = 1 << 20


def main() -> None:
    """Draws what it is given."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.picture", description=__doc__)
    parser.add_argument("--sync", type=Path, help="JSON of python -m tests.benchmarks")
    parser.add_argument("--growth", type=Path, help="JSON of python -m tests.benchmarks.growth")
    parser.add_argument("--into", type=Path, default=DOCS, help="folder of the pictures")
    arguments = parser.parse_args()
    if not (arguments.sync or arguments.growth):
        parser.error("give --sync or --growth")
    for given, draw, name in (
        (arguments.sync, ratios, "performance-sync.svg"),
        (arguments.growth, growth, "performance-growth.svg"),
    ):
        if given:
            path = arguments.into / name
            path.write_text(draw(json.loads(given.read_text())), encoding="utf-8")
            print(path)


def _text(x: float, y: float, words: str, fill: str = PALE, **more: str | float) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}"{extra}>{words}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, **more: str | float) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{extra}/>'


def _picture(height: float, title: str, parts: list[str]) -> str:
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>',
        _text(LEFT, 26, title, INK, font_size=16),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def ratios(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Bars of portd's wall time over that of the others; medians of the ratios of each round."""
    rows: list[tuple[str, str, float]] = []
    for dataset, runs in results.items():
        for other in NAMES:
            pairs = zip(runs["portd"], runs.get(other, []), strict=False)
            if shares := [ours["wall"] / theirs["wall"] for ours, theirs in pairs]:
                rows.append((dataset, other, statistics.median(shares)))
    most = max([1.5, *(share for _, _, share in rows)]) * 1.1
    width = WIDTH - LEFT - RIGHT
    height = TOP + len(rows) * (BAR + 4) + len(results) * GAP + BOTTOM
    parts = [
        _text(LEFT + place * 200, 48, f"against {NAMES[other]}", COLOURS[other])
        for place, other in enumerate(dict.fromkeys(other for _, other, _ in rows))
    ]
    for step in range(int(most * 2) + 1):
        x = LEFT + width * step / 2 / most
        parts.append(_line(x, TOP - 4, x, height - BOTTOM, INK if step == 2 else GRID))
        parts.append(_text(x, height - BOTTOM + 18, f"{step / 2:g}", text_anchor="middle"))
    y, shown = float(TOP), ""
    for dataset, other, share in rows:
        if dataset != shown:
            y += GAP
            parts.append(_text(LEFT - 10, y + BAR, dataset, INK, text_anchor="end"))
            shown = dataset
        long = width * share / most
        parts.append(f'<rect x="{LEFT}" y="{y:.1f}" width="{long:.1f}" height="{BAR}" fill="{COLOURS[other]}"/>')
        parts.append(_text(LEFT + long + 6, y + BAR - 4, f"{share:.2f}", INK))
        if (goal := GOALS.get((dataset, other))) is not None:
            x = LEFT + width * goal / most
            parts.append(_line(x, y - 2, x, y + BAR + 2, "#c2493d", stroke_width=3))
        y += BAR + 4
    parts.append(_text(LEFT, height - 8, "wall time of portd ÷ theirs, less is better; red: at most this is asked for"))
    return _picture(height, "Full sync, compared", parts)


def growth(found: dict[str, Any]) -> str:
    """Three panels over the number of keys, logarithmic: wall and CPU with their lines, and the peak of memory."""
    points = found["points"]
    millions = [point["keys"] / 1e6 for point in points]
    low, high = math.log10(min(millions)) - 0.1, math.log10(max(millions)) + 0.1

    def x(keys: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(keys) - low) / (high - low)

    parts: list[str] = []
    for place, (name, title) in enumerate((("wall", "wall, s"), ("cpu", "own CPU, s"), ("rss", "peak RSS, MiB"))):
        values = [point[name] / (MIB if name == "rss" else 1) for point in points]
        parts += _panel(TOP + place * PANEL, name, title, (millions, values), x, found["lines"].get(name))
    bottom = TOP + 3 * PANEL
    parts += [_text(x(each), bottom + 6, f"{each:g}", text_anchor="middle") for each in millions]
    parts.append(_text(LEFT, bottom + 26, "million small strings; grey: the line through the points"))
    return _picture(bottom + BOTTOM, "Growth of a full sync", parts)


def _panel(
    top: float,
    name: str,
    title: str,
    points: tuple[list[float], list[float]],
    x: Callable[[float], float],
    fitted: dict[str, float] | None,
) -> list[str]:
    """Points of one figure; seconds on a logarithmic scale, so that a line through the origin has a slope of one."""
    millions, values = points
    floor = 0.0 if name == "rss" else 10 ** math.floor(math.log10(min(values)))
    ceiling = 120.0 if name == "rss" else 10 ** math.ceil(math.log10(max(values)))
    bottom, height = top + PANEL - 40, PANEL - 64

    def y(value: float) -> float:
        if name == "rss":
            return bottom - height * value / ceiling
        return bottom - height * math.log10(value / floor) / math.log10(ceiling / floor)

    steps = [0.0, 40.0, 80.0, 120.0]
    if name != "rss":
        steps = [floor * 10**n for n in range(round(math.log10(ceiling / floor)) + 1)]
    parts = [_text(LEFT, top + 12, title, COLOURS[name])]
    for step in steps:
        parts.append(_line(LEFT, y(step), WIDTH - RIGHT, y(step), GRID))
        parts.append(_text(LEFT - 8, y(step) + 4, f"{step:g}", text_anchor="end"))
    if fitted:
        ends = [millions[0] * (millions[-1] / millions[0]) ** (n / 40) for n in range(41)]
        curve = " ".join(f"{x(n):.1f},{y(max(fitted['base'] + fitted['million'] * n, floor)):.1f}" for n in ends)
        parts.append(f'<polyline points="{curve}" fill="none" stroke="#999" stroke-dasharray="5 4"/>')
    for each, value in zip(millions, values, strict=True):
        parts.append(f'<circle cx="{x(each):.1f}" cy="{y(value):.1f}" r="4" fill="{COLOURS[name]}"/>')
        parts.append(_text(x(each), y(value) - 9, f"{value:.3g}", INK, text_anchor="middle"))
    return parts


if __name__ == "__main__":
    main()
