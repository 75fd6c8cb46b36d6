"""The map of the rooms: which package imports which, and how often (``python -m tests.rooms``).

A room is a package or a module right below `portd`, in the order in which it may be imported: nothing points up.
"""

from __future__ import annotations

import sys
from collections import Counter
from graphlib import TopologicalSorter


def room_of(module: str) -> str:
    """The part of a module's name that is its room; "" for the package itself."""
    return ".".join(module.split(".")[1:2])


def read_arrows() -> Counter[tuple[str, str]]:
    """How many modules of one room import one of another."""
    import grimp

    graph = grimp.build_graph("portd")
    arrows: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = room_of(module), room_of(imported)
            if all(ends) and ends[0] != ends[1]:
                arrows[ends] += 1
    return arrows


def show(arrows: Counter[tuple[str, str]]) -> str:
    """A line a room, from the one who asks down to what everybody knows, with what it imports."""
    below: dict[str, set[str]] = {}
    for room, other in arrows:
        below.setdefault(room, set()).add(other)
        below.setdefault(other, set())
    order = list(TopologicalSorter(below).static_order())
    floors: dict[str, int] = {}
    for room in order:
        floors[room] = 1 + max((floors[other] for other in below[room]), default=0)
    order.sort(key=lambda room: (-floors[room], room))
    lines = [
        f"{floors[room]:2}  {room:14} {', '.join(f'{other} {arrows[room, other]}' for other in order if other in below[room])}"
        for room in order
    ]
    lines.append(
        f"{len(order)} rooms on {max(floors.values())} floors, {len(arrows)} arrows of {arrows.total()} imports"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, ".")
    print(show(read_arrows()))
