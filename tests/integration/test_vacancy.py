"""When a link is free: what a standby sees of a lease on a real server, and what it costs that server."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from portd.net.endpoint import Endpoint
from portd.target.connection import ConnectionOptions
from portd.target.kept import vacancy
from portd.target.kept.lease import Holder, Lease
from portd.target.kept.vacancy import Vacancy
from tests.permissions import least_user
from tests.proxy import Proxy
from tests.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.servers import Server

KEY = "portd:checkpoint:default"
LEASE = f"{KEY}:lease"


class Watch:
    """A standby on a link, with what it has seen.

    Args:
        url: of the target.
        bell_seconds: longest wait at the bell.
    """

    def __init__(self, url: str, bell_seconds: int = vacancy.BELL_SECONDS) -> None:
        self.seen: list[Holder | None] = []
        endpoint = replace(Endpoint.parse(url), silence_seconds=10_000)
        self.vacancy = Vacancy(endpoint, KEY, ConnectionOptions(), self.seen.append)
        self.vacancy._bell_seconds = bell_seconds
        self.task = asyncio.create_task(self.vacancy.wait())

    async def until_seen(self, times: int = 1) -> None:
        """Waits until all of the link was looked at so often from now on."""
        wanted = len(self.seen) + times
        await wait_for(lambda: len(self.seen) >= wanted or self.task.done())

    def sees_holder(self) -> bool:
        """Somebody had the link at the last look."""
        return self.seen[-1] is not None

    async def free(self) -> None:
        """Waits until it says that the link is free."""
        await asyncio.wait_for(asyncio.shield(self.task), 60)


@asynccontextmanager
async def watching(url: str, **options: int) -> AsyncIterator[Watch]:
    """A standby that has looked once."""
    watch = Watch(url, **options)
    try:
        await watch.until_seen()
        yield watch
    finally:
        watch.task.cancel()
        await asyncio.gather(watch.task, return_exceptions=True)


@asynccontextmanager
async def held(url: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A link that this process has; what is yielded gives it back."""
    lease = Lease(Endpoint.parse(url), KEY, "default")
    await lease.acquire()
    keeping = asyncio.create_task(lease.keep())

    async def stop() -> None:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        lease.close()

    async def give_back() -> None:
        await stop()
        await lease.release()

    try:
        yield give_back
    finally:
        await stop()


def elsewhere(target: Server, left: int, **fields: object) -> None:
    """A lease of a process of another machine that nobody renews, with so many milliseconds left."""
    words = {"token": "other", "host": "elsewhere", "machine": "m", "space": "s", "pid": 7, **fields}
    client: Any = target.client()
    client.hset(LEASE, mapping=words)
    client.pexpire(LEASE, left)


async def test_a_link_that_nobody_had_is_free(target: Server) -> None:
    """There is nothing to wait for."""
    async with watching(target.url) as watch:
        await watch.free()
        assert watch.seen == [None]


async def test_giving_back_wakes_the_standby(target: Server) -> None:
    """An orderly end is told at once: the standby would look in ten minutes otherwise; and nothing of it stays."""
    lease = Lease(Endpoint.parse(target.url), KEY, "default")
    await lease.acquire()
    target.client().pexpire(LEASE, 10**9)
    async with watching(target.url, bell_seconds=600) as watch:
        await wait_for(lambda: "blpop" in {each["cmd"] for each in target.client().client_list()})
        await lease.release()
        await watch.free()
    lease.close()
    assert sorted(target.client().keys("*")) == [f"{KEY}:epoch".encode()]


