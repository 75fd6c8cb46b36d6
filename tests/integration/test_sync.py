"""The main job end to end: real servers, the real command, live writes, both ends compared."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.compare import assert_equal, compare
from tests.datasets import fill_big_hash, fill_every_encoding, fill_mixed, fill_strings
from tests.process import Portd
from tests.servers import PATIENCE_SECONDS, Server, find, wait_for
from tests.traffic import LiveTraffic
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.conftest import Pair, ServerFactory

KEYS = 3000


def run_to_end(portd: Portd) -> None:
    """Starts it and expects exit code 0."""
    with portd:
        assert portd.wait() == os.EX_OK, portd.log()


# What no command of an older target can carry; everything else must be equal. See docs/architecture.md.
LOSSES = re.compile(r"stream group|pending|consumer|function|field expir|idmp|last id|entries", re.IGNORECASE)
IDLE_CONSUMER = re.compile(
    r"consumer .* is only on one end"
)  # a source does not replicate these, not to replicas either
AGES = {("redis", 6): 0, ("redis", 7): 1, ("valkey", 8): 2, ("redis", 8): 2, ("valkey", 9): 3}


def age(server: Server) -> int:
    """Orders servers by what their RDB version can hold."""
    return AGES[server.binary.family, server.binary.version[0]]


def assert_carried(source: Server, target: Server) -> None:
    """Both are equal, but for what no command carries to an older target."""
    differences = compare(source, target)
    if age(target) < age(source):
        differences = [line for line in differences if not LOSSES.search(line)]
    assert not differences, "\n".join(differences)


def test_a_snapshot_interrupts_nobody_and_the_stream_does_not_wait(source: Server, target: Server) -> None:
    """Portd copies under SCHED_BATCH, and follows the stream as everybody else."""
    fill_strings(source, 30_000, 100)
    with Portd(source, target, max_target_bytes_per_second=2_000_000) as portd:
        portd.until(lambda status: status["phase"] == "snapshot")
        assert os.sched_getscheduler(portd.process.pid) == os.SCHED_BATCH
        portd.until(lambda status: status["phase"] == "streaming")
        assert os.sched_getscheduler(portd.process.pid) == os.SCHED_OTHER


def test_every_encoding_arrives_in_every_server(matrix: Pair) -> None:
    """Whatever a server can write arrives whole; on an older target only what no command carries may be missing."""
    source, target = matrix
    fill_every_encoding(source)
    run_to_end(Portd(source, target, stop_after="caught-up"))
    assert_carried(source, target)


def test_live_traffic_is_followed_in_all_databases(source: Server, target: Server) -> None:
    """Writes that go on during the snapshot and after it arrive, once each and in order."""
    fill_mixed(source, KEYS)

    async def write(portd: Portd) -> None:
        async with LiveTraffic(source, rate=3000, seed=1) as traffic:
            await asyncio.to_thread(portd.until, lambda status: status["phase"] == "streaming")
            await wait_for(lambda: traffic.commands > 6000)

    with Portd(source, target) as portd:
        asyncio.run(write(portd))
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert [line for line in compare(source, target) if not IDLE_CONSUMER.search(line)] == []


def test_sigterm_checkpoints_and_the_next_start_continues(source: Server, target: Server) -> None:
    """SIGTERM drains with exit code 0; a restart asks the source to continue instead of copying again."""
    fill_strings(source, KEYS)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.client().incr("counter")
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        source.client().incr("counter")
        portd.start()
        status = portd.until(lambda status: status["phase"] == "streaming")
        assert status["full_syncs"] == {}
        assert status["partial_syncs"] == 1
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK
    assert target.client().get("counter") == b"2"
    assert_equal(source, target)


def test_a_checkpoint_of_the_first_layout_is_taken_over(source: Server, target: Server) -> None:
    """Whoever wrote it, the stream goes on where it says, and the next transaction writes today's layout."""
    source.client().set("counter", 500)
    run_to_end(Portd(source, target, stop_after="caught-up"))
    key, client = "portd:checkpoint:default", target.client()
    client.hdel(key, "strands", "rules")
    client.hset(key, "version", 1)
    source.client().incr("counter")
    run_to_end(Portd(source, target, stop_after="caught-up"))
    assert source.client().info("stats")["sync_full"] == 1
    assert client.get("counter") == b"501"
    assert client.hmget(key, "version", "strands", "rules") == [b"2", b"one", b""]


