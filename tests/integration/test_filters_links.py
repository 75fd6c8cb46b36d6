"""Rules of links: what a start looks at, what a full sync removes and spares, what other links have, what a comparison sees."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import run
from tests.following import forget_history, names
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

CONFIG_ERROR = os.EX_CONFIG


def snapshot(source: Server, target: Server, code: int = os.EX_OK, **options: Any) -> str:
    """One snapshot under rules; the log."""
    with Portd(source, target, stop_after="snapshot", log_format="logfmt", **options) as portd:
        assert portd.wait() == code, portd.log()
        return portd.log()


def verified(source: Server, target: Server, *words: object) -> tuple[int, list[dict[str, object]]]:
    """The exit code of a comparison, and its lines."""
    ends = ("--source", source.url, "--target", target.url)
    ended = run("verify", *ends, "--settle-seconds", 0.1, "--json", *words, expect=None)
    return ended.code, [json.loads(line) for line in ended.out.splitlines()]


def test_counts_add_up_by_reason(source: Server, target: Server) -> None:
    """Keys read are applied, filtered, expired or failed, and those that are filtered say why."""
    source.client().mset({f"user:{number}": "x" for number in range(10)} | {"other": "x", "portd:checkpoint:x": "1"})
    source.client().hset("user:hash", "a", "1")
    source.client(db=2).set("user:1", "1")
    log = snapshot(source, target, include="user:", exclude_db=2, exclude_type="hash")
    assert "keys=14 applied=10 filtered=4 expired=0" in log
    assert "failed=0" in log
    assert 'left_out="key=2 db=1 type=1"' in log


def test_what_is_not_covered_stays(source: Server, target: Server) -> None:
    """A target with other keys than the rules cover is no reason to refuse, and a full resync removes covered ones only."""
    target.client().mset({"theirs": "1", "user": "1"})
    source.client().mset({"user:1": "1", "user:2": "1", "more": "1"})
    options: dict[str, Any] = {"include": "user:", "prune_limit": 100}
    snapshot(source, target, **options)
    source.client().delete("user:2")
    forget_history(source)
    assert "target pruned" in snapshot(source, target, **options)
    assert names(target) == {b"theirs", b"user", b"user:1"}


def test_what_is_covered_is_refused(source: Server, target: Server) -> None:
    """A key of a name that the rules cover would be overwritten or removed: the first start is refused as ever."""
    target.client().set("eu:1", "theirs")
    source.client().set("1", "ours")
    assert "is not empty (1 keys in db 0)" in snapshot(source, target, CONFIG_ERROR, add_prefix="eu:")


def test_a_share_of_what_the_rules_cover(source: Server, target: Server) -> None:
    """prune_limit counts what the rules cover: 5 of 10 keys are half of them, however many others there are."""
    target.client().mset({f"theirs:{number}": "1" for number in range(1000)})
    source.client().mset({f"user:{number}": "1" for number in range(10)})
    snapshot(source, target, include="user:")
    source.client().delete(*(f"user:{number}" for number in range(5)))
    forget_history(source)
    with Portd(source, target, stop_after="snapshot", include="user:") as portd:
        wait_for_sync(lambda: "held: nothing is overwritten or removed" in portd.log())
        assert "the target holds 10 keys, and the source" in portd.log()
    assert len(names(target)) == 1010


def test_renamed_keys_are_removed_under_their_names(source: Server, target: Server) -> None:
    """What the source deleted goes from where it was put, and what else is there stays."""
    source.client().mset({"a": "1", "b": "1", "old:c": "1"})
    options: dict[str, Any] = {"map_db": "0=4", "rename_prefix": "old:=new:", "prune_limit": 100}
    target.client().set("a", "theirs")
    snapshot(source, target, **options)
    source.client().delete("a", "old:c")
    forget_history(source)
    assert "removed=2" in snapshot(source, target, **options)
    assert set(target.client(db=4).keys()) == {b"b"}
    assert target.client().get("a") == b"theirs"


def test_other_rules_are_refused_or_copied_again(source: Server, target: Server) -> None:
    """A restart with other rules says what changed in kind; by choice the snapshot is copied again."""
    source.client().mset({"a:1": "1", "b:1": "1"})
    snapshot(source, target, include="a:")
    log = snapshot(source, target, CONFIG_ERROR, include=["a:", "b:"])
    assert "made by other rules" in log
    assert "include and exclude changed" in log
    assert "include and exclude gone" in snapshot(source, target, CONFIG_ERROR)
    assert "map_db, all_dbs_to and map_db_many added" in snapshot(
        source, target, CONFIG_ERROR, include="a:", all_dbs_to=1
    )
    assert names(target) == {b"a:1"}
    snapshot(source, target, include=["b:", "a:"], on_rules_change="full-sync")
    assert names(target) == {b"a:1", b"b:1"}
    assert "snapshot was applied by an earlier start" in snapshot(source, target, include=["a:", "b:"])


def test_a_full_sync_that_is_asked_for_comes_once(source: Server, target: Server) -> None:
    """Whatever the checkpoint says, and under other rules; what the source does not have goes, and the next session goes on."""
    source.client().mset({"a:1": "1", "b:1": "1"})
    with Portd(source, target, include="a:") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
    target.client().mset({"a:1": "other", "a:gone": "1", "b:gone": "1"})
    with Portd(source, target, include=["a:", "b:"], full_sync=True, prune="prune", prune_limit=100) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        assert (target.client().get("a:1"), target.client().get("b:1")) == (b"1", b"1")
        assert names(target) == {b"a:1", b"b:1"}
        source.client().client_kill_filter(_type="replica")
        portd.until(lambda status: status["source"]["connects"] == 2)
        assert portd.until_applied(source)["full_syncs"] == {"asked": 1}


def test_links_keep_apart_or_are_told_to_share(servers: ServerFactory) -> None:
    """A link whose keys may be another one's is refused and named; prefixes keep them apart; a resync spares the other."""
    first, second, target = servers(), servers(), servers()
    first.client().mset({"a": "1", "b": "1"})
    second.client().mset({"a": "2", "b": "2"})
    eu: dict[str, Any] = {"link": "eu", "add_prefix": "eu:", "prune_limit": 100}
    snapshot(first, target, **eu)
    assert "the link eu writes into all databases, eu:*" in snapshot(
        second, target, CONFIG_ERROR, link="us", existing="replace"
    )
    meets = snapshot(second, target, CONFIG_ERROR, link="us", add_prefix="eu:us:")
    assert "a key may be in both" in meets
    us: dict[str, Any] = {"link": "us", "add_prefix": "us:"}
    snapshot(second, target, **us)
    first.client().delete("a")
    forget_history(first)
    log = snapshot(first, target, **eu)
    assert "removed=1" in log, log
    assert names(target) == {b"eu:b", b"us:a", b"us:b"}
    snapshot(second, target, link="all", share_image=True, existing="replace")
    assert names(target) == {b"eu:b", b"us:a", b"us:b", b"a", b"b"}


