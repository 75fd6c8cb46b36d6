"""`portd ctl` on running syncs: what each command does, and what keeps it from being done."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from portd.controlsocket import CLIENTS, ask
from tests.compare import assert_equal
from tests.datasets import fill_strings
from tests.integration.test_held import ctl
from tests.process import Links, Portd, streaming
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.servers import Server


def asked(path: Path, *words: str, expect: int = 0) -> dict[str, Any]:
    """The answer to a command, as JSON."""
    shown = ctl(*words, "--socket", str(path), "--json")
    assert shown.returncode == expect, (shown.stdout, shown.stderr)
    answer: dict[str, Any] = json.loads(shown.stdout)
    return answer


def of_link(path: Path, *words: str, expect: int = 0) -> dict[str, Any]:
    """The same of a process with one link: what is said of that one."""
    (found,) = asked(path, *words, expect=expect)["links"]
    assert isinstance(found, dict)
    return found


def told(path: Path, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """The answer in words."""
    shown = ctl(*words, "--socket", str(path))
    assert shown.returncode == expect, (shown.stdout, shown.stderr)
    return shown


def test_status_and_position(source: Server, target: Server, tmp_path: Path) -> None:
    """What the page knows is told through the socket, and where both ends are."""
    fill_strings(source, 100)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path) as portd:
        portd.until(streaming)
        found = of_link(path, "status")
        assert found["process"]["phase"] == "streaming"
        assert "settings" not in found["process"]
        text = told(path, "status").stdout
        assert "phase            streaming" in text
        assert "ready            yes" in text
        source.client().set("a", "1")
        portd.until_applied(source)
        found = of_link(path, "position")
        assert found["replid"] == source.client().info("replication")["master_replid"]
        assert found["source"] >= found["received"] >= found["applied"] == found["checkpointed"] > 0
        assert "control command" not in portd.log(), "who only asks is not logged"


def test_a_pause_writes_nothing_and_loses_nothing(source: Server, target: Server, tmp_path: Path) -> None:
    """While it is paused the target stands still, the source is read on, and everybody who looks sees it."""
    fill_strings(source, 100)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path) as portd:
        portd.until(streaming)
        assert of_link(path, "pause")["changed"]
        assert not of_link(path, "pause")["changed"]
        assert f"uid={os.getuid()}" in portd.log()
        before = target.client().dbsize()
        for number in range(200):
            source.client().set(f"more:{number}", "x" * 100)
        end = int(source.client().info("replication")["master_repl_offset"])
        status = portd.until(lambda status: status["stream"]["read_offset"] >= end)
        assert status["phase"] == "paused"
        assert status["stream"]["lag_bytes"] > 200 * 100
        assert not status["ready"]
        assert target.client().dbsize() == before
        assert "portd ctl resume" in portd.get("", accept="text/html")
        assert 'portd_paused{link="default"} 1.0' in portd.get("metrics")
        refused = told(path, "drain", expect=1)
        assert "paused" in refused.stderr
        assert of_link(path, "resume")["changed"]
        assert of_link(path, "drain")["applied"] >= end
        portd.until(streaming)
        assert 'portd_paused{link="default"} 0.0' in portd.get("metrics")
        assert_equal(source, target)
        assert portd.terminate() == os.EX_OK


def test_a_stop_while_it_is_paused_writes_nothing_more(source: Server, target: Server, tmp_path: Path) -> None:
    """It ends at once; the next start has what was received asked for again, without a full sync."""
    fill_strings(source, 100)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, drain_seconds=60) as portd:
        portd.until(streaming)
        of_link(path, "pause")
        source.client().mset({f"more:{number}": "x" for number in range(50)})
        end = int(source.client().info("replication")["master_repl_offset"])
        portd.until(lambda status: status["stream"]["read_offset"] >= end)
        assert portd.terminate() == os.EX_OK
        assert "stopped while paused" in portd.log()
        assert target.client().exists("more:1") == 0
        portd.start()
        status = portd.until(streaming)
        assert (status["partial_syncs"], status["full_syncs"], status["paused"]) == (1, {}, None)
        assert_equal(source, target)


def test_a_pause_inside_of_a_snapshot(source: Server, target: Server, tmp_path: Path) -> None:
    """Lanes stand still, and go on where they were."""
    fill_strings(source, 20_000)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, max_target_ops=4000) as portd:
        portd.until(lambda status: status["phase"] == "snapshot" and status["snapshot"]["keys_applied"] > 0)
        of_link(path, "pause")
        applied = [
            portd.until(lambda status: status["phase"] == "paused")["target"]["lanes"][0]["replies"] for _ in range(2)
        ]
        assert applied[0] <= applied[1] < 20_000
        assert "snapshot is not applied yet" in told(path, "status").stdout
        assert "full sync is under way" in told(path, "handover", expect=1).stderr
        assert "full sync is under way" in told(path, "full-sync", "--yes", expect=1).stderr
        assert "not followed" in told(path, "drain", expect=1).stderr
        before = target.client().dbsize()
        assert before == target.client().dbsize() < 20_000
        told(path, "limit", "--max-target-ops", "0")
        told(path, "resume")
        portd.until(streaming)
        assert_equal(source, target)


def test_limits_of_an_operator_last_until_the_next_reload(source: Server, target: Server, tmp_path: Path) -> None:
    """They are shown as what they are, and the file's are back when that is read again, by whichever way."""
    path, file = tmp_path / "socket", tmp_path / "portd.toml"
    file.write_text("max_target_ops = 5000\n")
    with Portd(source, target, control_socket=path, config=file) as portd:
        portd.until(streaming)
        found = of_link(path, "limit")
        assert (found["max_target_ops"], found["temporary"]) == (5000, False)
        assert "control command" not in portd.log()
        text = told(path, "limit", "--max-target-ops", "700", "--max-target-bytes-per-second", "1MiB").stdout
        assert "max_target_ops 700, max_target_bytes_per_second 1048576; until the next reload" in text
        limit = portd.until(lambda status: status["target"]["limit"]["temporary"])["target"]["limit"]
        assert (limit["ops_per_second"], limit["bytes_per_second"]) == (700, 1 << 20)
        assert "set with portd ctl" in portd.get("", accept="text/html")
        assert "max_target_ops=700" in portd.log()
        found = of_link(path, "limit")
        assert found["configured"] == {"max_target_ops": 5000, "max_target_bytes_per_second": 0}
        assert asked(path, "reload")["limits_back"] == ["default"]
        assert of_link(path, "limit")["max_target_ops"] == 5000
        told(path, "limit", "--max-target-ops", "5000")
        assert not of_link(path, "limit")["temporary"], "it is what the settings say"
        file.write_text("max_target_ops = 900\n")
        answer = asked(path, "reload")
        assert (answer["changed"], answer["limits_back"]) == (["max_target_ops"], [])
        assert of_link(path, "limit")["max_target_ops"] == 900


