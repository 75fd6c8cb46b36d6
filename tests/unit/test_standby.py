"""What a standby knows without asking anybody: what a takeover would be, and when a link is free."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from portd.config.choices import StopAfter
from portd.config.settings import Settings
from portd.errors import ConfigError
from portd.link.standby import why_full
from portd.model import Position
from portd.target.kept.checkpoint import Checkpoint, State
from portd.target.kept.lease import LATE_SECONDS, Holder
from portd.target.kept.vacancy import Sight, Verdict

ONE, TWO = "1" * 40, "2" * 40
AT = Checkpoint(position=Position(ONE, 1000))
TOLD = {
    "master_replid": ONE, "master_replid2": "0" * 40, "second_repl_offset": "-1", "master_repl_offset": "1500",
    "repl_backlog_active": "1", "repl_backlog_first_byte_offset": "1001", "repl_backlog_size": "1048576",
}  # fmt: skip


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, ""),
        ({"repl_backlog_first_byte_offset": "1"}, ""),
        ({"repl_backlog_first_byte_offset": "1002"}, "does not reach back"),  # the next byte is 1001
        ({"repl_backlog_active": "0"}, "does not reach back"),
        ({"master_repl_offset": "999"}, "does not reach back"),  # it has not what the target has
        ({"master_replid": TWO}, "another history"),
        ({"master_replid": TWO, "master_replid2": ONE, "second_repl_offset": "1001"}, ""),  # promoted behind our place
        ({"master_replid": TWO, "master_replid2": ONE, "second_repl_offset": "1000"}, "does not reach back"),
        ({"master_repl_offset": "many"}, ""),  # nothing that can be read
    ],
)
def test_a_takeover_is_a_full_sync_where_the_source_cannot_go_on(told: dict[str, str], words: str) -> None:
    """As a source decides (replication.c:masterTryPartialResync), to the byte."""
    found = why_full(AT, TOLD | told)
    assert words in found
    assert bool(words) == bool(found)


def test_a_takeover_is_a_full_sync_where_the_target_is_not_whole() -> None:
    """A snapshot under way is begun anew, other rules ask for another one; a source that does not tell leaves it open."""
    assert "no snapshot" in why_full(None, TOLD)
    assert "no snapshot" in why_full(replace(AT, state=State.SNAPSHOT), TOLD)
    assert "prefixes" in why_full(AT, TOLD, "prefixes")
    assert why_full(AT, {}) == ""


@pytest.mark.parametrize("other", [{"takeover": True}, {"stop_after": StopAfter.SNAPSHOT}])
def test_a_standby_contradicts_what_it_would_never_do(other: dict[str, object]) -> None:
    """It waits for who has the link, and has no end of its own."""
    with pytest.raises(ConfigError, match="standby"):
        Settings(source="redis://a", target="redis://b", standby=True, **other)  # type: ignore[arg-type]


HOLDER = Holder(token="t", host="h", machine="m", space="s", pid=1, started="1", client=5, run_id="r")
NOBODY = Sight(None, -2, given_back=False)


def seen(left: int) -> Sight:
    """The lease is there, with so many milliseconds left."""
    return Sight(HOLDER, left, given_back=False)


class Clock:
    """A loop's clock that is set by hand."""

    now = 100.0

    def time(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In the place of the loop's."""
    clock = Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    return clock


def verdict(known: Holder | None = None) -> Verdict:
    """Over a new connection."""
    return Verdict(Holder.me(), known)


@pytest.mark.usefixtures("clock")
def test_a_link_that_nobody_had_is_taken_at_once() -> None:
    """And so is one that was given back, or whose end was told."""
    assert verdict().is_free(NOBODY, woken=False)
    assert verdict(HOLDER).is_free(replace(NOBODY, given_back=True), woken=False)
    assert verdict(HOLDER).is_free(NOBODY, woken=True)
    assert not verdict(HOLDER).is_free(seen(15_000), woken=True)  # another standby was faster


def test_a_lease_that_ran_out_before_our_eyes_is_over(clock: Clock) -> None:
    """At its end, not before: until then somebody has removed it, and the holder has three seconds."""
    watched = verdict()
    assert not watched.is_free(seen(15_000), woken=False)
    clock.now += 5
    watched.note(10_000)
    clock.now += 1
    assert not watched.is_free(NOBODY, woken=False)
    clock.now += LATE_SECONDS - 0.5
    assert not watched.is_free(NOBODY, woken=False)
    assert not watched.is_free(seen(15_000), woken=False)  # it was put back
    clock.now += 1
    assert not watched.is_free(NOBODY, woken=False)
    clock.now += LATE_SECONDS
    assert watched.is_free(NOBODY, woken=False)
    watched = verdict()
    assert not watched.is_free(seen(15_000), woken=False)
    clock.now += 14.9
    assert watched.is_free(NOBODY, woken=False)


def test_what_ran_out_while_nobody_could_look_is_waited_for(clock: Clock) -> None:
    """A whole lease, from when the target is back."""
    watched = verdict(HOLDER)
    assert not watched.is_free(NOBODY, woken=False)
    clock.now += 14.9
    assert not watched.is_free(NOBODY, woken=False)
    clock.now += 0.2
    assert watched.is_free(NOBODY, woken=False)


@pytest.mark.usefixtures("clock")
def test_only_who_numbered_the_holder_tells_of_its_connection() -> None:
    """Behind a failover the lease runs out by itself."""
    watched = verdict()
    assert watched.is_late(seen(11_999), "r")
    assert watched.is_late(seen(-1), "r")  # somebody made it last for ever
    assert not watched.is_late(seen(12_000), "r")
    assert not watched.is_late(seen(1), "another process")
    assert not watched.is_late(NOBODY, "r")
