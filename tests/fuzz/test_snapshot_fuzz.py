"""The compiled snapshot decoder against the oracle: any snapshot, any split, any target; and broken snapshots."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from portd.errors import DecodeError
from tests.oracle.apply import split_commands
from tests.oracle.dialects import SPECS, VALKEY_9
from tests.oracle.drive import FEEDS, TINY, Limits, check_memory, make_decoder, run
from tests.oracle.expect import check
from tests.oracle.pack import Style
from tests.oracle.rdb import decode
from tests.oracle.rdbwrite import encode
from tests.oracle.strategies import effort, snapshots

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.kernel.snapshot import SnapshotDecoder
    from tests.oracle.model import Snapshot

FUZZ = effort(150)
LIMITS = st.sampled_from([Limits(), TINY, Limits(200, 300, 100, 2), Limits(65, 64, 64, 1)])
TARGETS = {spec.name: spec for spec in SPECS}
TARGETS["lfu"] = VALKEY_9.but(name="lfu", mset=False, maxmemory_policy="allkeys-lfu", footer=11)
TARGETS["modules"] = TARGETS["redis-8.10"].but(name="modules", modules=frozenset({"vectorset"}))
SOME_TARGETS = st.sampled_from(sorted(TARGETS))
STYLES = st.one_of(st.none(), st.integers(0, 1 << 30))


@given(snapshots(), st.tuples(STYLES, st.integers(0, 99)), SOME_TARGETS, LIMITS, st.sampled_from(sorted(FEEDS)))
@FUZZ
def test_any_snapshot_reaches_any_target(
    snapshot: Snapshot, seeds: tuple[int | None, int], target: str, limits: Limits, feed: str
) -> None:
    """What the kernel writes makes the target hold what the oracle reads, whatever the split and the limits."""
    data = encode(snapshot, Style(seeds[0]))
    result = run(data, TARGETS[target], feed=FEEDS[feed], limits=limits, seed=seeds[1])
    check(decode(data), result)


@given(snapshots(), STYLES, SOME_TARGETS, LIMITS)
@FUZZ
def test_every_split_gives_the_same_commands(
    snapshot: Snapshot, style: int | None, target: str, limits: Limits
) -> None:
    """What is sent to the target does not depend on how the snapshot arrived."""
    data = encode(snapshot, Style(style))
    sent = []
    for feed in FEEDS.values():
        decoder = make_decoder(TARGETS[target], limits)
        written = [part for piece in feed(data) for part in _drain(decoder, piece)]
        sent.append(_joined_ranges(split_commands(b"".join(written))))
    assert all(each == sent[0] for each in sent)


def _joined_ranges(commands: list[list[bytes]]) -> list[list[bytes]]:
    """Neighbouring SETRANGEs as one: where a long string is cut may depend on how it arrived."""
    joined: list[list[bytes]] = []
    for command in commands:
        last = joined[-1] if joined else [b""]
        if command[0] == last[0] == b"SETRANGE" and command[1] == last[1]:
            assert int(command[2]) == int(last[2]) + len(last[3])
            last[3] += command[3]
        else:
            joined.append(command)
    return joined


def _drain(decoder: SnapshotDecoder, piece: bytes) -> list[bytes]:
    """Feeds a piece and returns what the decoder wrote."""
    view = memoryview(piece)
    written: list[bytes] = []
    while True:
        before = decoder.offset
        taken = decoder.feed(view)
        view = view[taken:]
        count = len(written)
        while (batch := decoder.next_batch()) is not None:
            written.append(batch.data)
        if not view or decoder.ended:
            return written
        assert taken or len(written) > count or decoder.offset > before, "stuck"


def _mutate(data: bytes, seed: int) -> bytes:
    """A snapshot with a few random changes of the kinds that confuse parsers."""
    chooser = random.Random(seed)
    out = bytearray(data)
    for _ in range(chooser.choice((1, 1, 1, 2, 5))):
        at = chooser.randrange(9, len(out)) if len(out) > 9 else 0
        kind = chooser.randrange(7)
        if kind == 0:
            out[at] = chooser.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << chooser.randrange(8)
        elif kind == 2:
            del out[at : at + chooser.choice((1, 1, 4, 30))]
        elif kind == 3:
            out[at:at] = chooser.randbytes(chooser.choice((1, 2, 9)))
        elif kind == 4:
            out[at : at + 9] = b"\x81" + chooser.choice(
                (b"\xff" * 8, b"\x00\x00\x00\x01" + b"\x00" * 4, b"\x7f" + b"\xff" * 7)
            )
        elif kind == 5:
            out[at : at + 4] = chooser.choice(
                (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x00" * 4)
            )
        else:
            start = chooser.randrange(len(out))
            out[at:at] = out[start : start + chooser.choice((5, 40, 200))]
    return bytes(out)


def _error_of(decoder: SnapshotDecoder, pieces: Iterable[bytes]) -> DecodeError | None:
    """Feeds everything; the error that ended it, or None."""
    try:
        for piece in pieces:
            _drain(decoder, piece)
            check_memory(decoder)
        decoder.finish()
    except DecodeError as error:
        return error
    return None


@given(
    snapshots(most=4), st.tuples(STYLES, st.integers(0, 1 << 32)), SOME_TARGETS, LIMITS, st.sampled_from(sorted(FEEDS))
)
@settings(FUZZ, max_examples=3 * FUZZ.max_examples)
def test_broken_snapshots_end_in_a_typed_error(
    snapshot: Snapshot, seeds: tuple[int | None, int], target: str, limits: Limits, feed: str
) -> None:
    """A damaged snapshot ends in a DecodeError with an offset, or decodes; it never hangs, crashes or grows."""
    data = _mutate(encode(snapshot, Style(seeds[0]), crc=0), seeds[1])
    decoder = make_decoder(TARGETS[target], limits)
    error = _error_of(decoder, FEEDS[feed](data))
    check_memory(decoder)
    assert (error is None) == decoder.ended
    if error is not None:
        assert 0 <= error.offset <= len(data), error
        assert error.exit_code == 65


@given(snapshots(most=3), SOME_TARGETS, LIMITS, st.data())
@FUZZ
def test_truncated_snapshots_end_in_a_typed_error(
    snapshot: Snapshot, target: str, limits: Limits, data: st.DataObject
) -> None:
    """A cut snapshot never looks complete."""
    whole = encode(snapshot, Style(1))
    end = data.draw(st.integers(0, len(whole) - 1))
    decoder = make_decoder(TARGETS[target], limits)
    error = _error_of(decoder, [whole[:end]])
    assert error is not None
    assert 0 <= error.offset <= end
    assert not decoder.ended
