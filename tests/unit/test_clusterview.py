"""Two views of a cluster: which slots may have been elsewhere between them."""

from __future__ import annotations

import pytest

from portd.net.clusterview import View
from portd.net.topology import Node, Topology, common, ranges_of

A = Node("a", "10.0.0.1", 6379, ((0, 5460),))
B = Node("b", "10.0.0.2", 6379, ((5461, 16383),))


def view(*nodes: Node, marks: dict[int, str] | None = None, followed: dict[str, str] | None = None) -> View:
    """A view of some primaries."""
    return View(Topology.of(nodes), marks or {}, followed or {})


def node(name: str, *slots: tuple[int, int]) -> Node:
    """A primary."""
    return Node(name, "10.0.0.9", 6379, slots)


FOLLOWED = {"r": "a", "s": "b"}

CASES = {
    "nothing": (view(A, B), view(A, B), []),
    "on the way before": (view(A, B, marks={7: "b"}), view(A, B), [(7, 7)]),
    "on the way behind": (view(A, B), view(A, B, marks={7: "b"}), [(7, 7)]),
    "moved": (view(A, B), view(node("a", (0, 99)), node("b", (100, 16383))), [(100, 5460)]),
    "to a new node": (view(A, B), view(node("a", (0, 5400)), node("n", (5401, 5460)), B), [(5401, 5460)]),
    "promoted": (view(A, B, followed=FOLLOWED), view(node("r", (0, 5460)), B), []),
    "promoted, and gave some away": (
        view(A, B, followed=FOLLOWED),
        view(node("r", (0, 99)), node("b", (100, 16383))),
        [(100, 5460)],
    ),
    "all of a shard to another node": (view(A, B, followed=FOLLOWED), view(node("n", (0, 5460)), B), [(0, 5460)]),
    "a stranger in the place of another's replica": (
        view(A, B, followed=FOLLOWED),
        view(node("s", (0, 5460)), B),
        [(0, 5460)],
    ),
    "lost": (view(A, B), view(B), [(0, 5460)]),
    "nobody's, then somebody's": (view(B), view(A, B), [(0, 5460)]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_elsewhere(name: str) -> None:
    """Moved, on its way, or nobody's: elsewhere; at a promoted replica: at its place."""
    before, after, wanted = CASES[name]
    assert ranges_of(after.elsewhere_since(before)) == wanted


def test_only_what_is_wanted_counts() -> None:
    """Slots that nobody asked for may move."""
    before, after = view(A, B), view(node("a", (0, 99)), node("b", (100, 16383)))
    assert ranges_of(after.elsewhere_since(before, ((90, 110), (9000, 9001)))) == [(100, 110)]
    assert after.elsewhere_since(before, ((5461, 16383),)) == []


def test_nodes_of_wanted_slots() -> None:
    """Each with those of its slots that are wanted; the others are left out."""
    found = view(A, B).nodes_of(((5000, 6000),))
    assert [(each.name, slots) for each, slots in found] == [("a", ((5000, 5460),)), ("b", ((5461, 6000),))]
    assert [each.name for each, _ in view(A, B).nodes_of(((6000, 6001),))] == ["b"]
    assert common([(0, 5), (8, 9)], [(4, 8)]) == ((4, 5), (8, 8))
