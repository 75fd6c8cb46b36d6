"""Maps of clusters, from answers as servers gave them."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from portd.errors import ConfigError
from portd.kernel.slots import SLOTS, key_slot, slot_tag
from portd.net.endpoint import Endpoint
from portd.net.topology import (
    Entrance,
    NoCluster,
    NoMap,
    Topology,
    common,
    moving,
    parse_slots,
    ranges_of,
    slots_of,
    spelled,
)
from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

ONE, TWO, SPARE = b"a" * 40, b"b" * 40, b"c" * 40


def entry(first: int, last: int, *nodes: Sequence[Any]) -> list[Any]:
    """An entry of CLUSTER SLOTS."""
    return [first, last, *map(list, nodes)]


def test_ranges_of_a_node_are_joined_and_replicas_known() -> None:
    """Redis 6.2 tells no metadata; a node with several ranges is one node."""
    answer = [
        entry(5461, 16383, (b"10.0.0.2", 6379, TWO), (b"10.0.0.3", 6379, SPARE)),
        entry(0, 100, (b"10.0.0.1", 6379, ONE)),
        entry(101, 5460, (b"10.0.0.1", 6379, ONE)),
    ]
    found = parse_slots(answer, "seed")
    assert [(node.address, node.slots) for node in found.nodes] == [
        ("10.0.0.1:6379", ((0, 5460),)),
        ("10.0.0.2:6379", ((5461, 16383),)),
    ]
    assert found.others == (("10.0.0.3", 6379),)
    assert not found.gaps()
    owner = found.owner(key_slot(b"foo"))
    assert owner is not None
    assert owner.name == TWO.decode()


@pytest.mark.parametrize(
    ("host", "metadata", "expected"),
    [
        (None, [], "asked"),  # cluster-preferred-endpoint-type unknown-endpoint
        (b"", [], "asked"),  # a node that does not know its own address yet
        (b"?", [b"ip", b"10.0.0.9"], "10.0.0.9"),  # a hostname is preferred, and this one has none
        (b"?", [], "asked"),
        (b"node.example", [b"ip", b"10.0.0.9"], "node.example"),
        (b"10.0.0.9", [b"hostname", b"node.example"], "10.0.0.9"),
        (b"::1", [], "::1"),
    ],
)
def test_hosts_that_are_not_told(host: bytes | None, metadata: list[bytes], expected: str) -> None:
    """A node without a host is where the map came from, or at the address beside."""
    found = parse_slots([entry(0, 16383, (host, 7000, ONE, metadata))], "asked")
    assert found.nodes[0].host == expected
    assert found.nodes[0].port == 7000


def test_addresses_are_mapped() -> None:
    """What is announced can be replaced by what can be reached, replicas too."""
    answer = [entry(0, 16383, (b"10.0.0.1", 6379, ONE), (b"10.0.0.2", 6379, TWO))]
    mapped = {("10.0.0.1", 6379): ("127.0.0.1", 7001), ("10.0.0.2", 6379): ("127.0.0.1", 7002)}
    found = parse_slots(answer, "seed", mapped)
    assert found.nodes[0].address == "127.0.0.1:7001"
    assert found.others == (("127.0.0.1", 7002),)


def test_slots_without_an_owner_are_named() -> None:
    """Gaps are told as ranges, the first ones."""
    found = parse_slots([entry(10, 20, (b"h", 1, ONE)), entry(22, 16383, (b"h", 1, ONE))], "seed")
    assert found.gaps() == [(0, 9), (21, 21)]
    assert spelled(found.gaps()) == "0-9, 21"
    assert spelled([(each, each) for each in range(0, 20, 2)], 2) == "0, 2 and 8 more ranges"
    assert found.owner(21) is None
    assert Topology.of(()).gaps() == [(0, SLOTS - 1)]
    assert found.gaps(((5, 7), (15, 30))) == [(5, 7), (21, 21)]


def test_a_map_of_some_slots() -> None:
    """Nodes that have none of them are left out, the others are numbered anew and have no more than these."""
    answer = [entry(0, 99, (b"h", 1, ONE)), entry(100, 8000, (b"h", 2, TWO)), entry(8001, 16383, (b"h", 1, ONE))]
    found = parse_slots(answer, "seed").within(((150, 200), (8000, 8002)))
    assert [(node.name, node.slots) for node in found.nodes] == [
        (TWO.decode(), ((150, 200), (8000, 8000))),
        (ONE.decode(), ((8001, 8002),)),
    ]
    assert [found.owner(slot) is None for slot in (0, 149, 150, 8000, 8002, 8003)] == [
        True,
        True,
        False,
        False,
        False,
        True,
    ]
    table = memoryview(found.table).cast("H")
    assert (table[150], table[8002]) == (0, 1)
    assert not found.gaps(((150, 200), (8000, 8002)))
    assert not found.within(((300, 301),)).nodes


@pytest.mark.parametrize(
    "answer",
    [
        b"OK",
        [b"x"],
        [entry(0, 16384, (b"h", 1, ONE))],
        [entry(5, 4, (b"h", 1, ONE))],
        [[0, 1]],
        [entry(0, 1, (b"h", b"1", ONE))],
        [entry(0, 1, (b"h", 0, ONE))],
        [[0, 1, b"h"]],
    ],
)
def test_what_is_no_map_is_refused(answer: object) -> None:
    """Nothing but ranges with nodes is believed."""
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        parse_slots(answer, "seed")


def test_slots_on_their_way_stand_in_the_line_of_the_node_itself() -> None:
    """`[slot->-id]` and `[slot-<-id]`; IPv6 has no brackets there, and other lines say nothing of it."""
    told = (
        b"aaa 127.0.0.1:7000@17000 master - 0 0 1 connected 0-5460 [9->-bbb]\n"
        b"bbb ::1:7001@17001,name myself,master - 0 0 2 connected 5461-10922 [100->-ccc] [101-<-aaa]\n"
    )
    assert moving(told) == {100: "ccc", 101: "aaa"}
    assert moving(b"bbb :0 myself,slave aaa 0 0 2 connected\n") == {}


def test_what_ranges_have_in_common() -> None:
    """As sets of slots have it; each slot may be a range of its own."""
    chance = random.Random(5)
    for _ in range(50):
        one, other = (set(chance.sample(range(300), chance.randint(0, 300))) for _ in range(2))
        assert slots_of(common(ranges_of(sorted(one)), ranges_of(sorted(other)))) == sorted(one & other)
    dealt = [tuple((slot, slot) for slot in range(first, SLOTS, 3)) for first in range(2)]
    assert common(dealt[0], dealt[0]) == dealt[0]
    assert common(*dealt) == ()


async def test_a_map_in_which_each_slot_is_a_range() -> None:
    """Where slots were dealt out one by one there are 16,384 ranges, each with all its nodes."""
    ids = [f"{number:040x}" for number in range(9)]
    said = f"*{SLOTS}\r\n" + "".join(
        f"*5\r\n:{slot}\r\n:{slot}\r\n"
        + "".join(
            f"*4\r\n$9\r\n127.0.0.1\r\n:{7000 + number}\r\n$40\r\n{ids[number]}\r\n*2\r\n$8\r\nhostname\r\n$1\r\nh\r\n"
            for number in (slot % 3, slot % 3 + 3, slot % 3 + 6)
        )
        for slot in range(SLOTS)
    )
    answer = said.encode()
    assert len(answer) > 4_000_000
    async with Node(answer) as end:
        assert end.seeds is not None
        found = await end.seeds.read(Entrance(PATIENCE_SECONDS))
        assert await end.seeds.read(Entrance(PATIENCE_SECONDS)) is found
    assert [node.port for node in found.nodes] == [7000, 7001, 7002]
    assert [len(node.slots) for node in found.nodes] == [5462, 5461, 5461]
    assert found.owner(16_383) is found.nodes[0]
    assert found.nodes[1].replicas == (("127.0.0.1", 7004), ("127.0.0.1", 7007))


def test_ranges() -> None:
    """Ascending slots as ranges."""
    assert ranges_of([]) == []
    assert ranges_of([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]


def test_every_slot_has_a_tag() -> None:
    """A name with the tag in braces lies in the slot; six digits are enough."""
    for slot in (0, 1, 8191, 16383):
        assert key_slot(f"portd:x:{{{slot_tag(slot)}}}".encode()) == slot
    assert max(len(slot_tag(slot)) for slot in range(SLOTS)) <= 6
    with pytest.raises(ValueError, match="no slot"):
        slot_tag(SLOTS)


# ------------------------------------------------------------------------------------------------------------ addresses


def test_urls_of_clusters() -> None:
    """Several hosts, each a seed; credentials and TLS as elsewhere."""
    end = Endpoint.parse("redis+cluster://me:p%40ss@a:7000,b,[::1]:7002")
    assert end.seeds is not None
    assert end.seeds.addresses == (("a", 7000), ("b", 6379), ("::1", 7002))
    assert (end.username, end.password, end.tls) == ("me", "p@ss", None)
    assert end.display == "redis+cluster://a:7000,b:6379,[::1]:7002"
    assert Endpoint.parse("rediss+cluster://a").tls is not None


@pytest.mark.parametrize(
    "url", ["redis+cluster://", "redis+cluster://a,", "redis+cluster://a/name", "redis+cluster://a:0"]
)
def test_urls_that_are_none(url: str) -> None:
    """Empty hosts, ports that are none, and paths are refused."""
    with pytest.raises(ConfigError):
        Endpoint.parse(url)


class Node:
    """Answers whatever it is asked with one text.

    Args:
        answer: to be sent.
    """

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def __aenter__(self) -> Endpoint:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return Endpoint.parse(f"redis+cluster://127.0.0.1:{port}")

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(self._answer)
        await writer.drain()
        writer.close()


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (b"-ERR This instance has cluster support disabled\r\n", NoCluster, "cluster support disabled"),
        (b"-LOADING wait\r\n", NoMap, "LOADING"),
        (b"*0\r\n", NoMap, "knows of no slots"),
        (b"+OK\r\n", NoMap, "something else"),
        (b"HTTP/1.1 400\r\n", NoMap, "something else"),
        (b"", NoMap, "closed the connection"),
        (b"*200000\r\n" + b":1\r\n" * 200_000, NoMap, "too long"),
        (b"*1\r\n*200000\r\n" + b":1\r\n" * 200_000, NoMap, "too long"),
    ],
)
def test_answers_that_are_no_map_are_told(answer: bytes, error: type[NoMap], says: str) -> None:
    """Which node said what stands in the error; one that is in no cluster is told from one that is not ready."""

    async def ask() -> None:
        async with Node(answer) as end:
            with pytest.raises(error, match=says) as caught:
                await end.primary()
            assert type(caught.value) is error

    asyncio.run(ask())
