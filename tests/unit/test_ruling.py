"""Which rules are said to have made the data, while narrower ones wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from portd.config.rules import choice_of
from portd.config.settings import Settings
from portd.errors import ConfigError
from portd.link.ruling import Narrower, Ruling
from portd.model import Position
from portd.target.kept.checkpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

REPLID = "0" * 40


def settings(**rules: Any) -> Settings:
    """Of a link whose ends nobody asks."""
    return Settings(source="redis://source", target="redis://target", **rules)


def waiting(ruling: Ruling, **rules: Any) -> Narrower:
    """Narrower rules that wait; the target was asked about them."""
    following = settings(**rules)
    narrower = Narrower(following, choice_of(following))
    if ruling._next is not None:
        ruling._earlier.append(ruling._next)
    ruling._next = narrower
    return narrower


def checkpoint(digest: str) -> Checkpoint:
    """Data that was made by rules of that digest."""
    return Checkpoint(position=Position(REPLID, 7), rules=digest)


async def test_a_checkpoint_tells_that_they_are_in_force() -> None:
    """They were written, and the answer was lost: the next session goes by them, and by no others."""
    ruling = Ruling(settings())
    narrower = waiting(ruling, exclude=("b:",))
    assert not ruling.made(checkpoint("keys=of another"))
    assert ruling.made(checkpoint(""))
    assert not narrower.taken.done()
    assert ruling.made(checkpoint(narrower.choice.digest))
    assert narrower.taken.result() == 7
    assert ruling.settings.exclude == ("b:",)
    assert not ruling.made(checkpoint("")), "what was before is over"


async def test_a_checkpoint_tells_of_rules_that_others_were_to_follow() -> None:
    """They were written, the answer was lost, and narrower ones were asked for meanwhile: these still are to come."""
    ruling = Ruling(settings())
    first = waiting(ruling, exclude=("b:",))
    second = waiting(ruling, exclude=("b:", "c:"))
    assert ruling.made(checkpoint(first.choice.digest))
    assert (first.taken.result(), second.taken.done()) == (7, False)
    assert ruling.settings.exclude == ("b:",)
    ruling.begin_anew(9)
    assert second.taken.result() == 9


async def test_they_wait_for_the_stream_and_for_the_next_one() -> None:
    """Each time a stream is followed they are offered, until they are taken up; a full sync takes them up by itself."""
    ruling = Ruling(settings())
    narrower = waiting(ruling, exclude=("b:",))
    offered: list[Callable[[int], None]] = []

    def take(_: Narrower, taken: Callable[[int], None]) -> None:
        offered.append(taken)

    for count in (1, 2):
        with ruling.followed_by(take):
            assert len(offered) == count
    assert not ruling.choice
    offered[-1](12)
    assert narrower.taken.result() == 12
    assert ruling.choice.digest == narrower.choice.digest
    with ruling.followed_by(take):
        assert len(offered) == 2, "nothing waits"
    again = waiting(ruling, exclude=("b:", "c:"))
    ruling.begin_anew(99)
    assert again.taken.result() == 99
    ruling.begin_anew(100)
    assert ruling.settings.exclude == ("b:", "c:")


async def test_what_is_compared_with() -> None:
    """The rules that wait are those that the next ones have to be narrower than."""
    ruling = Ruling(settings(exclude=("a:",)))
    waiting(ruling, exclude=("a:", "b:"))
    with pytest.raises(ConfigError, match="exclude 'b:' is gone"):
        await ruling.narrow(settings(exclude=("a:", "c:")))


async def test_slots_that_come_by_a_copy_wait_for_it() -> None:
    """The stream never takes them up, nor what was asked for behind them; the full sync does."""
    ruling = Ruling(settings())
    copied = waiting(ruling, exclude=("b:",))
    copied.by_copy = True
    offered: list[Narrower] = []

    def take(narrower: Narrower, _: Callable[[int], None]) -> None:
        offered.append(narrower)

    with ruling.followed_by(take):
        later = ruling._let_follow(Narrower(settings(exclude=("b:", "c:")), choice_of(settings(exclude=("b:", "c:")))))
        assert not offered
    ruling.begin_anew(9)
    assert (copied.taken.result(), later.taken.result()) == (9, 9)
