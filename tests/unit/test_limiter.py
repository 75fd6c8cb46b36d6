"""The limits on the load of the target: averages that hold, turns in order, changes at once, and group sizes."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from typing import TYPE_CHECKING

import pytest

from portd.cli.reload import ConfigFile
from portd.config.load import load_settings
from portd.errors import ConfigError
from portd.model import StreamProgress, TargetLimit
from portd.target import limiter as module
from portd.target.groupsize import AIM_SECONDS, FEWEST_BYTES, FEWEST_COMMANDS, GroupSize
from portd.target.limiter import BURST_SECONDS, LagWatch, Limiter
from tests.loops import both_loops
from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

RATE = 1_000_000
ENDS = {"source": "redis://one", "target": "redis://two"}


async def take_all(limiter: Limiter, costs: list[tuple[int, int]], takers: int) -> float:
    """Several takers share the costs; seconds that it took."""
    left = iter(costs)

    async def taker() -> None:
        for size, ops in left:
            await limiter.take(size, ops)

    begun = time.monotonic()
    await asyncio.gather(*(taker() for _ in range(takers)))
    return time.monotonic() - begun


@both_loops
async def test_the_average_holds_over_small_and_large_costs() -> None:
    """Never more than the rate, the burst and one cost on credit; with several takers as with one."""
    for takers in (1, 4):
        limiter = Limiter(bytes_per_second=RATE)
        costs = [(1000, 1)] * 100 + [(70_000, 1)] * 2 + [(10, 1)] * 1000
        seconds = await take_all(limiter, costs, takers)
        total = sum(size for size, _ in costs)
        assert seconds >= (total - 70_000 - BURST_SECONDS * RATE) / RATE
        assert 0 < limiter.state.waited_until_now <= seconds
        assert limiter.state.waiting == 0


@both_loops
async def test_the_stricter_limit_counts() -> None:
    """With both limits, neither is passed."""
    limiter = Limiter(bytes_per_second=RATE, ops_per_second=1000)
    assert await take_all(limiter, [(10, 10)] * 40, 2) >= (400 - 10) / 1000 - BURST_SECONDS


@both_loops
async def test_turns_come_in_the_order_of_asking() -> None:
    """Nobody is overtaken, however little he asks for."""
    limiter, turns = Limiter(bytes_per_second=RATE), []

    async def taker(number: int, size: int) -> None:
        await limiter.take(size, 1)
        turns.append(number)

    await asyncio.gather(*(taker(number, 20_000 if number % 2 else 1) for number in range(10)))
    assert turns == list(range(10))


@both_loops
async def test_without_a_limit_nothing_waits() -> None:
    """No limit costs no turn of the loop."""
    limiter = Limiter()
    taking = limiter.take(1 << 40, 1 << 30)
    with pytest.raises(StopIteration):
        taking.send(None)
    assert not limiter.limited
    assert limiter.share() == (0, 0)


@both_loops
async def test_a_change_reaches_those_who_wait() -> None:
    """Raising or lifting a limit ends waits that would have lasted for hours; the debt goes with the limit."""
    for more in (0, 1 << 40):
        limiter = Limiter(bytes_per_second=1)
        await limiter.take(100_000, 1)
        waiting = asyncio.ensure_future(limiter.take(1, 1))
        await asyncio.sleep(0)
        assert limiter.state.waiting == 1
        limiter.change(bytes_per_second=more)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waiting
        assert limiter.state.bytes_per_second == more


@both_loops
async def test_a_lower_limit_does_not_stretch_what_is_owed() -> None:
    """What was sent under the old limit is owed the seconds it was owed then."""
    limiter = Limiter(bytes_per_second=1_000_000)
    await limiter.take(100_000, 1)
    limiter.change(bytes_per_second=100)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await limiter.take(1, 1)


@both_loops
async def test_a_cancelled_wait_takes_nothing() -> None:
    """Neither before its turn nor after it; those behind it go on."""
    limiter = Limiter(bytes_per_second=10_000, ops_per_second=1_000_000)
    await limiter.take(1000, 1)
    first, second = (asyncio.ensure_future(limiter.take(size, 1)) for size in (1 << 40, 1))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await second
        await limiter.take(1000, 1)
    granted = asyncio.ensure_future(limiter.take(1, 1 << 40))
    await asyncio.sleep(0)
    assert limiter.state.waiting == 1
    limiter.change(bytes_per_second=0)
    assert limiter.state.waiting == 0
    granted.cancel()  # it has its turn, and did not run yet
    await asyncio.wait({granted})
    async with asyncio.timeout(PATIENCE_SECONDS):
        await limiter.take(1, 1)


def test_a_limit_below_the_source_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not while the lag falls, not twice, and again only after it was gone."""
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.0)
    state, stream = TargetLimit(), StreamProgress()
    watch_limiter = Limiter(state, bytes_per_second=100)
    watch = LagWatch(watch_limiter, stream)
    told: list[str] = []

    def look(read: int, applied: int, *, caught_up: bool = False) -> int:
        stream.read_offset, stream.applied_offset = read, applied
        state.waited_seconds += 1.0
        watch.look(caught_up=caught_up)
        told.append("".join(capfd.readouterr()))
        return "".join(told).count("below what the source writes")

    assert look(1000, 1000, caught_up=True) == 0
    assert look(3000, 1000) == 1
    assert look(5000, 2000) == 1
    assert look(6000, 6000, caught_up=True) == 1
    assert look(9000, 6000) == 2
    assert look(9000, 9000, caught_up=True) == 2
    stream.read_offset = 20_000
    watch = LagWatch(watch_limiter, stream)
    assert look(20_000, 9_000) == 2  # the limit is new to it
    assert look(21_000, 12_000) == 2
    assert look(22_000, 14_000) == 2