def test_kill_in_the_stream_doubles_nothing(source: Server, target: Server) -> None:
    """After kill -9 the position comes from the target: no INCR is lost or applied twice."""
    client = source.client()
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        for _ in range(3):
            for _ in range(500):
                client.incr("counter")
            portd.kill()
            for _ in range(100):
                client.rpush("list", "x")
            portd.start()
            portd.until(lambda status: status["phase"] == "streaming")
        portd.until_applied(source)
        portd.terminate()
    assert target.client().get("counter") == b"1500"
    assert target.client().llen("list") == 300


def test_a_killed_snapshot_starts_over_without_being_told(source: Server, target: Server) -> None:
    """Half a snapshot is recognised as ours: the next start replaces it instead of refusing a target with data."""
    fill_strings(source, 20_000, 1000)
    target.client().config_set("maxmemory", "8mb")  # the snapshot cannot finish
    with Portd(source, target) as portd:
        portd.until(lambda status: sum(lane["retries"] for lane in status["target"]["lanes"]) > 0)
        portd.kill()
        target.client().config_set("maxmemory", 0)
        portd.start()
        portd.until(lambda status: status["phase"] == "streaming")
        portd.terminate()
    assert_equal(source, target)


def test_a_target_with_foreign_data_is_refused(source: Server, target: Server) -> None:
    """The guard against syncing the wrong way round: nothing is touched, the exit code says settings."""
    target.client().set("precious", "1")
    with Portd(source, target) as portd:
        assert portd.wait() == os.EX_CONFIG
        assert "--existing" in portd.log()
    assert target.client().keys() == [b"precious"]


@pytest.mark.parametrize(
    ("existing", "a", "b"), [("replace", b"new", b"old"), ("skip", b"old", b"old"), ("flush", b"new", None)]
)
def test_existing_keys(existing: str, a: bytes, b: bytes | None, source: Server, target: Server) -> None:
    """Replace overwrites keys of the same name, skip leaves them alone whatever their size, flush removes all others."""
    source.client().set("a", "new")
    fill_big_hash(source, b"big", 60_000)
    target.client().mset({"a": "old", "b": "old"})
    target.client().hset("big", "mine", "1")
    run_to_end(Portd(source, target, stop_after="caught-up", existing=existing))
    assert target.client().get("a") == a
    assert target.client().get("b") == b
    assert target.client().hlen("big") == (1 if existing == "skip" else 60_000)


def test_nothing_is_flushed_for_a_source_that_sends_nothing(servers: ServerFactory) -> None:
    """Whatever is wrong with the source, the target still has its data; when it is flushed, the log says so."""
    source, target = servers(requirepass="secret"), servers()
    target.client().set("precious", "1")
    with Portd(source.url.replace("secret", "wrong"), target, existing="flush") as portd:
        assert portd.wait() == os.EX_NOPERM
    assert target.client().get("precious") == b"1"
    with Portd(source, target, existing="flush", stop_after="snapshot") as portd:
        assert portd.wait() == 0
        assert "target flushed" in portd.log()
    assert target.client().get("precious") is None


@pytest.mark.parametrize("before", ["snapshot", "caught-up"])
def test_a_snapshot_that_is_there_is_the_end_as_well(before: str, source: Server, target: Server) -> None:
    """Whoever wants the snapshot and starts again finds it done."""
    source.client().set("a", "1")
    for stop_after in (before, "snapshot", "snapshot"):
        with Portd(source, target, stop_after=stop_after) as portd:
            assert portd.wait() == 0
    assert target.client().get("a") == b"1"


def test_source_and_target_may_not_be_the_same(source: Server) -> None:
    """Two addresses of one server are found out by its run id."""
    with Portd(source, source.unix_url) as portd:
        assert portd.wait() == os.EX_CONFIG
        assert "same server" in portd.log()


