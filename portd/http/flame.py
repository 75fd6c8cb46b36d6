"""A heap profile as a flame graph: one page without anything from elsewhere; a click on a frame widens it.

The width of a frame is its share of the bytes in use; callers stand above what they call.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from portd.http.markup import esc
from portd.memory.slices import Slices
from portd.units import human_bytes, human_count

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.memory.heap import HeapProfile
    from portd.memory.heapnames import FunctionNames

_SCRIPT = (Path(__file__).parent / "flame.js").read_text(encoding="utf-8")
_STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:1.5rem;background:#fff;color:#222}"
    "h1{font-size:1.2rem;margin:0}p{margin:.3rem 0;color:#555}#picked{color:#222;min-height:1.5em;word-break:break-all}"
    "svg.flame{width:100%;display:block}g[data-x]{cursor:pointer}rect{stroke:#fff;stroke-width:.5}"
    "g[data-x]:hover rect{stroke:#222}text{font:12px system-ui,sans-serif;pointer-events:none}"
    ".c0 rect{fill:#e8743b}.c1 rect{fill:#efa23c}.c2 rect{fill:#f3c04b}.c3 rect{fill:#d9824f}.own rect{fill:#5b8db8}"
    "@media(prefers-color-scheme:dark){body{background:#15181c;color:#ddd}p{color:#aaa}#picked{color:#ddd}"
    "rect{stroke:#15181c}text{fill:#111}a{color:#8ab4f8}}"
)
_ROW = 18  # height of a frame
_LEAST_SHARE = 0.0005  # of the width; narrower frames are left out


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


CONTENT_POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


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
    drawn: list[str] = []
    await _draw(root, drawn, slices)
    depth = max((int(each.split('data-d="', 1)[1].split('"', 1)[0]) for each in drawn), default=0) + 1
    notes = "".join(f"<p>{esc(line)}</p>" for line in comments)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>heap - portd</title><style>{_STYLE}</style></head><body>"
        '<h1>portd: bytes in use by stack</h1><p><a href="../memory">memory</a></p>'
        f'{notes}<p id="picked">click a frame to widen it, the top one to go back</p>'
        f'<svg class="flame" height="{depth * _ROW}">{"".join(drawn)}</svg>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


async def _draw(root: _Node, drawn: list[str], slices: Slices) -> None:
    """Frames in the order of their depth first walk; widths and places in percent."""
    waiting = [("all", root, 0.0, 0)]
    whole = max(root.size, 1)
    while waiting:
        name, node, left, depth = waiting.pop()
        share = node.size / whole
        if share < _LEAST_SHARE:
            continue
        drawn.append(_frame(name, node, left, share, depth))
        place = left
        for child_name, child in sorted(node.children.items(), key=lambda item: -item[1].size):
            waiting.append((child_name, child, place, depth + 1))
            place += child.size / whole
        await slices.rest()


def _frame(name: str, node: _Node, left: float, share: float, depth: int) -> str:
    mark = "own" if name.startswith("portd.") else f"c{hash(name) % 4}"
    title = f"{name}: {human_bytes(node.size)}, {share:.1%}, {human_count(node.objects)} blocks"
    x, width, y = left * 100, share * 100, depth * _ROW
    return (
        f'<g class="{mark}" data-x="{left:.6f}" data-w="{share:.6f}" data-d="{depth}"><title>{esc(title)}</title>'
        f'<rect x="{x:.4f}%" y="{y}" width="{width:.4f}%" height="{_ROW}"/>'
        f'<svg x="{x:.4f}%" y="{y}" width="{width:.4f}%" height="{_ROW}">'
        f'<text x="3" y="13">{esc(name)}</text></svg></g>'
    )
