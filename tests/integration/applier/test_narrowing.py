"""Narrower rules between two transactions: which data was made by which, however often the connection breaks meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from portd.config.rules import choice_of
from portd.config.rulesettings import RuleSettings
from tests.integration.applier.kit import FIRST, KEY, Stream, Sync, running
from tests.loops import both_loops
from tests.proxy import Proxy
from tests.servers import wait_for

if TYPE_CHECKING:
    from tests.servers import Server

ROUND = (("MULTI",), ("INCR", "a"), ("INCR", "b:x"), ("INCR", "b:y"), ("EXEC",))


def write(stream: Stream) -> None:
    """One transaction; all have one size."""
    for words in ROUND:
        stream.write(*words)


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
@both_loops
async def test_a_connection_that_breaks_while_rules_are_taken_up(target: Server, direction: str) -> None:
    """Behind every byte of what is said then: what was applied before the offset was made by the old rules, the rest by the new."""
    choice = choice_of(RuleSettings(exclude=("b:",)))
    for cut in range(0, 1200, 75):
        target.client().flushall()
        async with Proxy(target.port) as proxy:
            stream = Stream()
            sync = Sync(target, stream, url=proxy.url)
            taken: asyncio.Future[int] = asyncio.get_running_loop().create_future()

            def adopt(offset: int, stream: Stream = stream, taken: asyncio.Future[int] = taken) -> None:
                stream.change(rules=choice.rules)
                if not taken.done():
                    taken.set_result(offset)

            async with running(sync):
                write(stream)
                size = stream.end - FIRST
                for _ in range(50):
                    write(stream)
                await asyncio.sleep(0)
                getattr(proxy, direction).cut_after = cut
                sync.applier.narrow(choice, adopt)
                for _ in range(50):
                    write(stream)
                    await asyncio.sleep(0)
                offset = await taken
                await sync.caught_up()
                for _ in range(5):
                    write(stream)
                await sync.caught_up()
            assert (offset - FIRST) % size == 0, "it is between two transactions"
            rounds = (offset - FIRST) // size
            found = [int(each or 0) for each in target.client().mget("a", "b:x", "b:y")]
            assert found == [106, rounds, rounds], cut
            assert target.client().hget(KEY, "rules") == choice.digest.encode()


@both_loops
async def test_rules_that_overtake_others(target: Server) -> None:
    """Those that come last are in force, at once or behind the others."""
    first, second = (choice_of(RuleSettings(exclude=names)) for names in (("b:x",), ("b:",)))
    sync = Sync(target, stream := Stream())
    told: list[str] = []
    async with running(sync):
        write(stream)
        await sync.caught_up()
        for name, choice in (("first", first), ("second", second)):

            def adopt(_: int, name: str = name, rules: object = choice.rules) -> None:
                stream.change(rules=rules)
                told.append(name)

            sync.applier.narrow(choice, adopt)
        await wait_for(lambda: told[-1:] == ["second"])
        write(stream)
        await sync.caught_up()
    assert told in (["second"], ["first", "second"])
    assert target.client().mget("a", "b:x", "b:y") == [b"2", b"1", b"1"]
    assert target.client().hget(KEY, "rules") == second.digest.encode()
