"""A cluster node as source on real servers: one shard is never taken for all of the data."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import run
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Binary, Server

SLOTS = 5461  # of 16384: a third of a cluster, of which this node is all that runs
KEYS = 600


@pytest.fixture
def shard(servers: ServerFactory) -> Callable[..., Server]:
    """Starts a cluster node that has a third of the slots and its share of the keys."""

    def start(binary: Binary | None = None) -> Server:
        node = servers(binary, cluster_enabled=True, cluster_require_full_coverage="no")
        client: Any = node.client()
        client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS))
        wait_for_sync(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        for number in range(KEYS):
            if client.execute_command("CLUSTER", "KEYSLOT", f"key:{number}") < SLOTS:
                client.execute_command("SET", f"key:{number}", number)
        return node

    return start


def client_of(server: Server) -> Any:
    """A client without redis-py's types."""
    return server.client()


def user_of(node: Server, *allowed: str) -> str:
    """The URL of a user who may replicate, and what else is *allowed*."""
    client: Any = node.client()
    client.execute_command("ACL", "SETUSER", "least", "on", ">pw", "+ping", "+replconf", "+psync", *allowed)
    return f"redis://least:pw@127.0.0.1:{node.port}"


def sync(source: str, target: Server, *more: object) -> Any:
    """A sync of the snapshot, with any exit code."""
    ends = ("--source", source, "--target", target.url, "--http", "off", "--stop-after", "snapshot")
    return run("sync", *ends, *more, expect=None)


def test_a_sync_of_one_shard_is_refused(binary: Binary, shard: Callable[..., Server], target: Server) -> None:
    """A node of any version ends a sync with 78 before the target is touched, unless --one-shard says it is meant."""
    node = shard(binary)
    refused = sync(node.url, target)
    assert refused.code == os.EX_CONFIG, refused.err
    assert "--one-shard" in refused.err
    assert client_of(target).dbsize() == 0
    meant = sync(node.url, target, "--one-shard")
    assert meant.code == os.EX_OK, meant.err
    assert "one shard" in meant.err
    assert len(client_of(target).keys("key:*")) == client_of(node).dbsize() > 0


def test_without_info_cluster_tells(shard: Callable[..., Server], target: Server) -> None:
    """Where INFO is forbidden, the reply to CLUSTER says what the source is."""
    refused = sync(user_of(shard(), "+cluster|info"), target)
    assert refused.code == os.EX_CONFIG, refused.err
    assert "--one-shard" in refused.err


def test_without_any_question_the_snapshot_tells(shard: Callable[..., Server], target: Server) -> None:
    """A user who may only replicate cannot ask; the snapshot of a node counts its slots, and no key of it is written."""
    url = user_of(shard())
    refused = sync(url, target)
    assert refused.code == os.EX_CONFIG, refused.err
    assert "--one-shard" in refused.err
    assert client_of(target).keys("key:*") == []
    assert sync(url, target, "--one-shard").code == os.EX_OK
    assert len(client_of(target).keys("key:*")) > 0


@pytest.mark.parametrize("allowed", [(), ("+info",)])
def test_dump_refuses_one_shard(shard: Callable[..., Server], tmp_path: Path, allowed: tuple[str, ...]) -> None:
    """A file with a third of the data is not made, unless it is asked for."""
    url, file = user_of(shard(), *allowed), tmp_path / "dump.rdb"
    refused = run("dump", "--source", url, "--output", file, expect=os.EX_CONFIG)
    assert "--one-shard" in refused.err
    assert list(tmp_path.iterdir()) == []
    meant = run("dump", "--source", url, "--output", file, "--one-shard")
    assert file.exists()
    assert "one shard" in meant.err


def test_decode_of_one_shard_says_so(shard: Callable[..., Server]) -> None:
    """What is shown of a live node is a part, and standard error says that."""
    shown = run("decode", user_of(shard()), "--format", "keys")
    assert shown.out.count(b"key:") > 0
    assert "one shard" in shown.err


def test_verify_says_what_it_saw(shard: Callable[..., Server], target: Server) -> None:
    """Equal is said of the shard, in text and in JSON, and not of a cluster."""
    node = shard()
    assert sync(node.url, target, "--one-shard").code == os.EX_OK
    ends = ("--source", node.url, "--target", target.url)
    text = run("verify", *ends).out.decode()
    assert text.splitlines()[-1].startswith("EQUAL, as far as one shard goes"), text
    report = json.loads(run("verify", *ends, "--json").out.splitlines()[-1])
    assert (report["source"]["one_shard"], report["target"]["one_shard"]) == (True, False)


def test_one_shard_repairs_nothing(shard: Callable[..., Server], target: Server) -> None:
    """Keys of other shards are extra to this one; they are removed only where it is said that one shard is all."""
    node = shard()
    client_of(target).set("another", "shard's")
    ends = ("--source", node.url, "--target", target.url, "--repair")
    refused = run("verify", *ends, expect=os.EX_CONFIG)
    assert "--one-shard" in refused.err
    assert client_of(target).get("another") == b"shard's"
    run("verify", *ends, "--one-shard")
    assert client_of(target).get("another") is None


def test_a_schedule_says_what_it_saw(shard: Callable[..., Server], target: Server) -> None:
    """A sync that compares by itself logs that it compared one shard."""
    with Portd(shard(), target, one_shard=True, verify_every=0.1) as portd:
        portd.until(lambda status: status["verify"]["finished_at"] > 0)
        assert "one_shard=source" in portd.log()


@pytest.mark.parametrize("allowed", [("+info",), ("+cluster|info",)])
def test_check_refuses_one_shard(shard: Callable[..., Server], target: Server, allowed: tuple[str, ...]) -> None:
    """The preflight says what a sync does: 78, or a warning where --one-shard says that it is meant."""
    ends = ("--source", user_of(shard(), *allowed), "--target", target.url, "--json", "--sample-seconds", "0")

    def level(*more: str) -> tuple[str, int]:
        ended = run("check", *ends, *more, expect=None)
        (found,) = (each for each in json.loads(ended.out)["findings"] if each["subject"] == "source.cluster")
        return found["level"], ended.code

    assert level() == ("error", os.EX_CONFIG)
    assert level("--one-shard") == ("warning", 1)