def test_a_reload_tells_what_is_wrong(source: Server, target: Server, tmp_path: Path) -> None:
    """What a signal only logs, the answer says; without a file there is nothing to read."""
    path, file = tmp_path / "socket", tmp_path / "portd.toml"
    file.write_text("writers = 2\n")
    with Portd(source, target, control_socket=path, config=file) as portd:
        portd.until(streaming)
        assert "nothing has changed" in told(path, "reload").stdout
        file.write_text("writers = 3\nmemtrace = 60\n")
        text = told(path, "reload").stdout
        assert "changed: memtrace" in text
        assert "takes effect at the next start: writers" in text
        file.write_text('writers = "many"\n')
        refused = told(path, "reload", expect=1)
        assert "writers" in refused.stderr
        assert "nothing was changed" in refused.stderr
        assert portd.log().count("reload failed") == 1
    with Portd(source, target, control_socket=path) as portd:
        portd.until(streaming)
        assert "without --config" in told(path, "reload", expect=1).stderr


def test_a_comparison_on_demand(source: Server, target: Server, tmp_path: Path) -> None:
    """With --wait it exits as portd verify does; without, the result comes where results come."""
    fill_strings(source, 200)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path) as portd:
        portd.until(streaming)
        assert "EQUAL: 200 equal" in told(path, "verify", "--wait").stdout
        target.client().set("only:target", "1")
        found = of_link(path, "verify", "--wait", "--timeout", "60", expect=1)
        assert (found["result"], found["keys"]["extra"], found["exit_code"]) == ("different", 1, 1)
        target.client().delete("only:target")
        assert "a comparison has begun" in told(path, "verify").stdout
        portd.until(lambda status: status["verify"]["runs"] == {"equal": 2, "different": 1})
        told(path, "pause")
        assert "paused" in told(path, "verify", expect=1).stderr
        assert portd.terminate() == os.EX_OK


