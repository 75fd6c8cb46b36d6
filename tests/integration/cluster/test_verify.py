"""`portd verify` where an end, or both, are clusters: every planted difference, nothing else, while slots move and nodes fail."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from portd.config.settings import Settings
from portd.errors import ConfigError
from portd.kernel.slots import key_slot
from portd.verify.options import Method, Options
from portd.verify.settle import Settler
from portd.verify.shardrepair import ClusterRepairer
from portd.verify.verification import Verification, verify
from tests.clusters import SLOTS, Cluster
from tests.commands import run as command
from tests.servers import wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from portd.verify.report import Found, Report
    from portd.verify.store import Suspect, Suspects
    from tests.servers import Server

    End = Cluster | Server

QUICK = Options(settle_seconds=0.09)
KEYS = 300
CODE = "#!lua name=lib\nredis.register_function('f', function() return {} end)"


@pytest.fixture
def another() -> Iterator[Cluster]:
    """A second cluster, of two."""
    with Cluster(primaries=2) as started:
        yield started


def call(end: End, key: str, *words: Any) -> Any:
    """A command about a key, wherever that is."""
    with Wire(end.owner(key) if isinstance(end, Cluster) else end) as wire:
        return wire.call(*words)


def send(end: End, commands: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
    """Commands about keys, each at the node that has its key, all of a node at once."""
    owners = end.owners() if isinstance(end, Cluster) else {end: [(0, SLOTS - 1)]}
    by_slot = {
        slot: node for node, ranges in owners.items() for first, last in ranges for slot in range(first, last + 1)
    }
    groups: dict[Server, list[tuple[Any, ...]]] = {}
    for key, words in commands:
        groups.setdefault(by_slot[key_slot(key.encode())], []).append(words)
    for node, those in groups.items():
        with Wire(node) as wire:
            wire.many(those)


def fill(*ends: End) -> None:
    """The same keys of all types at every end, function libraries on every node, and names like ours, which do not count."""
    commands: list[tuple[str, tuple[Any, ...]]] = []
    for number in range(KEYS):
        key = f"key:{number}"
        kinds: tuple[tuple[Any, ...], ...] = (
            ("SET", key, "x" * number),
            ("RPUSH", key, *range(number + 1)),
            ("SADD", key, *range(number + 1)),
            ("HSET", key, "field", number),
            ("ZADD", key, number, "member"),
            ("XADD", key, f"1-{number + 1}", "n", number),
        )
        commands.append((key, kinds[number % 6]))
        if number % 5 == 0:
            commands.append((key, ("PEXPIREAT", key, 4_000_000_000_000 + number)))
    for number, end in enumerate(ends):
        ours = [(key, ("SET", key, number)) for key in (f"portd:checkpoint:x:{{{each}}}" for each in range(50))]
        send(end, commands + ours)
        for node in end.primaries if isinstance(end, Cluster) else [end]:
            with Wire(node) as wire:
                wire.call("FUNCTION", "LOAD", CODE.format(1))


def plant(end: End) -> dict[bytes, str]:
    """Changes in every part of the keys; tells what should be found."""
    found: dict[bytes, str] = {}
    commands: list[tuple[str, tuple[Any, ...]]] = []
    for number in range(60):
        key = f"key:{number}"
        if number % 3 == 0:
            commands.append((key, ("DEL", key)))
            found[key.encode()] = "missing"
        elif number % 3 == 1:
            key = f"more:{number}"
            commands.append((key, ("SET", key, "x")))
            found[key.encode()] = "extra"
        elif number % 6 == 2:
            commands.append((key, ("SADD", key, "another")))
            found[key.encode()] = "value"
    send(end, commands)
    return found


async def run(
    source: End, target: End, tmp_path: Path, options: Options = QUICK, /, **settings: Any
) -> tuple[Report, dict[bytes, list[str]]]:
    """One verification; the report and in what each key differs."""
    found: dict[bytes, list[str]] = {}

    def note(key: Found) -> None:
        assert key.name not in found, "a key is told once"
        found[key.name] = key.differs

    values: dict[str, Any] = {"source": source.url, "target": target.url, "spool_dir": tmp_path / "spool"} | settings
    report = await verify(Settings(**values), options, note)
    assert not list((tmp_path / "spool").iterdir()), "nothing stays on disk"
    return report, found


@pytest.mark.parametrize("method", [Method.PSYNC, Method.SCAN])
async def test_any_ends_are_compared(
    cluster: Cluster, another: Cluster, target: Server, tmp_path: Path, method: Method
) -> None:
    """Cluster and server on either side: equal is equal, each planted difference is found once, and shards are told."""
    options = Options(settle_seconds=0.09, method=method)
    fill(cluster, another, target)
    for source, into in ((cluster, another), (cluster, target), (target, another)):
        report, found = await run(source, into, tmp_path, options)
        assert (report.exit_code, found, report.functions) == (os.EX_OK, {}, "")
        assert report.source.keys == report.target.keys == report.equal == KEYS
        for told, end in ((report.source, source), (report.target, into)):
            assert len(told.parts) == (len(end.primaries) if isinstance(end, Cluster) else 1)
            assert all(part.keys > 0 and part.method == method.name for part in told.parts)
    planted = plant(another)
    for source in (cluster, target):
        report, found = await run(source, another, tmp_path, options)
        assert found == {key: [kind] for key, kind in planted.items()}
        assert report.exit_code == 1
    backwards = {"missing": "extra", "extra": "missing", "value": "value"}
    _, found = await run(another, cluster, tmp_path, options)
    assert found == {key: [backwards[kind]] for key, kind in planted.items()}


async def test_repair_goes_to_the_owner_of_each_slot(
    cluster: Cluster, target: Server, another: Cluster, tmp_path: Path
) -> None:
    """Keys are copied, removed and changed on the right nodes, libraries on all; behind it both ends are equal."""
    fill(cluster, target, another)
    repair = Options(settle_seconds=0.09, repair=True)
    for source in (target, cluster):
        planted = plant(another)
        with Wire(another.primaries[1]) as wire:
            wire.call("FUNCTION", "LOAD", "REPLACE", CODE.format(2))
        report, found = await run(source, another, tmp_path, repair)
        assert (report.repaired, report.exit_code, found, report.functions) == (len(planted), os.EX_OK, {}, "")
        report, found = await run(source, another, tmp_path)
        assert (report.suspects, report.exit_code, found) == (0, os.EX_OK, {})
    planted = plant(target)
    report, found = await run(cluster, target, tmp_path, repair)
    assert (report.repaired, found) == (len(planted), {})


async def test_a_repair_follows_slots_that_move(
    target: Server, another: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots that go to another node when their keys are about to be repaired: the keys are repaired there."""
    fill(target, another)
    planted = plant(another)
    repair = ClusterRepairer._repair
    moved: list[bytes] = []

    async def move_before(self: ClusterRepairer, each: Suspect) -> bool:
        if len(moved) < 6:
            giver = another.owner(each.name)
            taker = next(node for node in another.primaries if node is not giver)
            await asyncio.to_thread(another.move_slot, key_slot(each.name), taker)
            moved.append(each.name)
        return await repair(self, each)

    monkeypatch.setattr(ClusterRepairer, "_repair", move_before)
    report, found = await run(target, another, tmp_path, Options(settle_seconds=2.0, repair=True))
    assert len(moved) == 6
    assert (report.repaired, found, report.exit_code) == (len(planted), {}, os.EX_OK)
    report, found = await run(target, another, tmp_path)
    assert (report.suspects, found) == (0, {})


