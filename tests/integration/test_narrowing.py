"""Rules that take less, taken up by a running sync: exactly, between two transactions, and known to the checkpoint."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.datasets import fill_strings
from tests.integration.test_ctl import asked, told
from tests.process import Links, Portd, streaming
from tests.servers import wait_for_sync
from tests.writer import Writer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

CHECKPOINT = "portd:checkpoint:default"


def rules_there(target: Server) -> str:
    """What the checkpoint says of the rules by which the data was made."""
    found: Any = target.client().hget(CHECKPOINT, "rules")
    return str((found or b"").decode())


class Load(Writer):
    """Transactions that change a key of each kind twice, for as long as it is entered."""

    def __init__(self, source: Server) -> None:
        super().__init__()
        self._client = source.client()
        self.rounds = 0

    def _write(self) -> None:
        while not self._stop.is_set():
            with self._client.pipeline(transaction=True) as pipe:
                for key in ("a:x", "b:x", "a:y", "b:y"):
                    pipe.incr(key)
                pipe.execute()
            self.rounds += 1


def counters(server: Server) -> dict[str, int]:
    """The keys of the load."""
    found = server.client().mget("a:x", "a:y", "b:x", "b:y")
    return dict(zip(("a:x", "a:y", "b:x", "b:y"), (int(each or 0) for each in found), strict=True))


def assert_narrowed(source: Server, target: Server) -> None:
    """What is taken is equal, and what is not stands where one transaction had ended."""
    there, here = counters(target), counters(source)
    assert (there["a:x"], there["a:y"]) == (here["a:x"], here["a:y"])
    assert there["b:x"] == there["b:y"] <= here["b:x"]


def test_less_is_taken_from_a_transaction_on(source: Server, target: Server, tmp_path: Path) -> None:
    """Under load, without a full sync; what is left over is told, and compared no more; the next start goes on."""
    source.client().mset({"b:left": "1", "c": "1"})
    path, file = tmp_path / "socket", tmp_path / "portd.toml"
    file.write_text("")
    with Portd(source, target, control_socket=path, config=file) as portd:
        portd.until(streaming)
        with Load(source) as load:
            wait_for_sync(lambda: load.rounds > 100)
            file.write_text('exclude = ["b:"]\n')
            answer = asked(path, "reload")
            (found,) = answer["narrower"]
            assert found["left"] == 3
            assert sorted(found["some"]) == ["db 0 'b:left'", "db 0 'b:x'", "db 0 'b:y'"]
            assert "3 keys of the target are not taken any more, and stay" in answer["text"]
            assert "changed: " not in answer["text"]
            rounds = load.rounds
            wait_for_sync(lambda: load.rounds > rounds + 100)
        portd.until_applied(source)
        assert_narrowed(source, target)
        assert counters(target)["b:x"] < counters(source)["b:x"]
        assert rules_there(target).startswith("keys=")
        assert target.client().get("b:left") == b"1"
        assert "EQUAL" in told(path, "verify", "--wait").stdout
        status = portd.until(streaming)
        assert status["full_syncs"] == {"first": 1}
        assert status["settings"]["exclude"] == ["b:"]
        assert "the rules are narrower" in portd.log()
        assert "nothing has changed" in told(path, "reload").stdout
        assert portd.terminate() == os.EX_OK
        source.client().mset({"a:x": "7", "b:x": "7"})
        portd.start()
        status = portd.until(lambda status: streaming(status) and status["partial_syncs"] == 1)
        assert status["full_syncs"] == {}
        assert (target.client().get("a:x"), target.client().get("b:x") == b"7") == (b"7", False)
        assert portd.terminate() == os.EX_OK
        file.write_text("")
        portd.start()
        assert portd.wait() == os.EX_CONFIG
        assert "made by other rules" in portd.log()


def test_what_is_not_narrower_is_refused(source: Server, target: Server, tmp_path: Path) -> None:
    """With words, and nothing changes; with on_rules_change full-sync it waits for a start."""
    path, file = tmp_path / "socket", tmp_path / "portd.toml"
    file.write_text('include = ["a:"]\n')
    with Portd(source, target, control_socket=path, config=file) as portd:
        portd.until(streaming)
        before = rules_there(target)
        for text, words in (
            ('include = ["a:", "b:"]', "include 'b:' is within none of those before"),
            ("memtrace = 60", "every name is taken"),
            ('include = ["a:"]\nadd_prefix = "eu:"', "add_prefix maps otherwise"),
            ('include = ["a:1"]\nmap_db = ["0=1"]', "map_db maps otherwise"),
        ):
            file.write_text(text + "\n")
            refused = told(path, "reload", expect=1)
            assert words in refused.stderr
            assert "nothing was changed" in refused.stderr
            assert "78" in refused.stderr
        assert "event=memtrace" not in portd.log()
        source.client().mset({"a:1": "1", "b:1": "1"})
        portd.until_applied(source)
        assert target.client().mget("a:1", "b:1") == [b"1", None]
        assert rules_there(target) == before
        file.write_text('include = ["a:", "b:"]\non_rules_change = "full-sync"\n')
        text = told(path, "reload").stdout
        assert "takes effect at the next start: include, on_rules_change" in text
        file.write_text('include = ["a:1"]\n')
        portd.signal(signal.SIGHUP)
        wait_for_sync(lambda: "the rules are narrower" in portd.log(), dump=portd.log)
        assert rules_there(target) != before
        source.client().set("a:2", "1")
        portd.until_applied(source)
        assert target.client().exists("a:2") == 0


def test_less_is_taken_behind_a_snapshot(source: Server, target: Server, tmp_path: Path) -> None:
    """A snapshot is copied by the rules that it began with; the first transaction behind it is left to narrower ones."""
    fill_strings(source, 40_000)  # more than goes in one piece, and takes half a minute until the limit goes
    source.client().mset({"b:1": "1", "a:1": "1"})
    file = tmp_path / "portd.toml"
    file.write_text("max_target_ops = 1500\n")
    with Portd(source, target, config=file) as portd:
        portd.until(lambda status: status["phase"] == "snapshot" and status["snapshot"]["keys_applied"] > 0)
        before = rules_there(target)
        file.write_text('exclude = ["b:"]\n')
        portd.signal(signal.SIGHUP)
        wait_for_sync(lambda: "the rules are narrower" in portd.log(), dump=portd.log)
        status = portd.until(streaming)
        assert status["snapshot"]["keys_filtered"] == 0
        assert rules_are_others(target, before)
        source.client().mset({"b:1": "2", "a:1": "2"})
        portd.until_applied(source)
        assert target.client().mget("a:1", "b:1") == [b"2", b"1"]


def test_a_target_that_is_away_is_not_asked_behind_ones_back(source: Server, target: Server, tmp_path: Path) -> None:
    """It has the keys of other links, which narrower rules must not meet: they are refused with words, and nothing changes."""
    path, file = tmp_path / "socket", tmp_path / "portd.toml"
    file.write_text("")
    with Portd(source, target, control_socket=path, config=file) as portd:
        portd.until(streaming)
        before = rules_there(target)
        target.kill()
        portd.until(lambda status: status["phase"] == "connecting")
        file.write_text('exclude = ["b:"]\n')
        refused = told(path, "reload", expect=1).stderr
        assert refused.startswith(f"portd: the rules stay: the target {target.url} cannot be reached")
        target.start()
        portd.until(streaming)
        source.client().mset({"a:1": "1", "b:1": "1"})
        portd.until_applied(source)
        assert target.client().mget("a:1", "b:1") == [b"1", b"1"]
        assert not rules_are_others(target, before)
        assert asked(path, "reload")["narrower"][0]["left"] == 1


def test_less_is_taken_inside_of_a_pause(source: Server, target: Server, tmp_path: Path) -> None:
    """From where the target stands: what waits in the spool is left to the narrower rules."""
    path, file = tmp_path / "socket", tmp_path / "portd.toml"
    file.write_text("")
    with Portd(source, target, control_socket=path, config=file) as portd:
        portd.until(streaming)
        source.client().mset({"a:1": "1", "b:1": "1"})
        portd.until_applied(source)
        end = int(source.client().info("replication")["master_repl_offset"])
        told(path, "pause")
        source.client().mset({"a:1": "2", "b:1": "2"})
        file.write_text('exclude = ["b:"]\n')
        (found,) = asked(path, "reload")["narrower"]
        assert end <= found["offset"] <= int(source.client().info("replication")["master_repl_offset"]) - len("a:1b:1")
        assert found["left"] == 1
        assert target.client().get("a:1") == b"1"
        told(path, "resume")
        portd.until_applied(source)
        assert target.client().mget("a:1", "b:1") == [b"2", b"1"]


def test_a_link_of_several(source: Server, target: Server, pair: tuple[Server, Server], tmp_path: Path) -> None:
    """Its rules change, and no other's; a flag wins over the file."""
    tables: dict[str, dict[str, object]] = {
        "eu": {"source": source, "target": target},
        "us": {"source": pair[0], "target": pair[1]},
    }
    path = tmp_path / "socket"
    with Links(tables, control_socket=path) as portd:
        portd.until(lambda status: bool(status["ready"]))
        text = portd.file.read_text()
        portd.file.write_text(text.replace('name = "us"\n', 'name = "us"\nexclude = ["b:"]\n'))
        answer = asked(path, "reload")
        assert [each["link"] for each in answer["narrower"]] == ["us"]
        assert answer["needs_restart"] == []
        for server in (source, pair[0]):
            server.client().mset({"a:1": "1", "b:1": "1"})
        portd.until_link_applied("eu", source)
        portd.until_link_applied("us", pair[0])
        assert target.client().mget("a:1", "b:1") == [b"1", b"1"]
        assert pair[1].client().mget("a:1", "b:1") == [b"1", None]
        portd.file.write_text(text)
        assert "link us: the rules are not narrower" in told(path, "reload", expect=1).stderr