def test_a_full_sync_on_demand(source: Server, target: Server, tmp_path: Path) -> None:
    """It has to be meant; everything is copied anew, while writes go on."""
    fill_strings(source, 500)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path) as portd:
        portd.until(streaming)
        target.client().delete("key:0000000007")
        refused = ctl("full-sync", "--socket", str(path))
        assert (refused.returncode, "--yes" in refused.stderr) == (os.EX_USAGE, True)
        told(path, "full-sync", "--yes")
        source.client().set("meanwhile", "1")
        status = portd.until(lambda status: status["full_syncs"] == {"first": 1, "asked": 1} and streaming(status))
        assert status["partial_syncs"] == 0
        portd.until_applied(source)
        assert_equal(source, target)
        assert f"uid={os.getuid()}" in portd.log()
        source.kill()
        source.start()  # without its data
        portd.until(lambda status: status["phase"] == "held")
        assert "held already" in told(path, "full-sync", "--yes", expect=1).stderr


def test_a_handover(source: Server, target: Server, tmp_path: Path) -> None:
    """What was received is applied; the answer comes when another process can have the link, and it goes on without a copy."""
    fill_strings(source, 100)
    path = tmp_path / "socket"
    with ExitStack() as stack:
        portd = stack.enter_context(Portd(source, target, control_socket=path))
        portd.until(streaming)
        second = stack.enter_context(Portd(source, target))
        assert second.wait() == os.EX_TEMPFAIL, "the link is taken"
        source.client().mset({f"more:{number}": "x" for number in range(1000)})
        found = of_link(path, "handover")
        assert found["released"]
        assert found["drained"]
        assert found["applied"] == found["received"]
        assert target.client().exists("portd:checkpoint:default:lease") == 0
        second.start()
        status = second.until(streaming)
        assert (status["partial_syncs"], status["full_syncs"]) == (1, {})
        assert portd.wait() == os.EX_OK
        assert_equal(source, target)
        assert ctl("status", "--socket", str(path)).returncode == os.EX_UNAVAILABLE


def test_a_handover_to_a_standby(source: Server, target: Server, tmp_path: Path) -> None:
    """The one that waits goes on; as long as it waits, it has nothing to pause or to hand over."""
    fill_strings(source, 100)
    path, other = tmp_path / "socket", tmp_path / "other"
    with ExitStack() as stack:
        portd = stack.enter_context(Portd(source, target, control_socket=path))
        portd.until(streaming)
        second = stack.enter_context(Portd(source, target, control_socket=other, standby=True))
        second.until(lambda status: status["phase"] == "standby")
        for words in (("handover",), ("pause",), ("full-sync", "--yes")):
            assert "it stands by" in told(other, *words, expect=1).stderr
        assert "standby" in told(other, "status").stdout
        assert of_link(path, "handover")["released"]
        status = second.until(streaming)
        assert (status["partial_syncs"], status["full_syncs"]) == (1, {})
        source.client().set("after", "1")
        second.until_applied(source)
        assert_equal(source, target)


def test_a_handover_to_nobody(source: Server, target: Server, tmp_path: Path) -> None:
    """A lease that cannot be given back is said to be so; the process ends all the same."""
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, drain_seconds=1, connect_seconds=1) as portd:
        portd.until(streaming)
        target.kill()
        portd.until(lambda status: status["phase"] == "connecting")
        refused = told(path, "handover", expect=1)
        assert "the lease could not be given back" in refused.stderr
        assert portd.wait() == os.EX_OK
        target.start()


async def test_clients_that_wait_and_go_away(source: Server, target: Server, tmp_path: Path) -> None:
    """Those who wait block nobody; a command that nobody waits for any more ends, and the sync goes on."""
    path = tmp_path / "socket"

    def drains(count: int) -> bool:
        """So many are waited for."""
        return portd.log().count("command=drain") == count

    with Portd(source, target, control_socket=path, log_level="debug") as portd:
        await asyncio.to_thread(portd.until, streaming)
        far = {"offset": 1 << 50, "timeout": 600.0}
        waiting = []
        for number in range(CLIENTS + 4):
            waiting.append(asyncio.create_task(ask(path, "drain", far, seconds=None)))
            await asyncio.to_thread(wait_for_sync, partial(drains, number + 1))
        answers = await asyncio.gather(*(ask(path, "position") for _ in range(3)))
        assert all(answer["ok"] for answer in answers)
        for task in waiting[1:]:
            task.cancel()
        await asyncio.wait(waiting[1:])
        await asyncio.to_thread(wait_for_sync, lambda: portd.log().count("nobody waits for drain") == CLIENTS + 3)
        handed = [asyncio.create_task(ask(path, "handover", seconds=None)) for _ in range(2)]
        assert [(await task)["ok"] for task in handed] == [True, True]
        answer = await waiting[0]
        assert "the link has ended" in answer["error"]
        assert await asyncio.to_thread(portd.wait) == os.EX_OK


