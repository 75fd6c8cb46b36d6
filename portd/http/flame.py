"""A heap profile as a flame graph: one page without anything from elsewhere; a click on a frame widens it.

The width of a frame is its share of the bytes in use; callers stand above what they call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from portd.http.markup import STYLE, Html, document, fill, join, paragraph, policy
from portd.memory.slices import Slices
from portd.units import human_bytes, human_count

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.memory.heap import HeapProfile
    from portd.memory.heapnames import FunctionNames

_SCRIPT = (Path(__file__).parent / "flame.js").read_text(encoding="utf-8")
_ROW = 18  # height of a frame
_LEAST_SHARE = 0.0005  # of the width; narrower frames are left out


CONTENT_POLICY = policy(STYLE, _SCRIPT, "form-action 'none'; frame-ancestors 'none'; ")


@dataclass(slots=True)
class _Node:
    size: int = 0
    objects: int = 0
    children: dict[str, _Node] = field(default_factory=dict)


async def flame_page(profile: HeapProfile, names: FunctionNames, comments: Iterable[str] = ()) -> str:
    """The page.

    Args:
        profile: stacks that shrank (in a difference) are left out.
        names: of functions.
        comments: lines to put above the graph.
    """
    slices = Slices()
    root = _Node()
    for stack, sample in profile.samples.items():
        if sample.inuse_bytes <= 0:
            continue
        node = root
        node.size += sample.inuse_bytes
        node.objects += sample.inuse_objects
        for frame in reversed(stack):
            name = (await names.find(frame, slices)).name + (f":{frame[1]}" if frame[1] else "")
            node = node.children.setdefault(name, _Node())
            node.size += sample.inuse_bytes
            node.objects += sample.inuse_objects
            await slices.rest()
    drawn: list[Html] = []
    deepest = await _draw(root, drawn, slices)
    main = fill(
        '<section class="card wide"><h2>Bytes in use by stack</h2>{}<p id="picked" aria-live="polite">{}</p></section>'
        '<section class="card wide"><svg class="flame" height="{}" tabindex="0" role="application" '
        'aria-label="flame graph: arrow keys lead from frame to frame, Enter widens one, Escape goes back">{}</svg></section>',
        join(paragraph(line, "soft") for line in comments),
        "A click, or Enter, widens a frame; the top one, or Escape, leads back. Arrow keys lead from frame to frame.",
        (deepest + 1) * _ROW,
        join(drawn),
    )
    header = Html('<nav aria-label="pages"><a href="../../">status</a><a href="../memory">memory</a></nav>')
    return document("heap - portd", header, main, script=_SCRIPT)


async def _draw(root: _Node, drawn: list[Html], slices: Slices) -> int:
    """Frames in the order of their depth first walk, widths and places in percent; returns how deep they go."""
    deepest = 0
    waiting = [("all", root, 0.0, 0)]
    whole = max(root.size, 1)
    while waiting:
        name, node, left, depth = waiting.pop()
        share = node.size / whole
        if share < _LEAST_SHARE:
            continue
        drawn.append(_frame(name, node, left, share, depth))
        deepest = max(deepest, depth)
        place = left
        for child_name, child in sorted(node.children.items(), key=lambda item: -item[1].size):
            waiting.append((child_name, child, place, depth + 1))
            place += child.size / whole
        await slices.rest()
    return deepest


def _frame(name: str, node: _Node, left: float, share: float, depth: int) -> Html:
    mark = "own" if name.startswith("portd.") else f"c{hash(name) % 4}"
    title = f"{name}: {human_bytes(node.size)}, {share:.1%}, {human_count(node.objects)} blocks"
    x, width, y = f"{left * 100:.4f}%", f"{share * 100:.4f}%", depth * _ROW
    return fill(
        '<g class="{}" data-x="{}" data-w="{}" data-d="{}"><title>{}</title>'
        '<rect x="{}" y="{}" width="{}" height="{}"/>'
        '<svg x="{}" y="{}" width="{}" height="{}"><text x="3" y="13">{}</text></svg></g>',
        *(mark, f"{left:.6f}", f"{share:.6f}", depth, title),
        *(x, y, width, _ROW),
        *(x, y, width, _ROW, name),
    )