def test_links_that_would_meet(source: Server, target: Server, pair: tuple[Server, Server], tmp_path: Path) -> None:
    """Rules under which the next start would be refused beside another link are not taken up."""
    tables: dict[str, dict[str, object]] = {
        "eu": {"source": source, "target": target},
        "us": {"source": pair[0], "target": target, "existing": "replace"},
    }
    path = tmp_path / "socket"
    with Links(tables, control_socket=path) as portd:
        portd.until(lambda status: bool(status["ready"]))
        text = portd.file.read_text()
        portd.file.write_text(text.replace('name = "eu"\n', 'name = "eu"\nexclude = ["b:"]\n'))
        for _ in range(2):
            refused = told(path, "reload", expect=1)
            assert "the rules of eu stay: the link us writes into all databases" in refused.stderr
            assert "share_image" in refused.stderr
        source.client().set("b:1", "1")
        portd.until_link_applied("eu", source)
        assert target.client().get("b:1") == b"1"


def test_commands_are_left_out_from_now_on(source: Server, target: Server, tmp_path: Path) -> None:
    """`exclude_command` narrows, too."""
    path, file = tmp_path / "socket", tmp_path / "portd.toml"
    file.write_text('exclude_command = ["INCR"]\n')
    with Portd(source, target, control_socket=path, config=file) as portd:
        portd.until(streaming)
        file.write_text('exclude_command = ["INCR", "APPEND"]\n')
        assert asked(path, "reload")["narrower"][0]["left"] == 0
        client = source.client()
        client.set("k", "v")
        client.append("k", "w")
        portd.until_applied(source)
        assert target.client().get("k") == b"v"
        file.write_text('exclude_command = ["APPEND"]\n')
        assert "exclude_command INCR is gone" in told(path, "reload", expect=1).stderr


