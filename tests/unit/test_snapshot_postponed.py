"""Expiry times of a snapshot that are near are sent later, in every way in which a value is written."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from portd.kernel.snapshot import SnapshotDecoder
from portd.target.kept.postponed import LINK_MS, shift_of
from tests.oracle.apply import Target
from tests.oracle.dialects import REDIS_6, SPECS, Spec
from tests.oracle.drive import TINY, Limits, run
from tests.oracle.expect import check
from tests.oracle.model import Entry, HashValue, ListValue, SetValue, Snapshot, Value
from tests.oracle.rdb import decode
from tests.oracle.rdbwrite import encode
from tests.oracle.strategies import FAR_MS, PAST_MS

MARGIN_MS = 60_000
SHIFT_MS = shift_of("default")
VALUES: dict[int, Value] = {
    0: b"v",
    1: ListValue([b"a", b"b"]),
    4: HashValue({b"f": b"v" * 20, b"g": b"w" * 90}),
    2: SetValue({b"a", b"b" * 70}),
}
BY_SPEC = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def postponing(limits: Limits) -> Limits:
    """The same, with expiries postponed."""
    return replace(limits, margin_ms=MARGIN_MS, shift_ms=SHIFT_MS)


def snapshot_at(*times: int | None) -> Snapshot:
    """One key of each kind for each time."""
    entries = [
        Entry(0, b"%d at %d" % (kind, index), kind, value, expire_ms=at)
        for kind, value in VALUES.items()
        for index, at in enumerate(times)
    ]
    return Snapshot(False, 9, entries)


@pytest.mark.parametrize("limits", [Limits(), TINY], ids=["default", "tiny"])
@BY_SPEC
def test_near_and_past_expiries_are_later_by_the_shift(spec: Spec, limits: Limits) -> None:
    """Keys that expired already are kept; far ones and keys without expiry are as they were; the counts add up."""
    near = int(time.time() * 1000) + MARGIN_MS // 2
    beyond = int(time.time() * 1000) + 10 * MARGIN_MS
    target = Target(spec)
    result = run(
        encode(snapshot_at(None, PAST_MS, near, beyond, FAR_MS)), spec, limits=postponing(limits), target=target
    )
    found = {key: stored.expire_ms for key, stored in target.databases[0].items()}
    wanted = (None, max(PAST_MS, 1) + SHIFT_MS, near + SHIFT_MS, beyond, FAR_MS)
    assert found == {b"%d at %d" % (kind, index): at for kind in VALUES for index, at in enumerate(wanted)}
    counters = result.statistics()
    assert counters["keys_postponed"] == 2 * len(VALUES)
    assert counters["keys_expired"] == 0
    assert result.lanes.keys == counters["keys"] == 5 * len(VALUES)


@BY_SPEC
def test_a_shift_of_nothing_postpones_nothing(spec: Spec) -> None:
    """Without a shift the margin means nothing: what has expired expires."""
    data = encode(snapshot_at(None, PAST_MS, FAR_MS))
    result = run(data, spec, limits=replace(Limits(), margin_ms=MARGIN_MS))
    check(decode(data), result)
    assert result.statistics()["keys_postponed"] == 0


def test_existing_keys_are_spared_with_postponed_expiries_too() -> None:
    """`existing: skip` writes with RESTORE without REPLACE: the later expiry goes with it, and counts."""
    near = int(time.time() * 1000) + MARGIN_MS // 2
    target = Target(REDIS_6)
    result = run(
        encode(snapshot_at(near)), REDIS_6, limits=replace(postponing(Limits()), skip_existing=True), target=target
    )
    assert {stored.expire_ms for stored in target.databases[0].values()} == {near + SHIFT_MS}
    assert result.statistics()["keys_postponed"] == len(VALUES)


def test_postponed_expiries_stay_within_their_link() -> None:
    """The last time that is postponed and the first one of the next link do not meet."""
    assert (int(time.time()) + 86400) * 1000 < LINK_MS


def test_nonsense_is_refused() -> None:
    """A horizon before the moment, or a shift backwards, is a mistake of the caller."""
    decoder = SnapshotDecoder(REDIS_6.dialect())
    for margin_ms, shift_ms in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="negative"):
            decoder.postpone(margin_ms, shift_ms)