def test_least_privileges_are_enough(servers: ServerFactory) -> None:
    """+ping +replconf +psync on the source; the documented list on the target."""
    from portd.target.capabilities import NEEDED_COMMANDS

    source, target = servers(), servers()
    with Wire(source) as wire:
        wire.call("ACL", "SETUSER", "reader", "on", ">secret", "+ping", "+replconf", "+psync")
    rules = [f"+{command}" for command in NEEDED_COMMANDS]
    with Wire(target) as wire:
        wire.call("ACL", "SETUSER", "writer", "on", ">secret", "~*", "+@write", *rules)
    fill_mixed(source, 500)
    ends = [
        f"redis://{user}:secret@127.0.0.1:{server.port}" for user, server in (("reader", source), ("writer", target))
    ]
    with Portd(ends[0], ends[1], stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        assert "secret" not in portd.log()
    assert_equal(source, target)


def test_pages_answer_while_a_sync_runs(source: Server, target: Server) -> None:
    """/debug/memory, /metrics, /status, /readyz and / describe the sync in progress."""
    fill_big_hash(source, b"big", 400_000)
    with Portd(source, target, writers=1) as portd:
        portd.until(lambda status: status["phase"] in {"snapshot", "streaming"})
        memory = json.loads(portd.get("debug/memory"))
        assert memory["rss_bytes"] > 0
        names = {"spool", "decoder", "queue", "lane-0", "applier", "http"}
        assert {owner["owner"] for owner in memory["owners"]} >= names
        assert {fence["key"] for fence in memory["pipeline"]["fences"]} <= {"big"}
        assert "portd_snapshot_keys_read_total" in portd.get("metrics")
        assert "<html" in portd.get("", accept="text/html")
        assert "<html" in portd.get("debug/memory", accept="text/html")
        portd.until(lambda status: status["ready"])
        peaks = {owner["owner"]: owner["peak_bytes"] for owner in json.loads(portd.get("debug/memory"))["owners"]}
        assert min(peaks["queue"], peaks["lane-0"]) > 100_000
        assert portd.get("readyz")
        portd.terminate()


def test_a_slow_target_keeps_the_link_alive(source: Server, target: Server) -> None:
    """A target that does nothing for a while costs no link: ACKs go on, then everything arrives."""
    fill_strings(source, 20_000)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        target.signal(signal.SIGSTOP)
        fill_strings(source, 20_000, seed=7)
        before = portd.status()
        target.signal(signal.SIGCONT)
        portd.until_applied(source)
        after = portd.status()
        assert before is not None
        assert after is not None
        assert after["source"]["connects"] == before["source"]["connects"] == 1
        portd.terminate()
    assert_equal(source, target)


def test_redis_sources_before_7_send_relative_expiries(servers: ServerFactory) -> None:
    """TTLs set in a 6.2 stream arrive as the moment they meant, not stretched by the lag."""
    binary = find("redis6.2")
    if binary is None:
        pytest.skip("no redis 6.2 here")
    source, target = servers(binary), servers()
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client = source.client()
        client.set("a", "1", ex=1000)
        client.set("b", "1", px=1_000_000)
        client.set("c", "1")
        client.expire("c", 1000)
        portd.until_applied(source)
        portd.terminate()
    for key in ("a", "b", "c"):
        assert abs(target.client().pttl(key) - source.client().pttl(key)) < 500


@pytest.mark.parametrize("newer", ["redis7.0", "valkey9.1"])
def test_stream_groups_keep_their_position_on_targets_before_7(newer: str, servers: ServerFactory) -> None:
    """What moves a group at a newer source moves it on a 6.2 target: nothing there refuses what it does not know."""
    binaries = find(newer), find("redis6.2")
    if None in binaries:
        pytest.skip(f"no {newer} or no redis 6.2 here")
    source, target = map(servers, binaries)
    client: Any = source.client()
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        for number in range(1, 6):
            client.xadd("stream", {"f": "v"}, f"{number}-0")
        client.xgroup_create("stream", "reads", "0")
        client.xgroup_create("stream", "looks", "2-0", entries_read=2)
        client.xgroup_create("stream", "set", "0")
        client.execute_command("XGROUP", "CREATE", "made", "new", "0", "ENTRIESREAD", 0, "MKSTREAM")
        client.xreadgroup("reads", "consumer", {"stream": ">"}, count=2)
        client.xreadgroup("looks", "consumer", {"stream": ">"}, count=2, noack=True)
        client.xgroup_setid("stream", "set", "5-0", entries_read=5)
        status = portd.until_applied(source)
        assert status["dead_letters"] == {}, portd.log()
        portd.terminate()
    for key, positions in (
        ("stream", {b"reads": b"2-0", b"looks": b"4-0", b"set": b"5-0"}),
        ("made", {b"new": b"0-0"}),
    ):
        for server in (source, target):
            groups = server.client().xinfo_groups(key)
            assert {group["name"]: group["last-delivered-id"] for group in groups} == positions


def test_what_is_deleted_in_the_stream_is_unlinked(servers: ServerFactory) -> None:
    """A big key that the source deletes is freed beside the target's work: the same event, the same outcome."""
    binary = find("redis6.2")  # where DEL frees at once unless told otherwise
    source, target = servers(), servers(binary, notify_keyspace_events="Eg")
    fill_big_hash(source, b"big", 20_000)
    source.client().set("small", "1")
    client: Any = target.client()
    listener = client.pubsub()
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        keys = sorted(source.client().keys())
        listener.subscribe("__keyevent@0__:del")
        assert listener.get_message(timeout=PATIENCE_SECONDS)["type"] == "subscribe"
        before = target.client().info("commandstats").get("cmdstat_unlink", {"calls": 0})["calls"]
        freed = target.client().info("memory").get("lazyfreed_objects", 0)
        source.client().delete(*keys, "none")
        status = portd.until_applied(source)
        assert status["dead_letters"] == {}
        assert target.client().info("commandstats")["cmdstat_unlink"]["calls"] == before + 1
        assert target.client().info("memory").get("lazyfreed_objects", 1) > freed
        events = [listener.get_message(ignore_subscribe_messages=True, timeout=PATIENCE_SECONDS) for _ in keys]
        assert sorted(event["data"] for event in events) == keys
        portd.terminate()
    assert_equal(source, target)


def test_a_user_who_may_not_unlink_is_sent_what_the_source_sent(servers: ServerFactory) -> None:
    """Where the target's user may not run UNLINK, DEL goes on as DEL: nothing is refused."""
    source, target = servers(), servers()
    with Wire(target) as wire:
        wire.call("ACL", "SETUSER", "writer", "on", ">secret", "~*", "+@all", "-unlink")
    fill_strings(source, 10)
    with Portd(source, f"redis://writer:secret@127.0.0.1:{target.port}") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.client().delete(*source.client().keys())
        status = portd.until_applied(source)
        assert status["dead_letters"] == {}
        assert target.client().info("commandstats")["cmdstat_unlink"]["calls"] == 0  # the probe tried it
        portd.terminate()
    assert_equal(source, target)


def test_what_the_target_takes_in_no_argument(servers: ServerFactory) -> None:
    """Elements above the target's proto-max-bulk-len are dead letters; in the stream they stop the sync until it is raised."""
    source, target = servers(), servers(proto_max_bulk_len="1mb")
    client, large = source.client(), os.urandom(3 << 20)
    client.hset("hash", mapping={"small": "1", "large": large})
    client.rpush("list", "a", large, "b")
    client.sadd("set", large)
    client.set("string", large)
    client.set("small", "1")
    with Portd(source, target) as portd:
        status = portd.until(lambda status: status["phase"] == "streaming")
        snapshot, letters = status["snapshot"], status["dead_letters"]
        assert target.client().hgetall("hash") == {b"small": b"1"}
        assert target.client().lrange("list", 0, -1) == [b"a", b"b"]
        assert set(target.client().keys("[^p]*")) == {b"hash", b"list", b"small"}
        assert (snapshot["keys_read"], snapshot["keys_applied"], snapshot["keys_failed"]) == (5, 1, 4)
        assert letters == {"unsupported": 4}
        client.set("late", large)
        assert portd.wait() == os.EX_DATAERR, portd.log()
        assert "proto-max-bulk-len" in portd.log()
    target.client().config_set("proto-max-bulk-len", "512mb")
    with Portd(source, target) as portd:
        status = portd.until_applied(source)
        assert status["partial_syncs"] == 1
        assert target.client().get("late") == large