@pytest.mark.deep
def test_a_kill_at_any_moment(source: Server, target: Server, tmp_path: Path) -> None:
    """The checkpoint says by which rules the data was made: exactly the start with those goes on, and nothing is lost or torn."""
    chance, file = random.Random(5), tmp_path / "portd.toml"
    file.write_text("")
    wide = ""
    with Portd(source, target, config=file) as portd, Load(source):
        for number in range(8):
            portd.until(streaming)
            before, after = rules_there(target), partial(rules_are_others, target, rules_there(target))
            narrow = f"exclude = {json.dumps(['b:', *(f'z:{each}:' for each in range(number))])}\n"
            file.write_text(narrow)
            portd.signal(signal.SIGHUP)
            if number % 2:
                wait_for_sync(after, dump=portd.log)  # it has not heard of it, perhaps
            else:
                time.sleep(chance.random() * 0.03)
            portd.kill()
            taken = rules_there(target) != before
            file.write_text(wide if taken else narrow)
            portd.start()
            assert portd.wait() == os.EX_CONFIG, "the data was made by other rules"
            wide = narrow if taken else wide
            file.write_text(wide)
            portd.start()
            status = portd.until(streaming)
            assert (status["partial_syncs"], status["full_syncs"]) == (1, {})
    assert wide
    with Portd(source, target, config=file) as portd:
        portd.until(streaming)
        portd.until_applied(source)
        assert_narrowed(source, target)
        assert portd.terminate() == os.EX_OK


def rules_are_others(target: Server, before: str) -> bool:
    """The data is said to be made by other rules than before."""
    return rules_there(target) != before