async def test_keys_of_slots_that_a_node_does_not_own_do_not_count(
    cluster: Cluster, target: Server, tmp_path: Path
) -> None:
    """What an importing node has before its time is no difference, and is told."""
    fill(cluster, target)
    slot = key_slot(b"key:7")
    giver = cluster.owner("key:7")
    taker = next(node for node in cluster.primaries if node is not giver)
    cluster.call(taker, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.name(giver))
    with Wire(taker) as wire:
        assert wire.many([("ASKING",), ("SET", "key:7", "of another")])[1] == b"OK"
    cluster.call(taker, "CLUSTER", "SETSLOT", slot, "STABLE")
    report, found = await run(cluster, target, tmp_path, Options(settle_seconds=0.09, method=Method.PSYNC))
    assert (report.exit_code, found, sum(part.not_owned for part in report.source.parts)) == (os.EX_OK, {}, 1)
    assert "1 of slots that their node does not own left out" in report.text()


def steady() -> list[str]:
    """Keys of `fill` in whose slots nothing expires: MIGRATE carries what is left of a time, and milliseconds are lost on the way."""
    expiring = {key_slot(b"key:%d" % number) for number in range(0, KEYS, 5)}
    return [key for key in (f"key:{number}" for number in range(KEYS)) if key_slot(key.encode()) not in expiring]


def keys_of(cluster: Cluster, node: Server, count: int) -> list[str]:
    """Such keys whose slots a node has."""
    ranges = cluster.owners()[node]
    return [key for key in steady() if any(a <= key_slot(key.encode()) <= b for a, b in ranges)][:count]