@pytest.mark.parametrize("rate", [0, RATE])
@both_loops
async def test_nobody_gets_a_turn_while_it_is_paused(rate: int) -> None:
    """With a limit or without; those who wait get their turns in order when it goes on, and that was no limit's doing."""
    limiter = Limiter(bytes_per_second=rate)
    order: list[int] = []

    async def taker(number: int) -> None:
        await limiter.take(10, 1)
        order.append(number)

    async def other() -> None:
        await limiter.going()
        order.append(-1)

    assert limiter.pause()
    assert not limiter.pause()
    tasks = [asyncio.create_task(taker(number)) for number in range(5)] + [asyncio.create_task(other())]
    await asyncio.wait(tasks, timeout=0.05)
    assert order == []
    tasks.pop(1).cancel()
    limiter.change(bytes_per_second=2 * rate)
    assert order == []
    assert limiter.resume()
    assert not limiter.resume()
    await asyncio.gather(*tasks)
    assert [number for number in order if number >= 0] == [0, 2, 3, 4]
    assert -1 in order
    assert limiter.state.waited_until_now < 0.05
    await limiter.take(10, 1)


@both_loops
async def test_a_pause_stops_those_who_wait_for_a_limit() -> None:
    """A debt that is paid meanwhile gives nobody a turn; what is waited for behind it counts."""
    limiter = Limiter(bytes_per_second=RATE)
    await limiter.take(RATE // 20, 1)
    waiting = [asyncio.create_task(limiter.take(RATE // 10, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    limiter.pause()
    await asyncio.wait(waiting, timeout=0.3)
    assert not any(task.done() for task in waiting[1:])
    limiter.resume()
    await asyncio.gather(*waiting)
    assert limiter.state.waiting == 0


def test_groups_follow_what_exec_takes() -> None:
    """Two slow EXECs make the next group smaller, quick ones let it grow to the most; floors hold."""
    size = GroupSize(1 << 20, 4096)
    for _ in range(20):
        size.note(AIM_SECONDS / 10, size.bytes, size.commands)
    assert (size.bytes, size.commands) == (1 << 18, 1024)
    size.note(1.0, size.bytes, size.commands)
    assert size.commands == 1024  # once is chance
    size.note(2 * AIM_SECONDS, size.bytes, size.commands)
    assert (size.bytes, size.commands) == (1 << 17, 512)
    for _ in range(60):
        size.note(size.commands / 1000, size.bytes, size.commands)
    assert (size.bytes, size.commands) == (FEWEST_BYTES, FEWEST_COMMANDS)
    size.note(AIM_SECONDS / 10, 10, 1)
    assert size.commands == FEWEST_COMMANDS  # a small group proves nothing


def test_groups_to_a_far_target_stay_large() -> None:
    """The way there and back, and that it varies, is no slow EXEC; a really slow one is."""
    size = GroupSize(1 << 20, 4096)
    for _ in range(20):
        size.note(0.07, size.bytes, size.commands, 0.05)
    assert size.commands == 4096
    for _ in range(60):
        size.note(0.05 + size.commands / 100, size.bytes, size.commands, 0.05)
    assert size.commands == FEWEST_COMMANDS


@pytest.mark.parametrize("fixed", [0.02, 0.1])
def test_groups_stay_large_where_small_ones_take_as_long(fixed: float) -> None:
    """A target that waits for a core: smaller groups would only be more. Where commands are what takes long, they help, also behind that."""
    size, chance = GroupSize(1 << 20, 4096), random.Random(3)
    commands = seconds = 0.0
    for _ in range(1000):
        taken = chance.expovariate(1 / fixed) + size.commands * 3e-6
        commands, seconds = commands + size.commands, seconds + taken
        size.note(taken, 40 * size.commands, size.commands)
    assert commands / seconds > 400 / fixed  # 64 at a time would be 64 / fixed
    taken_by = []
    for _ in range(300):
        taken_by.append(size.commands * 3e-4)
        size.note(taken_by[-1], 40 * size.commands, size.commands)
    assert statistics.median(taken_by[-200:]) <= FEWEST_COMMANDS * 3e-4
    assert max(taken_by[-200:]) <= 2 * FEWEST_COMMANDS * 3e-4


@pytest.mark.parametrize("name", ["max_target_bytes_per_second", "max_target_ops"])
def test_values_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    """At the start and at SIGHUP, by name; sizes may have units."""
    for value in ("-1", "fast", "1.5x"):
        with pytest.raises(ConfigError, match=name):
            load_settings({**ENDS, name: value})
    file = tmp_path / "portd.toml"
    file.write_text("")
    config = ConfigFile(file, frozenset({"source", "target"}), load_settings(ENDS))
    for value in ("-1", "1.5", "true", '"fast"', "[]"):
        file.write_text(f"{name} = {value}\n")
        with pytest.raises(ConfigError, match=name):
            config.reread()
    file.write_text('max_target_bytes_per_second = "2MiB"\nmax_target_ops = 5000\n')
    assert config.reread().live == {"max_target_bytes_per_second": 2 << 20, "max_target_ops": 5000}
    file.write_text("")
    assert config.reread().live == {"max_target_bytes_per_second": 0, "max_target_ops": 0}
