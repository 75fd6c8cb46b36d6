"""The stream by slot: whatever becomes of windows, each slot gets its commands once and in order."""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING

import pytest

from portd.errors import InternalError
from portd.kernel.batch import Batch
from portd.kernel.requests import split
from portd.kernel.scatter import Scatter
from portd.kernel.slotgroups import NO_RECORD, Left, SlotGroups, record_keys
from portd.kernel.slots import SLOTS, key_slot
from portd.kernel.slotwindow import Place, Window
from portd.net.resp import request

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = b"portd:checkpoint:x:"
WRITER = b"me-1 0:"
OWN = 3  # replies of a transaction beside its commands


def table(nodes: int, shift: int = 0) -> bytes:
    """Who has which slot: as many ranges as there are nodes, moved on by some slots."""
    return array("H", [((slot + shift) % SLOTS) * nodes // SLOTS for slot in range(SLOTS)]).tobytes()


def sorted_in(nodes: int = 3) -> SlotGroups:
    """Groups whose slots have everything up to offset 100."""
    groups = SlotGroups(PREFIX)
    groups.set_records(100)
    groups.route(table(nodes), nodes)
    return groups


def take(groups: SlotGroups, commands: Sequence[bytes], first: int = 101, step: int = 10, start: int = 0) -> int:
    """Commands at offsets *first*, *first* + *step*..., as one piece."""
    offsets = array("Q", range(first, first + step * len(commands), step)).tobytes()
    end = first + step * len(commands) - 1
    return groups.take(b"".join(commands), offsets, end, first - 1, start)


def transactions(data: bytes) -> list[list[bytes]]:
    """The commands between MULTI and EXEC, the record first."""
    found: list[list[bytes]] = []
    for command in split(data):
        words = data[command.start : command.end]
        if command.name == b"MULTI":
            found.append([])
        elif command.name != b"EXEC":
            found[-1].append(words)
    return found


def written(groups: SlotGroups) -> list[list[bytes]]:
    """What the windows of all nodes are written out as; they are confirmed."""
    found = []
    for number in range(len(groups.growing)):
        window = groups.renew(number)
        if window.entries:
            data, replies = groups.render(window, WRITER)
            inside = transactions(data)
            assert replies == sum(len(each) - 1 + OWN for each in inside)
            found += inside
            groups.confirm(window)
    return found


def test_a_slot_gets_its_commands_in_order_behind_its_record() -> None:
    """One transaction a slot; the record says the position behind the last command."""
    groups = sorted_in()
    commands = [
        request("SET", "a", 1),
        request("SET", "b", 1),
        request("INCR", "a"),
        request("XADD", "{a}s", "1-1", "f", "v"),
    ]
    assert take(groups, commands) == 4
    record = record_keys(PREFIX, key_slot(b"a"), key_slot(b"a"))[0]
    assert [request("SET", record, b"me-1 0:140"), commands[0], *commands[2:]] in written(groups)
    assert groups.record(key_slot(b"a")) == 140
    assert groups.record(key_slot(b"b")) == 120
    assert groups.lowest == 100


def test_records_leave_out_what_a_slot_has() -> None:
    """Commands before a slot's record are skipped, and counted."""
    groups = sorted_in()
    groups.set_record(key_slot(b"a"), 115)
    take(groups, [request("INCR", "a"), request("INCR", "b"), request("INCR", "a")])
    assert groups.skipped == 1
    assert sum(window.entries for window in groups.growing) == 2


def test_what_is_of_several_slots_is_cut_or_left() -> None:
    """Pairs and lists of keys are cut and count once; the rest is told."""
    groups = sorted_in()
    take(
        groups,
        [
            request("MSET", "a", 1, "b", 2, "{a}2", 3),
            request("del", "a", "b"),
            request("RENAME", "a", "b"),
            request("RENAME", "{x}a", "{x}b"),
            request("NOBODY.KNOWS", "a"),
            request("EVAL", "return 1", 0),
        ],
    )
    assert groups.cut == 2
    assert sum(window.commands for window in groups.growing) == 3
    assert groups.take_left() == [
        Left(121, b"RENAME", b"a", True),
        Left(141, b"NOBODY.KNOWS", b"a", False),
        Left(151, b"EVAL", b"return 1", False),
    ]
    assert groups.left == 3
    flat = [command for each in written(groups) for command in each]
    for part in (
        request("SET", "a", 1),
        request("SET", "b", 2),
        request("SET", "{a}2", 3),
        request("del", "a"),
        request("del", "b"),
    ):
        assert part in flat


def test_what_concerns_all_nodes_stops() -> None:
    """FLUSHALL and functions are left to the caller; SELECT 0 goes nowhere, messages to the slot of their channel."""
    groups = sorted_in()
    commands = [request("SELECT", 0), request("PUBLISH", "channel", "text"), request("FLUSHALL"), request("INCR", "a")]
    assert take(groups, commands) == 2
    assert groups.command(b"".join(commands), 2) == commands[2]
    assert take(groups, commands, start=3) == 4
    assert [each[1:] for each in sorted(written(groups))] in (
        [[commands[1]], [commands[3]]],
        [[commands[3]], [commands[1]]],
    )
    for word in ("FUNCTION", "SCRIPT", "FLUSHDB"):
        assert take(sorted_in(), [request(word, "FLUSH")]) == 0


def test_messages_of_slots_without_a_node() -> None:
    """Any node brings those of PUBLISH to all others; those of SPUBLISH are left out, and a key is a mistake of ours."""
    groups = SlotGroups(PREFIX)
    groups.set_records(100)
    only = key_slot(b"a")
    groups.route(array("H", [0 if slot == only else 0xFFFF for slot in range(SLOTS)]).tobytes(), 1)
    commands = [request("PUBLISH", "channel", "text"), request("SPUBLISH", "channel", "text"), request("INCR", "a")]
    commands += [request("SPUBLISH", "{a}", "text"), request("PUBLISH", "{a}", "text")]
    assert take(groups, commands) == 5
    assert groups.skipped == 1
    (transaction,) = written(groups)
    assert transaction[1:] == [commands[0], *commands[2:]]
    assert parse_offset(transaction[0]) == 150
    with pytest.raises(InternalError, match="has no node"):
        take(groups, [request("INCR", "b")], first=151)


def parse_offset(record: bytes) -> int:
    """What a record that is written says."""
    return int(record.rstrip(b"\r\n").rpartition(b":")[2])


def test_replies_are_found() -> None:
    """Which slot and command a reply is about, by its number; commands that are left out are not counted."""
    groups = sorted_in(1)
    take(groups, [request("SET", "a", 1), request("SET", "b", 1), request("INCR", "a"), request("INCR", "b")])
    window = groups.renew(0)
    _, replies = groups.render(window, WRITER)
    first, second = (slot for slot, _ in window.slots())
    assert [window.place(number) for number in range(replies)] == [
        place
        for slot in (first, second)
        for place in (
            Place(slot, -1, False),
            Place(slot, -1, False),
            Place(slot, 0, False),
            Place(slot, 1, False),
            Place(slot, -1, True),
        )
    ]
    assert window.command(second, 1) == (request("INCR", "b"), 131)
    with pytest.raises(InternalError):
        window.place(replies)
    assert window.leave_out(first, [0]) == 1
    assert window.commands == 3
    assert window.command(first, 0) == (request("INCR", "a"), 121)


def test_what_was_left_out_goes_again_into_an_empty_window() -> None:
    """Its command has no bytes any more: there is nothing to write of it, and nothing fails."""
    groups = sorted_in(1)
    take(groups, [request("INCR", "a")])
    window = groups.renew(0)
    groups.render(window, WRITER)
    window.leave_out(key_slot(b"a"), [0])
    assert groups.again(window) == 0
    assert groups.growing[0].size == 0


def test_wrong_tables_and_bytes_are_refused() -> None:
    """A slot without a node, bytes that are no commands, positions of no slot."""
    groups = SlotGroups(PREFIX)
    with pytest.raises(ValueError, match="table"):
        groups.route(b"", 1)
    groups.route(array("H", [0xFFFF] * SLOTS).tobytes(), 1)
    with pytest.raises(InternalError, match="no node"):
        take(groups, [request("SET", "a", 1)])
    with pytest.raises(InternalError, match="whole commands"):
        take(groups, [request("SET", "a", 1)[:-1]])
    with pytest.raises(ValueError, match="no slot"):
        groups.record(SLOTS)
    assert groups.record(0) == NO_RECORD


def owner(key: bytes, nodes: int = 3) -> int:
    """Number of the node that has a key."""
    return key_slot(key) * nodes // SLOTS


def test_what_a_node_is_left_behind_with_is_not_held() -> None:
    """Only the lowest place is known; the others get theirs, and it gets the rest when it comes by again, counted once."""
    groups = sorted_in()
    commands = [
        request("MSET", "a", 1, "b", 2),
        request("SET", "b", 3),
        request("SET", "a", 4),
        request("RENAME", "a", "b"),
    ]
    assert owner(b"a") != owner(b"b")
    groups.leave(owner(b"a"))
    take(groups, commands)
    groups.known = 140
    gap, other = groups.gaps[owner(b"a")], groups.growing[owner(b"b")]
    assert (gap.open, gap.entries, gap.floor) == (True, 2, 100)
    assert (groups.growing[owner(b"a")].entries, other.entries, other.commands) == (0, 2, 1)
    written(groups)
    groups.resume(owner(b"a"))
    take(groups, commands)
    again = groups.growing[owner(b"a")]
    assert (again.entries, again.commands, groups.growing[owner(b"b")].entries) == (2, 2, 0)
    assert (groups.skipped, groups.left, groups.cut, groups.gaps[owner(b"a")].open) == (0, 1, 1, False)


def test_a_window_that_nobody_knows_of_is_kept() -> None:
    """What is for a node that is away stays in it until the records tell: what they have is counted, the rest is sorted."""
    groups = sorted_in()
    take(groups, [request("SET", "a", 1), request("SET", "b", 2), request("SET", "{a}2", 3)])
    window = groups.renew(owner(b"a"))
    groups.render(window, WRITER)
    assert window.commands == 2
    groups.route(table(3), 3)
    groups.leave(owner(b"a"))
    assert (groups.again(window, leave=True), window.kept, window.commands) == (0, 2, 2)
    assert groups.gaps[owner(b"a")].floor == 100
    groups.set_record(key_slot(b"a"), 110)  # as if it had been executed in part
    groups.route(table(3), 3)
    assert (groups.again(window, leave=True), window.kept, window.commands) == (1, 0, 0)


class Target:
    """What a cluster has of each slot: the commands in the order in which they took effect, and the record."""

    def __init__(self) -> None:
        self.commands: dict[int, list[bytes]] = {}
        self.records: dict[int, int] = {}

    def execute(self, transaction: list[bytes]) -> None:
        """A transaction takes effect."""
        record, *commands = transaction
        (found,) = split(record)
        slot = key_slot(found.key)
        assert all(key_slot(split(each)[0].key) == slot for each in commands)
        self.commands.setdefault(slot, []).extend(commands)
        self.records[slot] = int(record.rpartition(b":")[2])


class World:
    """A source that writes, a target, and what is between them; whatever can be lost there is.

    Args:
        seed: of what happens.
    """

    KEYS = tuple(f"key:{number}" for number in range(30))

    def __init__(self, seed: int) -> None:
        self.target = Target()
        self.source: list[tuple[int, bytes]] = []  # offsets and commands
        self._random = random.Random(seed)
        self._groups = sorted_in()
        self._offset = 101
        self._floor = 100
        self._taken = 0
        self._in_flight: dict[int, Window] = {}

    def step(self) -> None:
        """Something happens."""
        self._random.choices([self._write, self._send, self._settle, self.restart], [4, 3, 2, 1])[0]()

    def _write(self) -> None:
        for _ in range(self._random.randint(1, 8)):
            self.source.append((self._offset, request("APPEND", self._random.choice(self.KEYS), f"{self._offset} ")))
            self._offset += self._random.randint(1, 50)
        self._take()

    def _take(self) -> None:
        new = self.source[self._taken :]
        if new:
            offsets = array("Q", [position for position, _ in new]).tobytes()
            self._groups.take(b"".join(command for _, command in new), offsets, self._offset - 1, new[0][0] - 1)
            self._taken = len(self.source)

    def _send(self) -> None:
        number = self._random.randrange(len(self._groups.growing))
        if number not in self._in_flight and self._groups.growing[number].entries:
            self._in_flight[number] = window = self._groups.renew(number)
            for transaction in transactions(self._groups.render(window, WRITER)[0]):
                if self._random.random() < 0.8:  # the others are lost with the connection
                    self.target.execute(transaction)

    def _settle(self) -> None:
        """Answers come, where all of a window was executed; the floor rises."""
        for number, window in list(self._in_flight.items()):
            if all(self.target.records.get(slot) == behind for slot, behind in window.slots()):
                self._groups.confirm(window)
                del self._in_flight[number]
        windows = (*self._in_flight.values(), *self._groups.growing)
        floors = [window.floor for window in windows if window.entries]
        behind = self.source[self._taken - 1][0] if self._taken else 100
        self._floor = max(self._floor, min(floors, default=behind))

    def restart(self) -> None:
        """A round, or another process; another map either way."""
        fresh = self._random.random() < 0.5
        before = [*self._in_flight.values(), *self._groups.growing]
        self._in_flight.clear()
        if fresh:
            self._groups = SlotGroups(PREFIX)
            self._groups.set_records(100)
        for slot, record in self.target.records.items():
            self._groups.set_record(slot, record)
        nodes = self._random.randint(1, 5)
        self._groups.route(table(nodes, self._random.randrange(SLOTS)), nodes)
        if fresh:
            self._taken = sum(position <= self._floor for position, _ in self.source)
        else:
            for window in before:
                self._groups.again(window)

    def finish(self) -> None:
        """Everything arrives."""
        self.restart()
        self._take()
        for transaction in written(self._groups):
            self.target.execute(transaction)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_lost_each_slot_has_each_command_once(seed: int) -> None:
    """Answers lost, windows executed in part, maps that change, restarts from the floor: against a model."""
    world = World(seed)
    for _ in range(150):
        world.step()
    world.finish()
    for slot in {key_slot(key.encode()) for key in World.KEYS}:
        wanted = [command for _, command in world.source if key_slot(split(command)[0].key) == slot]
        assert world.target.commands.get(slot, []) == wanted


# ------------------------------------------------------------------------------------------------------------- snapshots


@pytest.mark.parametrize("size", [1, 200, 1_000_000])
def test_keys_go_to_their_nodes_whole_and_in_order(size: int) -> None:
    """Commands of a key stay together, batches are cut at their size, and every key counts once."""
    scatter = Scatter(table(3), 3, size)
    expected: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
    found: list[tuple[int, Batch]] = []
    for number in range(50):
        commands = []
        for key in (f"a{number}", f"b{number}"):
            node = scatter.node_of(key.encode())
            mine = [
                request("DEL", key),
                request("XADD", key, "1-1", "f", "v"),
                request("XGROUP", "CREATE", key, "g", "0"),
            ]
            expected[node] += mine
            commands += mine
        found += scatter.add(Batch(b"".join(commands), replies=6, db=0, keys=2, offset=number))
    found += scatter.rest()
    for node in range(3):
        batches = [batch for number, batch in found if number == node]
        assert b"".join(batch.data for batch in batches) == b"".join(expected[node])
        assert sum(batch.replies for batch in batches) == len(expected[node])
        assert sum(batch.keys for batch in batches) == len(expected[node]) // 3
    assert not scatter.rest()


def test_what_has_no_slot_goes_to_every_node() -> None:
    """Function libraries and scripts are for all nodes; what has keys in several slots is a fault of ours."""
    scatter = Scatter(table(3), 3, 1)
    load = request("FUNCTION", "LOAD", "REPLACE", "code")
    assert [(number, batch.data) for number, batch in scatter.add(Batch(load, replies=1, db=0))] == [
        (0, load),
        (1, load),
        (2, load),
    ]
    with pytest.raises(InternalError, match="no slot"):
        scatter.add(Batch(request("MSET", "a", 1, "b", 2), replies=1, db=0, keys=2))
    with pytest.raises(InternalError, match="whole keys"):
        scatter.add(Batch(request("UNLINK", "a"), replies=1, db=0, kind=1, fence=1, key=b"a"))


def test_what_is_owed_stands_in_the_records() -> None:
    """From the place among the commands on at which a key is owed: an empty one, where its slot has nothing else there."""
    groups = sorted_in()
    slot = {name: key_slot(name) for name in (b"a", b"b")}
    commands = [request("INCR", "a"), request("INCR", "a"), request("INCR", "{a}2")]
    data, offsets = b"".join(commands), array("Q", [101, 121, 131]).tobytes()
    owing = (
        (111, (0, b"a"), slot[b"a"]),
        (131, (0, b"b"), slot[b"b"]),
    )  # of a command that was left out, and behind one that goes on
    assert groups.take(data, offsets, 140, 100, 0, owing) == 3
    told = {slot[b"a"]: b"0:61", slot[b"b"]: b"0:62"}
    window = {number: groups.renew(number) for number, each in enumerate(groups.growing) if each.entries}
    found: dict[bytes, list[bytes]] = {}
    for each in window.values():
        written, replies = groups.render(each, WRITER, told)
        assert replies == sum(3 for _ in each.slots()) + each.commands
        found |= {each[0].split(b"{")[1].split(b"}")[0]: each for each in transactions(written)}
        assert each.owed == {place: told[place] for place, _ in each.slots() if place in told}
    assert sorted((record.split(b"\r\n")[-2], len(rest)) for record, *rest in found.values()) == [
        (b"me-1 0:140:0:61", 3),
        (b"me-1 0:140:0:62", 0),
    ]
    assert sorted(pair for each in window.values() for pair in each.slots()) == sorted(
        (place, 140) for place in slot.values()
    )


def test_a_copy_is_behind_all_else_at_its_place() -> None:
    """It is sorted in where a slot's record says that place already, counts for nothing, and is known for a copy."""
    groups = sorted_in(1)
    take(groups, [request("INCR", "a")])
    groups.confirm(rendered(groups))
    assert groups.record(key_slot(b"a")) == 110
    copy = request("RESTORE", "a", 0, "x")
    assert groups.take(copy, array("Q", [111]).tobytes(), 110, 110, 0, (), True) == 1
    take(groups, [request("INCR", "a")], first=111)
    window = rendered(groups)
    assert (window.commands, window.entries, groups.skipped) == (1, 2, 0)
    assert [window.copies(key_slot(b"a"), number) for number in (0, 1)] == [True, False]
    assert window.slots() == [(key_slot(b"a"), 120)]


def test_a_record_does_not_go_back_for_what_is_owed() -> None:
    """A slot that is further than the command already says where it is, and what is owed."""
    groups = sorted_in(1)
    groups.set_record(key_slot(b"a"), 500)
    groups.note(key_slot(b"a"), 111, 120, 100)
    assert rendered(groups).slots() == [(key_slot(b"a"), 500)]
    groups.leave(0)
    assert not groups.takes(key_slot(b"a"))
    groups.note(key_slot(b"a"), 600, 600, 590)
    assert (groups.gaps[0].entries, groups.gaps[0].floor) == (1, 590)


def rendered(groups: SlotGroups) -> Window:
    """What the only node is to get."""
    window = groups.renew(0)
    groups.render(window, WRITER)
    return window


@pytest.mark.parametrize("options", [[], ["NX"], ["xx", "PXAT", "99"], ["KEEPTTL", "NX"]], ids=" ".join)
def test_an_msetex_is_cut(options: list[str]) -> None:
    """Its condition was met: a SET for each key, with the time that it names."""
    groups = sorted_in()
    rest = [each for each in options if each.upper() not in {"NX", "XX"}]
    assert take(groups, [request("MSETEX", 3, "a", 1, "b", 2, "{a}", 3, *options)]) == 1
    flat = [command for each in written(groups) for command in each]
    assert [request("SET", key, value, *rest) in flat for key, value in (("a", 1), ("b", 2), ("{a}", 3))] == [True] * 3
    assert (groups.cut, groups.left) == (1, 0)