async def test_arguments_that_are_none(source: Server, target: Server, tmp_path: Path) -> None:
    """Whatever somebody writes into the socket is answered, and changes nothing."""
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path) as portd:
        await asyncio.to_thread(portd.until, streaming)
        for command, arguments in (
            ("pause", {"link": 5}),
            ("pause", {"links": "default"}),
            ("pause", {"link": "other"}),
            ("limit", {"max_target_ops": -1}),
            ("limit", {"max_target_ops": True}),
            ("limit", {"max_target_ops": "5"}),
            ("drain", {"offset": 1.5}),
            ("drain", {"timeout": 0}),
            ("verify", {"wait": "yes"}),
            ("full-sync", {"confirm": "another"}),
            ("full-sync", {"confirm": False}),
            ("full-sync", {}),
            ("reload", {"link": "default"}),
        ):
            answer = await ask(path, command, arguments)
            assert not answer["ok"], (command, arguments)
            assert answer["error"]
            assert answer["hint"]
        status = await asyncio.to_thread(portd.status)
        assert status is not None
        assert (status["phase"], status["full_syncs"]) == ("streaming", {"first": 1})
        answer = await ask(path, "drain", {"offset": 1 << 50, "timeout": 0.05})
        assert "was not reached within 0.05 s" in answer["error"]


def test_wrong_words(tmp_path: Path) -> None:
    """A flag of another command, and values that are none, are wrong usage before anybody is asked."""
    for words in (
        ("pause", "--offset", "1"),
        ("pause", "--yes"),
        ("drain", "--offset", "-1"),
        ("drain", "--wait"),
        ("verify", "--timeout", "5"),
        ("limit", "--max-target-bytes-per-second", "much"),
        ("hold",),
        (),
    ):
        shown = ctl(*words, "--socket", str(tmp_path / "none"))
        assert shown.returncode == os.EX_USAGE, (words, shown.stderr)
    shown = ctl("pause", "--socket", str(tmp_path / "none"))
    assert shown.returncode == os.EX_UNAVAILABLE


def test_several_links(source: Server, target: Server, pair: tuple[Server, Server], tmp_path: Path) -> None:
    """A command is for the link that is named, or for each of them; one that is handed over leaves the other alone."""
    tables: dict[str, dict[str, object]] = {
        "eu": {"source": source, "target": target},
        "us": {"source": pair[0], "target": pair[1]},
    }
    path = tmp_path / "socket"
    with Links(tables, control_socket=path) as portd:
        portd.until(lambda status: bool(status["ready"]))
        told(path, "pause", "--link", "us")
        assert [each["paused"] for each in asked(path, "position")["links"]] == [False, True]
        answer = asked(path, "pause")
        assert [(each["link"], each["changed"]) for each in answer["links"]] == [("eu", True), ("us", False)]
        assert "eu: paused" in answer["text"]
        answer = asked(path, "handover", expect=1)
        assert "eu: it is paused" in answer["error"]
        assert "us: it is paused" in answer["error"]
        assert "eu: it goes on" in told(path, "resume").stdout
        assert "several links: eu, us" in told(path, "full-sync", "--yes", expect=1).stderr
        told(path, "full-sync", "--yes", "--link", "us")
        portd.until_link("us", lambda status: status["full_syncs"].get("asked") == 1 and streaming(status))
        assert of_link(path, "handover", "--link", "eu")["released"]
        portd.until_link("eu", lambda status: bool(status["phase"] == "stopped"))
        assert "it has ended" in told(path, "pause", "--link", "eu", expect=1).stderr
        pair[0].client().set("after", "1")
        portd.until_link_applied("us", pair[0])
        assert pair[1].client().get("after") == b"1"
        answer = asked(path, "drain", expect=1)
        assert [each["ok"] for each in answer["links"]] == [False, True]
        assert of_link(path, "handover", "--link", "us")["released"]
        assert portd.wait() == os.EX_OK
