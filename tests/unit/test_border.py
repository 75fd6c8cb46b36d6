"""Where the stream of a shard stops for slots that are not its link's alone."""

from __future__ import annotations

import pytest

from portd.kernel.border import ALL, Border
from portd.kernel.rules import Rules
from portd.kernel.slots import key_slot
from portd.kernel.stream import StreamSplitter
from portd.net.resp import request as command

FREELY = 1 << 62  # an offset that no stream comes to
MINE, OTHER, THIRD = (key_slot(name) for name in (b"a", b"b", b"c"))
SET_A, SET_B, SET_C = (command(b"SET", name, b"1") for name in (b"a", b"b", b"c"))


def splitter(border: Border, *slots: int, stream: bytes = b"") -> StreamSplitter:
    """One that has been fed."""
    found = StreamSplitter(0, 0, rules=Rules(slots=[(slot, slot) for slot in slots]), border=border)
    found.feed(stream, 0)
    return found


def taken(found: StreamSplitter) -> bytes:
    """Everything up to where it stops."""
    parts = []
    while (piece := found.next_piece(1 << 20, 1000)) is not None:
        parts.append(piece.data)
    return b"".join(parts)


def test_it_stops_before_a_slot_that_the_link_does_not_have() -> None:
    """What is before it goes on; asked again, it is still there; when it was decided, it is left out up to there."""
    border = Border()
    found = splitter(border, MINE, stream=SET_A + SET_B + SET_A + SET_B)
    assert taken(found) == SET_A
    assert (border.waits, border.at, border.slot, border.brings) == (True, len(SET_A) + 1, OTHER, False)
    assert taken(found) == b""
    border.open(len(SET_A + SET_B + SET_A), {})
    assert taken(found) == SET_A
    assert (border.waits, border.at) == (True, len(SET_A + SET_B + SET_A) + 1)


def test_a_slot_that_is_to_come_is_never_left_out() -> None:
    """Others are, up to where it was decided."""
    border = Border()
    found = splitter(border, MINE, stream=SET_B + SET_C + SET_A)
    taken(found)
    border.open(1000, {}, {THIRD})
    assert taken(found) == b""
    assert (border.waits, border.slot) == (True, THIRD)


def test_shared_slots_pass_up_to_where_others_have_come() -> None:
    """One that goes to others passes freely, but for what brings its keys back."""
    border = Border()
    brings = command(b"RESTORE-ASKING", b"c", b"0", b"payload")
    stream = SET_B + SET_C + SET_B + SET_C + brings
    found = splitter(border, MINE, OTHER, THIRD, stream=stream)
    border.open(-1, {OTHER: len(SET_B), THIRD: FREELY})
    assert taken(found) == SET_B + SET_C
    assert (border.waits, border.slot) == (True, OTHER)
    border.open(-1, {OTHER: FREELY, THIRD: FREELY})
    assert taken(found) == SET_B + SET_C
    assert (border.waits, border.slot, border.brings) == (True, THIRD, True)


def test_what_was_left_out_before_a_slot_came_stays_so() -> None:
    """The stream is read again from before the place where it came."""
    border = Border()
    border.open(len(SET_B), {})
    border.enter([OTHER])
    border.share({OTHER: FREELY})
    found = splitter(border, MINE, OTHER, stream=SET_B + SET_A + SET_B)
    assert taken(found) == SET_A + SET_B


def test_nothing_is_left_out_of_a_slot_that_was_awaited_when_it_comes() -> None:
    """It comes while the stream goes on somewhere before its commands, or is read again from before them."""
    border = Border()
    found = splitter(border, MINE, OTHER, stream=SET_B + SET_A + SET_B)
    border.open(len(SET_B), {})  # its first command was left out
    border.open(1000, {}, {OTHER})
    border.open(1100, {}, {OTHER, THIRD})
    border.enter([OTHER, THIRD])
    border.share({OTHER: FREELY, THIRD: FREELY})
    assert taken(found) == SET_A + SET_B


def test_a_flush_waits_while_slots_are_shared() -> None:
    """It would empty what is another link's by now, also within what was decided; one that passed is remembered."""
    border = Border()
    flush = command(b"FLUSHALL")
    found = splitter(border, MINE, OTHER, stream=SET_A + flush + flush)
    border.open(1000, {OTHER: FREELY})
    assert taken(found) == SET_A
    assert (border.waits, border.slot, border.emptied) == (True, ALL, -1)
    border.share({})
    border.open(1000, {})
    assert taken(found) == b""
    assert (border.waits, border.emptied) == (False, len(SET_A + flush) + 1)
    border.reset()
    assert border.emptied == -1