async def test_a_standby_that_was_not_listening_finds_it_given_back(
    target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection was gone at that moment: the epoch says that it was given back, and no lease has to pass."""
    monkeypatch.setattr(vacancy, "LEASE_SECONDS", math.inf)
    monkeypatch.setattr(vacancy, "LATE_SECONDS", math.inf)
    async with Proxy(target.port) as proxy, held(target.url) as give_back, watching(proxy.url) as watch:
        proxy.refuse()
        proxy.cut()
        await give_back()
        await proxy.start()
        await watch.free()


async def test_a_process_of_this_machine_that_is_gone_has_nothing(target: Server) -> None:
    """Its process id tells, however long its lease is."""
    me = Holder.me()
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    elsewhere(target, 600_000, machine=me.machine, space=me.space, pid=ended.pid, started="1")
    async with watching(target.url) as watch:
        await watch.free()


async def test_a_lost_connection_and_three_seconds_of_silence_are_enough(target: Server) -> None:
    """Where our user may look at the target's connections, the lease need not run out."""
    run_id = str(target.info("server")["run_id"])
    elsewhere(target, 600_000, client=999_999, run_id=run_id)
    async with watching(target.url) as watch:
        assert not watch.task.done()
        target.client().pexpire(LEASE, 11_900)
        await watch.free()
        assert target.client().exists(LEASE)


async def test_without_permission_the_lease_runs_out(target: Server) -> None:
    """A user who may not look at connections waits for the end of it; the same for a frozen process, whose connection is there."""
    run_id = str(target.info("server")["run_id"])
    elsewhere(target, 5_000, client=999_999, run_id=run_id)
    async with watching(f"redis://{least_user(target)}127.0.0.1:{target.port}") as watch:
        await watch.free()
        assert not target.client().exists(LEASE)


async def test_a_lease_that_is_renewed_is_left_alone(target: Server) -> None:
    """As long as the holder lives, however often one looks."""
    async with held(target.url), watching(target.url) as watch:
        watch.vacancy._rings = False
        await watch.until_seen(2)
        assert not watch.task.done()


@pytest.mark.parametrize("command", ["FLUSHALL", "DEL"])
async def test_a_lease_that_others_remove_is_put_back(
    target: Server, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody empties the target, or removes the lease: the holder is there, and has a moment to say so."""
    monkeypatch.setattr(vacancy, "LATE_SECONDS", 30.0)  # a busy machine may take its time
    async with held(target.url), watching(target.url) as watch:
        watch.vacancy._rings = False
        for _ in range(3):
            client: Any = target.client()
            client.execute_command(command, *([LEASE] if command == "DEL" else []))
            await watch.until_seen(1)
        await wait_for(lambda: target.client().exists(LEASE))
        await watch.until_seen(1)
        assert not watch.task.done()


async def test_a_lease_that_others_remove_and_nobody_puts_back_is_free(target: Server) -> None:
    """After three seconds."""
    elsewhere(target, 600_000)
    async with watching(target.url) as watch:
        target.client().delete(LEASE)
        await watch.free()


async def test_an_absence_of_the_target_is_no_fault_of_the_holder(
    target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease ran out while neither could renew or look: the holder has another one to come back."""
    monkeypatch.setattr(vacancy, "LEASE_SECONDS", math.inf)
    elsewhere(target, 600_000)
    async with Proxy(target.port) as proxy, watching(proxy.url) as watch:
        proxy.refuse()
        proxy.cut()
        target.client().delete(LEASE)
        await proxy.start()
        await watch.until_seen(3)
        assert not watch.sees_holder()
        assert not watch.task.done()
        elsewhere(target, 600_000)  # it is back
        await watch.until_seen(2)
        assert watch.sees_holder()
        assert not watch.task.done()
        target.client().delete(LEASE)
        monkeypatch.setattr(vacancy, "LATE_SECONDS", 0.0)
        await watch.free()


async def test_who_may_not_wait_at_the_bell_looks_every_second(target: Server) -> None:
    """A user without BLPOP sees the same, by looking."""
    words = [
        "portd",
        "on",
        ">secret",
        "~*",
        "&*",
        "+@write",
        "+@transaction",
        "+info",
        "+hget",
        "+hgetall",
        "+pttl",
        "-blpop",
    ]
    client: Any = target.client()
    client.execute_command("ACL", "SETUSER", *words)
    url = f"redis://portd:secret@127.0.0.1:{target.port}"
    async with held(url) as give_back, watching(url) as watch:
        await wait_for(lambda: not watch.vacancy._rings)
        await watch.until_seen()
        assert not watch.task.done()
        await give_back()
        await watch.free()


async def test_it_costs_less_than_a_command_a_second(target: Server) -> None:
    """Counted by the target over some rounds, with the questions at the beginning left out."""
    run_id = str(target.info("server")["run_id"])
    elsewhere(target, 600_000, client=999_999, run_id=run_id)
    loop = asyncio.get_running_loop()

    def commands() -> int:
        counted = target.client().info("commandstats")
        return sum(
            counted.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("blpop", "pttl", "hget", "hgetall")
        )

    async with watching(target.url) as watch:
        before, begun = commands(), loop.time()
        await watch.until_seen(1)  # a whole round: bells, short looks, and a look at everything
        assert commands() - before <= loop.time() - begun + 1
        others = {"connected_clients", "blocked_clients"}
        assert others <= target.info("clients").keys()
