"""Who has the slots of which shard of a source, and what is said when that changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from portd.config.load import load_settings
from portd.errors import SlotsMoved
from portd.net.topology import ALL_SLOTS, Node, Topology, common
from portd.source import shards
from portd.source.shards import Assignment, ShardWatch, owners, refuse_moves

if TYPE_CHECKING:
    from collections.abc import Sequence

WANTED = {"l.0": ((0, 99),), "l.100": ((100, 199), (300, 16383)), "l.200": ((200, 299),)}


def topology(**ranges: Sequence[tuple[int, int]]) -> Topology:
    """Of nodes by their names."""
    return Topology.of([Node(name, name, 6379, tuple(each)) for name, each in ranges.items()])


def test_a_shard_is_where_all_its_slots_are() -> None:
    """Under whatever name: a replica that was promoted is another node."""
    found, moved, _ = owners(topology(a=[(0, 99)], x=[(100, 199), (300, 16383)], c=[(200, 299)]), WANTED)
    assert not moved
    assert {name: node.name for name, node in found.items()} == {"l.0": "a", "l.100": "x", "l.200": "c"}


@pytest.mark.parametrize(
    ("ranges", "text", "passes"),
    [
        ({"a": [(0, 98)], "b": [(99, 199), (300, 16383)], "c": [(200, 299)]}, "slots 99 of the source have moved", False),
        ({"a": [(0, 99)], "b": [(100, 199)], "c": [(200, 299)], "d": [(300, 16383)]}, "slots 100-199 of", False),
        ({"a": [(0, 99), (200, 299)], "b": [(100, 199), (300, 16383)]}, "the links l.0 and l.200, two shards", False),
        ({"a": [(0, 50)], "b": [(100, 199), (300, 16383)], "c": [(200, 299)]}, "slots 51-99 of the source have no owner", True),
        ({"a": [(0, 99)], "b": [(100, 199), (300, 16383)]}, "slots 200-299 of the source have no owner", True),
    ],
    ids=["to another link", "to a new node", "two in one", "some lost", "a shard lost"],
)  # fmt: skip
def test_what_has_moved_is_said(ranges: dict[str, Any], text: str, passes: bool) -> None:  # noqa: FBT001 - a row
    """Each way in which a link would miss keys; only a gap may be a node's ignorance."""
    _, moved, passing = owners(topology(**ranges), WANTED)
    assert text in moved
    assert passing is passes


def test_a_start_looks_at_wanted_slots_only() -> None:
    """Marks and gaps elsewhere are no concern of a link that leaves these slots out."""
    there = topology(a=[(0, 99)])
    refuse_moves(there, {200: "b"}, ((0, 99),))
    with pytest.raises(SlotsMoved, match="slots 5 of the source are on their way"):
        refuse_moves(there, {5: "b"}, ((0, 99),))
    with pytest.raises(SlotsMoved, match="slots 100-16383 of the source have no owner"):
        refuse_moves(there, {}, ALL_SLOTS)


def test_slots_in_common() -> None:
    """Ranges of a node, as far as they are wanted, from the lowest on."""
    assert common(((0, 99), (200, 299)), ALL_SLOTS) == ((0, 99), (200, 299))
    assert common(((200, 299), (0, 99)), ((50, 210),)) == ((50, 99), (200, 210))
    assert common(((0, 99),), ((100, 200),)) == ()


async def test_a_watch_tells_new_owners_and_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look serves every link; a shard that went elsewhere whole is followed, a gap counts when it is seen twice."""
    whole = topology(a=[(0, 99)], b=[(100, 16383)])
    looks = [whole, topology(a=[(0, 99)], x=[(100, 16383)]), topology(a=[(0, 99)]), whole, topology(a=[(0, 99)])]

    async def read(_: object) -> tuple[Topology, dict[int, str]]:
        return (looks.pop(0) if len(looks) > 1 else looks[0]), {}

    monkeypatch.setattr(shards, "read_map", read)
    links = [
        load_settings(
            {
                "source": "redis+cluster://a",
                "target": "redis://t",
                "link": name,
                "include_slots": slots,
                "one_shard": True,
            }
        )
        for name, slots in (("l.0", "0-99"), ("l.100", "100-16383"))
    ]
    watch = ShardWatch(links, seconds=0.01)
    seen: list[str] = []
    for name in ("l.100", "l.0"):
        with pytest.raises(SlotsMoved, match="100-16383 of the source have no owner any more"):
            await watch.guard(name, lambda node: seen.append(node.name))
    assert seen == ["x", "b"]
    assert len(looks) == 1


def test_a_link_keeps_its_node_and_follows_a_promotion() -> None:
    """By the node's id as long as it has slots; else who has most of the link's, if no other link has it."""
    slots = {"l.0": frozenset(range(100)), "l.100": frozenset(range(100, 16384))}
    whole = topology(a=[(0, 99)], b=[(100, 16383)])
    first = Assignment(whole, slots).nodes({})
    assert {link: node.name for link, node in first.items()} == {"l.0": "a", "l.100": "b"}
    moved = Assignment(topology(a=[(0, 9)], b=[(10, 16383)]), slots)
    assert {link: node.name for link, node in moved.nodes(first).items()} == {"l.0": "a", "l.100": "b"}
    promoted = Assignment(topology(x=[(0, 9)], b=[(10, 16383)]), slots)
    assert {link: node.name for link, node in promoted.nodes(first).items()} == {"l.0": "x", "l.100": "b"}
    emptied = Assignment(topology(b=[(0, 16383)]), slots)
    assert {link: node.name for link, node in emptied.nodes(first).items()} == {"l.100": "b"}


def test_owners_that_no_link_reads_and_slots_of_nobody() -> None:
    """Both are told: the one for another link, the other as a gap."""
    slots = {"l.0": frozenset(range(100)), "l.100": frozenset(range(100, 16384))}
    found = Assignment(topology(a=[(0, 50)], b=[(100, 16383)], c=[(60, 99)]), slots)
    nodes = found.nodes(Assignment(topology(a=[(0, 99)], b=[(100, 16383)]), slots).nodes({}))
    assert found.gaps == frozenset(range(51, 60))
    assert [node.name for node in found.strangers(nodes)] == ["c"]