def test_large_commands_and_transactions_stop_as_well() -> None:
    """By their first key; in a transaction, what is before it may go, and nothing is committed."""
    border = Border()
    large = command(b"SET", b"b", b"x" * 600_000)
    found = splitter(border, MINE, stream=SET_A + large)
    assert taken(found) == SET_A
    assert (border.waits, border.slot) == (True, OTHER)
    border = Border()
    found = splitter(border, MINE, stream=SET_A + command(b"MULTI") + SET_A + SET_B + command(b"EXEC"))
    assert taken(found) == SET_A + SET_A
    assert border.waits
    inside = [found.in_transaction]
    border.open(1000, {})
    assert taken(found) == b""
    assert [*inside, found.in_transaction] == [True, False]
    border = Border()
    found = splitter(border, MINE, stream=SET_A + command(b"DEL", *[b"{b}%d" % number for number in range(100_000)]))
    assert taken(found) == SET_A
    assert (border.waits, border.slot) == (True, OTHER)


def test_another_history_knows_nothing_of_the_one_before() -> None:
    """Nothing is left out of it, and nothing passes."""
    border = Border()
    border.open(1 << 40, {OTHER: FREELY})
    border.enter([OTHER])
    border.reset()
    assert taken(splitter(border, MINE, stream=SET_B)) == b""
    assert border.waits


def told(state: str, *ranges: str, operation: str = "import") -> bytes:
    """Word of a move in one step, in the stream of a node of Redis 8.4."""
    text = f"{'1' * 40}:{'a' * 40}:{'b' * 40}:{operation}:{state}:{' '.join(ranges)}"
    return command(b"CLUSTER", b"SYNCSLOTS", b"CONF", b"ASM-TASK", text.encode())