async def test_slots_that_move_while_they_are_read_are_compared_again(
    cluster: Cluster, target: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that no snapshot had are neither different nor passed over: a real difference among them is found."""
    fill(cluster, target)
    first, last = cluster.primaries[0], cluster.primaries[2]
    moved = keys_of(cluster, last, 6)
    call(target, moved[0], "DEL", moved[0])  # no end has it in its snapshot, and it differs
    digest = Verification._digest
    began: list[int] = []

    async def move_between(self: Verification, side: str, *rest: Any) -> None:
        reader = rest[0]
        if side == "source" and not began:
            began.append(1)
            parts = reader.parts()
            monkeypatch.setattr(reader, "parts", lambda *_: parts[:2])
            await digest(self, side, *rest)
            for key in moved:  # from the node that was not read yet to the one that was
                await asyncio.to_thread(cluster.move_slot, key_slot(key.encode()), first)
            monkeypatch.setattr(reader, "parts", lambda *_: parts[2:])
            await digest(self, side, *rest)
            monkeypatch.undo()
            return
        await digest(self, side, *rest)

    monkeypatch.setattr(Verification, "_digest", move_between)
    report, found = await run(cluster, target, tmp_path)
    assert began
    assert (found, report.exit_code) == ({moved[0].encode(): ["missing"]}, 1)
    assert report.source.open_slots == report.target.open_slots == ""


async def test_a_slot_that_never_rests_is_open(cluster: Cluster, target: Server, tmp_path: Path) -> None:
    """It is neither equal nor different: exit code 75, with its name; what differs elsewhere is found all the same."""
    fill(cluster, target)
    key = keys_of(cluster, cluster.primaries[0], 1)[0]
    slot, taker = key_slot(key.encode()), cluster.primaries[1]
    call(target, key, "SET", key, "differs, and nobody can tell")
    cluster.call(taker, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.name(cluster.primaries[0]))
    cluster.call(cluster.primaries[0], "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.name(taker))
    report, found = await run(cluster, target, tmp_path)
    assert (found, report.exit_code, report.source.open_slots) == ({}, os.EX_TEMPFAIL, str(slot))
    assert f"slots {slot} of the source are open" in report.text()
    cluster.call(taker, "CLUSTER", "SETSLOT", slot, "STABLE")
    cluster.call(cluster.primaries[0], "CLUSTER", "SETSLOT", slot, "STABLE")
    report, found = await run(cluster, target, tmp_path)
    assert list(found) == [key.encode()]


@pytest.mark.parametrize("method", [Method.AUTO, Method.SCAN])
async def test_moves_and_writes_make_no_difference(
    cluster: Cluster, another: Cluster, tmp_path: Path, method: Method
) -> None:
    """While slots move to and fro at both ends, what is equal is never called different, and what differs is found."""
    fill(cluster, another)
    planted = plant(another)
    rest = [key for key in steady() if key not in {f"key:{number}" for number in range(60)}]
    stop = asyncio.Event()

    async def move(cluster: Cluster) -> int:
        number = 0
        while not stop.is_set():
            turn, place = divmod(number, len(rest))
            into = cluster.primaries[(turn + place) % len(cluster.primaries)]  # another one in each turn
            if into is not await asyncio.to_thread(cluster.owner, rest[place]):
                await asyncio.to_thread(cluster.move_slot, key_slot(rest[place].encode()), into)
            number += 1
        return number

    movers = [asyncio.create_task(move(each)) for each in (cluster, another)]
    try:
        report, found = await run(cluster, another, tmp_path, Options(settle_seconds=0.3, method=method, rounds=60))
    finally:
        stop.set()
        moved = await asyncio.gather(*movers)
    assert min(moved) > 5
    told = {key: [kind] for key, kind in planted.items()}
    assert {key: kinds for key, kinds in found.items() if told.get(key) != kinds} == {}
    open_slots = report.source.open_slots or report.target.open_slots
    assert report.exit_code == 1
    assert open_slots or report.unsettled or found.keys() == planted.keys()


async def test_a_primary_that_fails_while_keys_are_looked_at_again(
    target: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replica takes its place; nothing but what was planted differs."""
    with Cluster(replicas=1) as cluster:
        fill(cluster, target)
        planted = plant(target)
        victim, settle = cluster.primaries[1], Settler.run
        end = int(victim.info("replication")["master_repl_offset"])
        wait_for_sync(
            lambda: all(int(each.info("replication")["slave_repl_offset"]) >= end for each in cluster.replicas[1:2])
        )

        async def settle_without_it(self: Settler, suspects: Suspects) -> Suspects:
            await asyncio.to_thread(victim.kill)
            return await settle(self, suspects)

        monkeypatch.setattr(Settler, "run", settle_without_it)
        report, found = await run(cluster, target, tmp_path)
        assert not victim.alive
        assert found == {key: [kind] for key, kind in planted.items()}
        assert (report.unsettled, report.source.open_slots) == (0, "")


async def test_one_cluster_is_not_compared_with_itself(cluster: Cluster, tmp_path: Path) -> None:
    """Nor a node of it with the whole."""
    with pytest.raises(ConfigError, match="same server"):
        await run(cluster, cluster, tmp_path)
    with pytest.raises(ConfigError, match="same server"):
        await run(cluster.primaries[2], cluster, tmp_path)


def test_the_command_tells_of_shards(cluster: Cluster, target: Server) -> None:
    """Text and JSON say how many there are, and what each of them had."""
    fill(cluster, target)
    ends = ("--source", cluster.url, "--target", target.url)
    text = command("verify", *ends).out.decode()
    assert "3 shards: " in text.splitlines()[0]
    assert text.splitlines()[-1] == "EQUAL"
    shown = json.loads(command("verify", *ends, "--json").out.splitlines()[-1])
    shards = shown["source"]["shards"]
    assert [each["slots"] for each in shards] == ["0-5460", "5461-10921", f"10922-{SLOTS - 1}"]
    assert sum(each["keys"] for each in shards) == shown["source"]["keys"] == KEYS
    assert "shards" not in shown["target"]
