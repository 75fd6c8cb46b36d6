"""When a full sync waits for an operator: the rules, without servers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from portd.hold import Facts, Hold, Identity, Reason, Sample, exceeds, judge, judge_removal, judge_sample

FOLLOWED = Identity(replid="a" * 40, replid2="0" * 40, run_id="1" * 40, address="redis://a:6379")
OTHER = Identity(replid="b" * 40, replid2="0" * 40, run_id="2" * 40, address="redis://b:6379")
FACTS = Facts(followed=FOLLOWED, source=FOLLOWED, source_keys=1000, target_keys=1000, removes=True)


def reason(**changed: object) -> Reason | None:
    """Why a sync of FACTS with some of them changed would wait."""
    found = judge(replace(FACTS, **changed), 10.0)  # type: ignore[arg-type]
    return found.reason if found else None


def test_another_server_is_held() -> None:
    """History, process and address are all other ones: that is another source, however many keys it has."""
    assert reason(source=OTHER) is Reason.SOURCE_CHANGED
    assert reason(source=OTHER, source_keys=None) is Reason.SOURCE_CHANGED
    assert reason(source=OTHER, removes=False) is Reason.SOURCE_CHANGED


@pytest.mark.parametrize(
    "source",
    [
        replace(OTHER, replid=FOLLOWED.replid),  # a replica, or one that was started again with its snapshot
        replace(OTHER, replid2=FOLLOWED.replid),  # a replica that was promoted
        replace(OTHER, run_id=FOLLOWED.run_id),  # the process forgot its history
        replace(OTHER, address=FOLLOWED.address),  # started again from an append-only file
    ],
    ids=["history", "promoted", "process", "address"],
)
def test_what_goes_on_is_not_held(source: Identity) -> None:
    """One thing that is as before is enough, while the keys are there."""
    assert reason(source=source) is None


def test_an_old_primary_is_known_by_the_history_before_the_promotion() -> None:
    """Whoever followed a promoted replica and goes back to the old primary stays in one family."""
    promoted = replace(OTHER, replid2=FOLLOWED.replid)
    assert reason(followed=promoted, source=replace(FOLLOWED, replid="c" * 40, replid2=FOLLOWED.replid)) is None


def test_ids_that_say_nothing_make_nobody_the_same() -> None:
    """Two servers without a second history, or that tell nothing at all, have not that in common."""
    nobody = Identity(address="redis://b:6379")
    assert reason(followed=replace(FOLLOWED, replid="0" * 40), source=replace(OTHER, replid="0" * 40)) is not None
    assert reason(followed=Identity(), source=nobody) is Reason.SOURCE_CHANGED
    assert reason(followed=Identity(), source=Identity()) is Reason.SOURCE_CHANGED


def test_far_fewer_keys_are_held_whoever_has_them() -> None:
    """The same server without its keys, or the same address with an empty one behind it."""
    assert reason(source_keys=0) is Reason.SOURCE_EMPTY
    assert reason(source_keys=899) is Reason.SOURCE_EMPTY
    assert reason(source_keys=900) is None
    assert reason(source=replace(OTHER, address=FOLLOWED.address), source_keys=0) is Reason.SOURCE_EMPTY


def test_keys_do_not_count_where_none_are_removed_or_known() -> None:
    """A target whose other keys stay cannot be emptied; a source that does not tell is looked at behind its snapshot."""
    assert reason(source_keys=0, removes=False) is None
    assert reason(source_keys=None) is None


def test_an_empty_target_has_nothing_to_lose() -> None:
    """Nobody is asked about nothing."""
    assert reason(source=OTHER, target_keys=0) is None
    assert reason(source_keys=0, target_keys=0) is None


@pytest.mark.parametrize(
    ("removed", "keys", "limit", "held"),
    [
        *[(0, 0, 10, False), (0, 10, 0, False), (1, 10, 10, False), (2, 10, 10, True), (1, 10, 0, True)],
        *[(9, 10, 100, False), (10, 10, 100, True), (11, 10, 100, True), (1, 1, 100, True), (-5, 10, 10, False)],
    ],
)
def test_the_limit_is_a_share_and_never_everything(removed: int, keys: int, limit: float, held: bool) -> None:  # noqa: FBT001
    """Up to the limit goes, more waits; all of a target waits even at 100 %."""
    assert exceeds(removed, keys, limit) is held
    assert (judge_removal(removed, keys, limit) is not None) is held


def test_a_target_that_was_empty_loses_nothing() -> None:
    """What is there all the same came from a full sync that was broken off."""
    assert judge_removal(3, 0, 10) is None


def test_the_words_name_both_ends_and_the_figures() -> None:
    """An operator reads whom the target followed, who is there now, and how many keys are concerned."""
    found = judge(replace(FACTS, source=OTHER, source_keys=0), 10.0)
    assert isinstance(found, Hold)
    for word in ("redis://a:6379", "aaaaaaaa", "redis://b:6379", "bbbbbbbb", "1000", " 0 keys"):
        assert word in found.words
    found = judge(replace(FACTS, source_keys=3), 12.5)
    assert found is not None
    assert "997" in found.words
    assert "12.5 %" in found.words


# -- what only the snapshot tells

SAME_ADDRESS = replace(OTHER, address=FOLLOWED.address)


def by_sample(looked_for: int, there: int, *, keys: int = 0, whole: bool = False, **changed: object) -> Reason | None:
    """Why a sync from the known address would wait, with *there* of some keys of its snapshot in the target."""
    facts = replace(FACTS, source=SAME_ADDRESS, **changed)  # type: ignore[arg-type]
    assert facts.doubtful
    found = judge_sample(facts, Sample(keys=keys, whole=whole, looked_for=looked_for, there=there), 10.0)
    return found.reason if found else None


def test_only_a_doubtful_source_is_looked_at() -> None:
    """One that is known and tells its keys costs no look at its snapshot; nor does an empty target."""
    assert not FACTS.doubtful
    assert replace(FACTS, source=SAME_ADDRESS).doubtful
    assert replace(FACTS, source_keys=None).doubtful
    assert not replace(FACTS, source_keys=None, removes=False).doubtful
    assert not replace(FACTS, source=SAME_ADDRESS, target_keys=0).doubtful


@pytest.mark.parametrize(
    ("looked_for", "there", "source_keys", "held"),
    [
        (500, 500, 1000, False),  # from an append-only file
        (500, 200, 1000, False),  # keys come and go
        (500, 30, 1000, True),
        (500, 0, 1000, True),
        (500, 0, None, True),
        (500, 50, 10_000, False),  # all that can be common is
        (500, 5, 10_000, True),
        (500, 0, 1_000_000, False),  # half a key is to be expected
        (500, 400, 1000, False),
        (0, 0, 1000, False),  # nothing was seen
    ],
)
def test_an_address_is_believed_when_the_data_agrees(
    looked_for: int,
    there: int,
    source_keys: int | None,
    held: bool,  # noqa: FBT001
) -> None:
    """Another process with another history at the same address is another source when its keys are other ones."""
    assert by_sample(looked_for, there, source_keys=source_keys) is (Reason.SOURCE_CHANGED if held else None)


def test_keys_of_others_in_the_target_prove_nothing() -> None:
    """A source of 100 keys that are all there, in a target with 100,000 more."""
    assert by_sample(100, 100, source_keys=100, target_keys=100_100, removes=False) is None
    assert by_sample(100, 3, source_keys=100, target_keys=100_100, removes=False) is Reason.SOURCE_CHANGED


def test_a_snapshot_that_was_seen_whole_tells_the_number_of_keys() -> None:
    """A source that tells nothing is judged by it, whoever it is."""
    silent = replace(FACTS, source_keys=None)
    for keys, expected in [(0, Reason.SOURCE_EMPTY), (500, Reason.SOURCE_EMPTY), (950, None)]:
        found = judge_sample(silent, Sample(keys=keys, whole=True, looked_for=keys, there=keys), 10.0)
        assert (found.reason if found else None) is expected


def test_what_a_snapshot_announces_counts_where_all_goes_at_once() -> None:
    """Behind a flush it would be too late; elsewhere the number is exact behind the snapshot."""
    some = Sample(keys=500, whole=False, looked_for=400, there=400)
    silent = replace(FACTS, source_keys=None)
    assert judge_sample(silent, some, 10.0) is None
    found = judge_sample(replace(silent, at_once=True), some, 10.0)
    assert found is not None
    assert found.reason is Reason.SOURCE_EMPTY