def trimmed(*ranges: int) -> bytes:
    """Word that a node has no key of slots any more."""
    return command("TRIMSLOTS", "RANGES", len(ranges) // 2, *ranges)


def test_keys_of_slots_that_a_node_gave_away_go() -> None:
    """Those that are the link's, alone in a piece; of others nothing is there."""
    border = Border()
    found = splitter(border, MINE, stream=SET_A + trimmed(MINE, MINE, OTHER, OTHER) + trimmed(THIRD, THIRD))
    pieces = [found.next_piece(1 << 20, 1000) for _ in range(3)]
    assert [(each.data, each.clears, each.trims) for each in pieces if each is not None] == [
        (SET_A, None, None),
        (b"", -1, frozenset({MINE})),
        (b"", None, None),
    ]
    assert pieces[2] is not None
    assert pieces[2].names == {"TRIMSLOTS"}
    assert border.over == {MINE: len(SET_A) + 1}


def flushed(slot: object, *how: str) -> bytes:
    """A slot is emptied."""
    return command("CLUSTER", "flushslot", str(slot), *how)


def test_a_slot_is_emptied() -> None:
    """The link's alone in a piece; of another one, it says that slots move; without rules, whatever it is."""
    border = Border()
    found = splitter(border, MINE, stream=SET_A + flushed(MINE, "ASYNC") + flushed(OTHER) + SET_A)
    pieces = [found.next_piece(1 << 20, 1000) for _ in range(2)]
    assert [(each.data, each.clears, each.trims) for each in pieces if each is not None] == [
        (SET_A, None, None),
        (b"", -1, frozenset({MINE})),
    ]
    assert (taken(found), border.waits, border.slot) == (b"", True, OTHER)
    border.open(FREELY, {})
    assert taken(found) == SET_A
    assert border.emptied == len(SET_A) + 1
    plain = StreamSplitter(0, 0)
    plain.feed(SET_A + flushed(OTHER), 0)
    assert taken(plain) == SET_A
    for plain in (
        StreamSplitter(0, 0),
        StreamSplitter(0, 0, parted=True),
        StreamSplitter(0, 0, rules=Rules(taken=[b"a"])),
    ):
        plain.feed(flushed(OTHER), 0)
        piece = plain.next_piece(1 << 20, 1000)
        assert piece is not None
        assert (piece.clears, piece.trims) == (-1, frozenset({OTHER}))


def test_a_slot_that_others_have_is_emptied_when_it_is_the_links_alone() -> None:
    """Nobody can tell which keys of it the node had: it stops as before a command that empties all."""
    border = Border()
    found = splitter(border, MINE, OTHER, stream=flushed(MINE) + flushed(OTHER))
    border.open(FREELY, {OTHER: FREELY})
    piece = found.next_piece(1 << 20, 1000)
    assert piece is not None
    assert piece.trims == frozenset({MINE})
    assert found.next_piece(1 << 20, 1000) is None
    assert (border.waits, border.slot) == (True, ALL)
    border.share({})
    border.go_on()
    piece = found.next_piece(1 << 20, 1000)
    assert piece is not None
    assert piece.trims == frozenset({OTHER})
    border = Border()
    border.open(FREELY, {})
    border.enter([MINE])
    piece = splitter(border, MINE, stream=flushed(MINE)).next_piece(1 << 20, 1000)
    assert piece is not None
    assert piece.trims is None  # what was left out before the slot came stays so


@pytest.mark.parametrize("slot", [16_384, -1, 1 << 40, "x", ""])
def test_a_slot_that_there_is_not_empties_nothing(slot: object) -> None:
    """Nor do other words of CLUSTER."""
    stream = flushed(slot) + command("CLUSTER", "FLUSHSLOTS") + command("CLUSTER", "FLUSHSLOT")
    for rules in (Rules(slots=[(0, 16_383)]), None):
        found = StreamSplitter(0, 0, rules=rules)
        found.feed(stream, 0)
        piece = found.next_piece(1 << 20, 1000)
        assert piece is not None
        assert (piece.data, piece.clears) == (b"", None)


def test_the_highest_slots_are_what_they_are() -> None:
    """A number near the bound is not taken for it: keys of the last slot stay."""
    found = splitter(Border(), *range(16_370, 16_384), stream=trimmed(16_375, 16_375, 16_380, 16_382))
    piece = found.next_piece(1 << 20, 1000)
    assert piece is not None
    assert piece.trims == frozenset({16_375, 16_380, 16_381, 16_382})


@pytest.mark.parametrize(
    "stream",
    [
        trimmed(MINE, 16_384),
        trimmed(*[0, 16_383] * 1000),
        trimmed(-5, MINE),
        told("streaming-buffer", "0-999999999999"),
        told("streaming-buffer", *["0-16383"] * 1000),
        told("streaming-buffer", "x-y"),
        told("streaming-buffer", f"{MINE}-"),
    ],
)
def test_words_of_more_slots_than_there_are_say_nothing(stream: bytes) -> None:
    """A source may say anything; nothing goes, and nobody is to hold more than all slots."""
    border = Border()
    found = splitter(border, MINE, stream=stream)
    piece = found.next_piece(1 << 20, 1000)
    assert piece is not None
    assert (piece.clears, piece.trims, border.waits) == (None, None, False)
    assert border.began.keys() <= {MINE}


def test_word_that_keys_are_gone_waits_while_others_have_the_slot() -> None:
    """They may have brought what followed: the link leaves the slot, or its keys go."""
    border = Border()
    found = splitter(border, MINE, OTHER, stream=trimmed(*sorted((MINE, OTHER))))
    border.open(FREELY, {MINE: FREELY})
    assert found.next_piece(1 << 20, 1000) is None
    assert (border.waits, border.ends, border.begins, border.slot) == (True, True, False, MINE)
    assert {MINE, OTHER} <= border.named
    border.go_on(heard=True)
    piece = found.next_piece(1 << 20, 1000)
    assert piece is not None
    assert piece.trims is not None
    assert {MINE, OTHER} <= piece.trims


def test_a_slot_that_begins_to_come_back_is_left_before() -> None:
    """The stream stops at the word, so that what comes is met as a slot that the link does not have; other words pass."""
    border = Border()
    stream = told("wait-rdbchannel", str(MINE), operation="migrate") + told("connecting", f"{MINE}-{MINE}", "7") + SET_A
    found = splitter(border, MINE, stream=stream)
    border.open(1000, {MINE: FREELY})
    assert taken(found) == b""
    assert (border.waits, border.begins, border.slot, border.named) == (True, True, MINE, frozenset({MINE, 7}))
    border.leave([MINE])
    border.share({})
    border.go_on()
    found = splitter(border, OTHER, stream=stream)
    assert taken(found) == b""
    assert (border.waits, border.begins, border.slot) == (True, False, MINE)
    assert border.began.keys() == {MINE, 7}


def test_a_move_that_nobody_else_follows_stops_nothing() -> None:
    """The slot is the link's alone; so does word that a move is over."""
    border = Border()
    stream = told("connecting", str(MINE)) + SET_A + told("completed", str(MINE)) + SET_A
    assert taken(splitter(border, MINE, stream=stream)) == SET_A + SET_A
