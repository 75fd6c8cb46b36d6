"""What an end refuses for good ends with 77, so that the unit does not start again; what passes is waited for."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.following import forget_history
from tests.process import Portd, streaming
from tests.servers import free_port
from tests.wire import Argument, Wire

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

SECRET = "hunter2-is-no-word-of-any-message"


def at(server: Server, login: str = "") -> str:
    """URL with another login than the server's own."""
    return f"redis://{login}127.0.0.1:{server.port}"


def ended(portd: Portd, code: int, *said: str) -> None:
    """Waits for the end of a sync: its code, what it says, and that it gives no secret away."""
    assert portd.wait() == code, portd.log()
    for words in said:
        assert words in portd.log(), portd.log()
    assert SECRET not in portd.log()


@pytest.mark.parametrize(
    ("login", "password", "said"),
    [
        (f":{SECRET}@", "right", "refused the credentials (WRONGPASS)"),
        (f"nobody:{SECRET}@", "", "refused the credentials (WRONGPASS)"),
        ("", "right", "wants a password and got none (NOAUTH)"),
        (f":{SECRET}@", "", "has no password, but one was given (ERR)"),
    ],
    ids=["wrong", "unknown-user", "none", "too-many"],
)
def test_a_login_that_the_target_refuses(
    login: str, password: str, said: str, source: Server, servers: ServerFactory
) -> None:
    """77 from sync, status and verify, with the address and without the password."""
    target = servers(**({"requirepass": password} if password else {}))
    with Portd(source, at(target, login)) as portd:
        ended(portd, os.EX_NOPERM, f"{at(target)} {said}")
    for words in (
        ("status", "--target", at(target, login)),
        ("verify", "--source", source.url, "--target", at(target, login)),
        ("verify", "--source", at(target, login), "--target", source.url),
    ):
        shown = run(*words, expect=os.EX_NOPERM).err
        assert f"{at(target)} {said}" in shown
        assert SECRET not in shown
        assert "Traceback" not in shown


def test_a_password_that_is_changed_while_a_sync_runs(source: Server, target: Server, tmp_path: Path) -> None:
    """The next connection is refused: 77."""
    client = target.client()
    client.acl_setuser("porter", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], categories=["+@all"])
    file = tmp_path / "password"
    file.write_text(SECRET)
    with Portd(source, at(target, "porter@"), target_password_file=file) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client.acl_setuser("porter", passwords=["+other", f"-{SECRET}"])
        client.client_kill_filter(user="porter")
        ended(portd, os.EX_NOPERM, f"{at(target)} refused the credentials (WRONGPASS)")


@pytest.mark.parametrize(
    ("keys", "commands", "said"),
    [
        ("*", ["+@all", "-exists"], "may not run them: exists"),
        ("data:*", ["+@all"], "NOPERM"),
    ],
    ids=["command", "checkpoint"],
)
def test_a_user_who_may_not_do_what_a_sync_does(
    keys: str, commands: list[str], said: str, source: Server, target: Server
) -> None:
    """77: a command is missing, or the key of the checkpoint is out of the user's patterns."""
    target.client().acl_setuser("weak", enabled=True, passwords=["+pw"], keys=[keys], commands=commands)
    with Portd(source, at(target, "weak:pw@")) as portd:
        ended(portd, os.EX_NOPERM, said)


def test_a_read_only_replica_is_a_mistake_in_the_settings(source: Server, target: Server) -> None:
    """78, as `check` says."""
    target.client().replicaof("127.0.0.1", "1")
    with Portd(source, target) as portd:
        ended(portd, os.EX_CONFIG, "read-only replica")


def test_a_key_that_our_user_may_not_write_is_a_dead_letter(source: Server, target: Server) -> None:
    """NOPERM on one key, in snapshot and stream, ends nothing."""
    target.client().acl_setuser(
        "porter", enabled=True, passwords=["+pw"], keys=["ok*", "portd:*"], categories=["+@all"]
    )
    source.client().mset({"ok1": "1", "private1": "1"})
    with Portd(source, at(target, "porter:pw@")) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.client().set("private2", "2")
        source.client().set("ok2", "2")
        portd.until_applied(source)
        status = portd.status()
        assert status is not None
        assert status["dead_letters"] == {"NOPERM": 2}
        assert "private2" in portd.log()
        assert target.client().mget("ok1", "ok2", "private1", "private2") == [b"1", b"2", None, None]