def test_two_databases_do_not_become_one_unasked(source: Server, target: Server) -> None:
    """map_db onto a database that has keys of its own is refused with the way out, which works."""
    source.client().set("a", "0")
    source.client(db=3).set("b", "3")
    assert "the source has keys in its database 3, too" in snapshot(source, target, CONFIG_ERROR, map_db="0=3")
    assert "map_db puts the databases 0 and 1 into 3" in snapshot(source, target, CONFIG_ERROR, map_db="0=3,1=3")
    snapshot(source, target, map_db="0=3", map_db_many=True)
    assert set(target.client(db=3).keys()) == {b"a", b"b"}


def test_a_database_that_may_share_its_place_now_is_another_rule(source: Server, target: Server) -> None:
    """map_db_many takes keys that map_db alone leaves out: it stands in the checkpoint, as what else takes more does."""
    source.client().set("a", "0")
    with Portd(source, target, map_db="0=3") as portd:
        portd.until(lambda status: status["ready"])
        source.client(db=3).set("b", "3")
        portd.until(lambda status: status["dead_letters"].get("cross_rule") == 1)
        assert portd.terminate() == os.EX_OK
    with Portd(source, target, map_db="0=3", map_db_many=True) as portd:
        assert portd.wait() == CONFIG_ERROR, portd.log()
        assert "map_db, all_dbs_to and map_db_many changed" in portd.log()


def test_nothing_moves_to_where_another_database_goes(source: Server, target: Server, tmp_path: Path) -> None:
    """MOVE and COPY to a database in whose place another one is put are dead letters, from wherever; so is what is written there."""
    letters = tmp_path / "letters"
    with Portd(source, target, map_db="0=3", exclude_db=5, dead_letters=letters) as portd:
        portd.until(lambda status: status["ready"])
        ends: list[int] = []
        for db in (0, 1, 5):
            client: Any = source.client(db=db)
            for command in (
                ("SET", "a", db),
                ("COPY", "a", f"b{db}", "DB", 3),
                ("COPY", "a", "a", "DB", 3, "REPLACE"),
                ("DEL", "a"),
            ):
                client.execute_command(*command)
            client.set(f"m{db}", db)
            ends.append(int(client.info("replication")["master_repl_offset"]))
            assert client.move(f"m{db}", 3)
        source.client(db=3).set("c", 1)
        portd.until_applied(source)
        stream = portd.until(lambda status: status["stream"]["keys_owed"] == 0)["stream"]
        assert (target.client(db=3).keys(), target.client(db=1).keys()) == ([b"m0"], [b"m1"])
        assert (target.client(db=3).get("m0"), stream["keys_copied"]) == (b"0", 0)
    told = [json.loads(line) for line in letters.read_text().splitlines()]
    assert [each["command"] for each in told] == ["COPY", "COPY", "MOVE"] * 3 + ["SET"]
    assert {each["code"] for each in told} == {"cross_rule"}
    assert [each["offset"] for each in told if each["command"] == "MOVE"] == [end + 1 for end in ends]


