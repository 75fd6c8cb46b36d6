"""When a full sync waits for an operator: rules over what is known of both ends. No I/O.

A full sync overwrites what is in the target and removes what the source does not have. Both are right while the source is
the one that was followed before, and has its data. When it is another one, or far fewer keys are in it, somebody made a
mistake more often than not: a wrong address, a server that was started again without its data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

_NO_HISTORY: Final = {"", "?", "0" * 40}  # what a server tells that never had a second one
_SHOWN: Final = 8  # digits of an id in a message
_TELLING: Final = 16  # keys of a sample: chance finds a quarter of so many once in ten thousand times


class Reason(StrEnum):
    """Why a full sync waits."""

    SOURCE_CHANGED = "source-changed"  # another server than the one that was followed
    SOURCE_EMPTY = "source-empty"  # far fewer keys in it than in the target
    PRUNE_LIMIT = "prune-limit"  # the snapshot is applied, and lacks far more of the target's keys than may go


@dataclass(frozen=True, slots=True)
class Hold:
    """A full sync has to wait.

    Attributes:
        reason: for metrics and scripts.
        words: for people: one sentence without a final stop.
    """

    reason: Reason
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a source is, as far as it is known; empty is unknown.

    Attributes:
        replid: the history that is followed.
        replid2: the one it was before a promotion.
        run_id: the process.
        address: as it was asked for, without credentials.
    """

    replid: str = ""
    replid2: str = ""
    run_id: str = ""
    address: str = ""

    def continues(self, other: Identity) -> bool:
        """Both are one process, or one history: a replica that was promoted, a source that came back with its data."""
        if self.run_id and self.run_id == other.run_id:
            return True
        return bool({self.replid, self.replid2} & {other.replid, other.replid2} - _NO_HISTORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a full sync would do to a target that has a checkpoint.

    Attributes:
        followed: whom the data in the target came from.
        source: who would be copied.
        source_keys: in all databases; None where it does not tell.
        target_keys: in all databases, without our own.
        removes: keys that the snapshot lacks would be removed.
        at_once: all of them, before the snapshot is read.
    """

    followed: Identity
    source: Identity
    source_keys: int | None
    target_keys: int
    removes: bool
    at_once: bool = False

    @property
    def doubtful(self) -> bool:
        """The source has told too little of itself for a verdict: its snapshot has to be looked at."""
        silent = self.removes and self.source_keys is None
        return self.target_keys > 0 and (silent or not self.followed.continues(self.source))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the beginning of a snapshot tells.

    Attributes:
        keys: those it has, or says that it has, so far: in the databases whose beginning was seen.
        whole: that was all of it.
        looked_for: keys that the target was asked for.
        there: of them, those that it has.
    """

    keys: int
    whole: bool
    looked_for: int
    there: int


def judge(facts: Facts, limit: float) -> Hold | None:
    """Whether a full sync has to wait before it changes anything.

    The address alone proves nothing, and is believed where nothing else is known: a source that was started again from
    an append-only file has another process and another history, and all of its data.

    Args:
        facts: see there.
        limit: per cent of the target's keys that may be removed.
    """
    if not facts.target_keys:
        return None  # nothing can be lost
    followed, source = facts.followed, facts.source
    here = f"the target holds {facts.target_keys} keys"
    there = "" if facts.source_keys is None else f", {facts.source_keys} keys in it"
    if not followed.continues(source) and not (source.address and followed.address == source.address):
        return Hold(
            Reason.SOURCE_CHANGED,
            f"{here} of {_named(followed)}, and the source is {_named(source)}{there}: neither history nor process is "
            "the one that was followed",
        )
    if facts.removes and facts.source_keys is not None:
        gone = facts.target_keys - facts.source_keys
        if facts.source_keys == 0 or exceeds(gone, facts.target_keys, limit):
            share = "all of them" if facts.source_keys == 0 else f"at least {gone} of them"
            return Hold(
                Reason.SOURCE_EMPTY,
                f"{here}, and the source {_named(source)} only {facts.source_keys}: {share} would be "
                f"removed, and prune_limit is {limit:g} %",
            )
    return None


def judge_sample(facts: Facts, sample: Sample, limit: float) -> Hold | None:
    """Whether a doubtful full sync has to wait, before anything of its snapshot is written.

    An address is believed when the data agrees: of what can be common to both, a quarter is. Keys come and go, but not all
    of them between two full syncs; two servers of different use have few names in common. Where so many keys are new that
    chance may have picked no other ones, nothing is said.

    Args:
        facts: see there.
        sample: of the snapshot.
        limit: per cent of the target's keys that may be removed.
    """
    keys = facts.source_keys
    if keys is None and (sample.whole or facts.at_once):
        hold = judge(replace(facts, source_keys=sample.keys), limit)
        if hold is not None:
            return hold
    if facts.followed.continues(facts.source) or not sample.looked_for:
        return None
    known = sample.keys if sample.whole else keys
    size = facts.target_keys if known is None else max(known, sample.looked_for)
    expected = sample.looked_for * min(size, facts.target_keys) / size  # to be there, if all that can be common is
    if 4 * sample.there >= expected or (expected < _TELLING and not sample.whole):
        return None
    return Hold(
        Reason.SOURCE_CHANGED,
        f"the target holds {facts.target_keys} keys of {_named(facts.followed)}, and has {sample.there} of "
        f"{sample.looked_for} keys of the source {_named(facts.source)}: neither history nor process nor data is what was "
        "followed",
    )


def judge_removal(ghosts: int, keys: int, limit: float) -> Hold | None:
    """Whether the end of a full sync has to wait before it removes anything.

    Args:
        ghosts: keys of the target that are not in the snapshot.
        keys: that it had before the full sync. Those that the snapshot brought make the loss of the others no smaller.
        limit: per cent of them that may be removed.
    """
    if not keys or not exceeds(ghosts, keys, limit):
        return None
    return Hold(
        Reason.PRUNE_LIMIT,
        f"the snapshot is applied, and lacks {ghosts} keys of the target, which had {keys} before: they would "
        f"be removed, and prune_limit is {limit:g} %",
    )


def exceeds(removed: int, keys: int, limit: float) -> bool:
    """More than *limit* per cent of *keys* would go, or every one."""
    return removed > 0 and (removed >= keys or removed * 100 > limit * keys)


def _named(identity: Identity) -> str:
    """Address and history, as far as they are known."""
    history = f"history {identity.replid[:_SHOWN]}" if identity.replid not in _NO_HISTORY else ""
    known = [each for each in (identity.address, history) if each]
    return f"{known[0]} ({known[1]})" if len(known) > 1 else known[0] if known else "an unknown server"