def test_letters_of_a_large_transaction_name_key_database_and_offset(
    source: Server, target: Server, tmp_path: Path
) -> None:
    """Nothing of a transaction is held that is larger than a group: what failed in it is read again."""
    letters = tmp_path / "letters.jsonl"
    source.client(db=3).rpush("list", "x")
    with Portd(source, target, dead_letters=letters) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        target.client(db=3).delete("list")
        target.client(db=3).set("list", "no list any more")
        with Wire(source, db=3) as wire:
            fill: list[Sequence[Argument]] = [("SET", f"key{number}", "v" * 100) for number in range(40_000)]
            fill[31_415] = ("EVAL", "return redis.call('RPUSH', KEYS[1], 'y')", 1, "list")
            fill[38_000] = ("RPUSH", "list", "z")
            wire.many([("MULTI",), *fill, ("EXEC",)])
        portd.until_applied(source)
        source.client().set("last", "1")
        status = portd.until_applied(source)
        assert status["dead_letters"] == {"WRONGTYPE": 2}
        stream = status["stream"]
        assert stream["commands_read"] == (
            stream["commands_applied"] + stream["commands_failed"] + stream["commands_filtered"]
        )
        assert portd.terminate() == 0, portd.log()
    found = [json.loads(line) for line in letters.read_text().splitlines()]
    assert [(each["command"], each["key"], each["db"]) for each in found] == [("RPUSH", "list", 3)] * 2
    assert found[1]["offset"] - found[0]["offset"] > 6_000 * 100
    assert target.client(db=3).dbsize() == 40_000 - 2 + 1


def test_keys_that_may_not_be_seen_are_told_nowhere(source: Server, target: Server, tmp_path: Path) -> None:
    """With --redact-keys, what was refused is told and kept without the key; so is what ends the sync because of it."""
    letters = tmp_path / "letters.jsonl"
    source.client().set("private1", "1")
    target.client().acl_setuser("porter", enabled=True, passwords=["+pw"], keys=["portd:*"], categories=["+@all"])
    with Portd(source, at(target, "porter:pw@"), redact_keys=True, on_refusal="stop", dead_letters=letters) as portd:
        ended(portd, os.EX_DATAERR, "the target refused", "(redacted)")
        assert "private" not in portd.log()
    assert "(redacted)" in letters.read_text()
    assert "private" not in letters.read_text()


def test_what_is_not_there_is_told_apart(source: Server, target: Server) -> None:
    """69 with cause and address, for both ends."""
    address = f"redis://127.0.0.1:{free_port()}"
    with Portd(address, target) as portd:
        ended(portd, os.EX_UNAVAILABLE, f"nobody listens at the source's address ({address})")
    with Portd(source, address) as portd:
        ended(portd, os.EX_UNAVAILABLE, f"the target {address} cannot be reached")


def test_a_target_that_may_evict_the_checkpoint_is_named(source: Server, servers: ServerFactory) -> None:
    """allkeys-*: a warning at the start, and the cause when the checkpoint is gone; not in import mode, which evicts nothing."""
    target = servers(maxmemory="200mb", maxmemory_policy="allkeys-lru")
    with Portd(source, target, expiry_gap="postpone") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        assert "the target may evict the checkpoint" in portd.log()
        for key in target.client().scan_iter("portd:checkpoint:*"):
            target.client().delete(key)  # as an eviction does
        source.client().set("a", "1")
        portd.until(lambda status: sum(status["full_syncs"].values()) == 2)
        assert "perhaps the target evicted the key (allkeys-lru): CONFIG SET maxmemory-policy noeviction" in portd.log()
        portd.until_applied(source)
        portd.terminate()
    target.client().delete("portd:checkpoint:default")
    with Portd(source, target) as portd:
        ended(portd, os.EX_CONFIG, "is not empty", "its policy allkeys-lru may have evicted a checkpoint")
    target.client().flushall()
    with Portd(source, target, expiry_gap="import-mode") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        assert "may evict" not in portd.log()


def test_a_target_that_refuses_what_a_full_sync_begins_with(source: Server, target: Server) -> None:
    """The source has agreed to one by then: its connection is ended, and it is asked again when the target takes writes."""
    source.client().set("key", "value")
    with Portd(source, target) as portd:
        portd.until(streaming)
        target.client().config_set("maxmemory", 1)
        forget_history(source)
        with Wire(source) as wire:
            wire.call("CLIENT", "KILL", "TYPE", "replica")
        portd.until(lambda status: any(each["side"] == "target" for each in status["refusals"]["now"]))
        target.client().config_set("maxmemory", 0)
        source.client().set("key", "newer")
        portd.until(lambda _: target.client().get("key") == b"newer")
        assert portd.log().count('event="full sync"') >= 2, portd.log()