def test_letters_say_both_names(servers: ServerFactory, tmp_path: Path) -> None:
    """What cannot be written is named as in the target and as in the source, and a restore finds it by the latter."""
    source, target = servers(), servers(databases=4)
    source.client().set("old:a", "1")
    source.client(db=2).set("old:b", "1")
    letters = tmp_path / "letters"
    rules: dict[str, Any] = {"rename_prefix": "old:=new:", "map_db": "2=9"}
    snapshot(source, target, dead_letters=letters, **rules)
    (letter,) = map(json.loads, letters.read_text().splitlines())
    assert (letter["db"], letter["key"], letter["source_db"], letter["source_key"]) == (9, "new:b", 2, "old:b")
    dump, other = tmp_path / "dump.rdb", servers()
    run("dump", "--source", source.url, "--output", dump)
    flags = ["--rename-prefix", "old:=new:", "--map-db", "2=9", "--only-letters", letters]
    run("restore", dump, "--target", other.url, *flags)
    assert (other.client().dbsize(), other.client(db=9).keys()) == (0, [b"new:b"])


@pytest.mark.parametrize("method", ["scan", "psync"])
def test_a_comparison_looks_at_what_the_rules_cover(method: str, source: Server, target: Server) -> None:
    """Under the rules of the sync the ends are equal; what differs, lacks or is too much has both names, and is repaired."""
    source.client().mset({f"old:{number}": "1" for number in range(20)} | {"left out": "1"})
    source.client(db=1).hset("h", "a", "1")
    source.client().set("portd:checkpoint:other", "1")
    target.client().mset({"theirs": "1", "eu:theirs": "1"})
    sync: dict[str, Any] = {"include": ["old:", "h"], "map_db": "0=5", "rename_prefix": "old:=new:", "exclude": "*9"}
    snapshot(source, target, **sync)
    rules = [
        "--include",
        "old:",
        "--include",
        "h",
        "--map-db",
        "0=5",
        "--rename-prefix",
        "old:=new:",
        "--exclude",
        "*9",
    ]
    rules += ["--method", method]
    assert verified(source, target, *rules)[0] == 0
    there = target.client(db=5)
    there.set("new:1", "2")
    there.delete("new:2")
    there.set("new:extra", "1")
    code, lines = verified(source, target, *rules)
    assert code == 1
    found = {(line["db"], line["key"], line["source_db"], line["source_key"], *line["differs"]) for line in lines[:-1]}  # type: ignore[misc]
    assert found == {
        (5, "new:1", 0, "old:1", "value"),
        (5, "new:2", 0, "old:2", "missing"),
        (5, "new:extra", 0, "old:extra", "extra"),
    }
    code, lines = verified(source, target, *rules, "--repair")
    assert (code, lines[-1]["repaired"]) == (0, 3)
    assert (there.get("new:1"), there.get("new:2"), there.exists("new:extra")) == (b"1", b"1", 0)
    assert names(target) == {b"theirs", b"eu:theirs"}


def test_a_comparison_by_type(source: Server, target: Server) -> None:
    """What is not of a wanted type at the source is neither missing nor extra; what is, is compared."""
    source.client().hset("h", "a", "1")
    source.client().set("s", "1")
    target.client().set("x", "1")
    snapshot(source, target, include_type="hash", existing="replace")
    assert names(target) == {b"h", b"x"}
    assert verified(source, target, "--include-type", "hash")[0] == 0
    target.client().delete("h")
    assert verified(source, target, "--include-type", "hash")[0] == 1


def test_a_comparison_of_databases_that_become_one(source: Server, target: Server) -> None:
    """Keys of every database are found where all of them went, and repaired from where they came."""
    source.client().set("a", "0")
    source.client(db=2).set("b", "2")
    snapshot(source, target, all_dbs_to=5)
    flags = ["--all-dbs-to", 5, "--method", "scan"]
    assert verified(source, target, *flags)[0] == 0
    target.client(db=5).delete("b")
    assert verified(source, target, *flags)[0] == 1
    code, lines = verified(source, target, *flags, "--repair")
    assert (code, lines[-1]["repaired"]) == (0, 1)
    assert target.client(db=5).get("b") == b"2"
