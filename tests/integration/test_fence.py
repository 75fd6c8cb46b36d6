"""Every write of portd takes effect only while its epoch stands in the target, however late its bytes arrive."""

from __future__ import annotations

import contextlib
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from portd.target.capabilities import EVICTING_COMMANDS
from tests.compare import assert_equal
from tests.datasets import fill_strings
from tests.permissions import least_user
from tests.process import Portd
from tests.relay import Hold, Relay, holding
from tests.servers import PATIENCE_SECONDS, wait_for_sync

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Server

CHECKPOINT = "portd:checkpoint:default"
LEASE = f"{CHECKPOINT}:lease"
EPOCH = f"{CHECKPOINT}:epoch"
KEYS = 3000


@pytest.fixture(params=["all", "least"])
def login(request: pytest.FixtureRequest, target: Server) -> str:
    """For URLs of the target: of a user who may do everything, or what the documents demand and nothing more."""
    return least_user(target) if request.param == "least" else ""


def streaming(portd: Portd) -> None:
    """Waits until it follows the stream."""
    portd.until(lambda status: status["phase"] == "streaming")


def caught(hold: Hold) -> None:
    """Waits until the bytes are there."""
    assert hold.caught.wait(PATIENCE_SECONDS)


def arrive(hold: Hold) -> None:
    """Lets the bytes through, and waits until the target has read them."""
    hold.release()
    assert hold.over.wait(PATIENCE_SECONDS)


def overwrite(source: Server) -> None:
    """Another value for each key of `fill_strings`, and none for some."""
    pipe = source.client().pipeline(transaction=False)
    for number in range(KEYS):
        key = f"key:{number:010d}"
        pipe.set(key, "new") if number % 3 else pipe.delete(key)
    pipe.execute()


def let_the_lease_expire(target: Server) -> None:
    """As when nobody has renewed it for 15 s."""
    target.client().pexpire(LEASE, 1)
    wait_for_sync(lambda: not target.client().exists(LEASE))


def follow_past(hold: Hold, portd: Portd, source: Server) -> None:
    """Bytes of the snapshot are held back until the stream has written the same keys; they come behind it."""
    caught(hold)
    streaming(portd)
    overwrite(source)
    portd.until_applied(source)
    arrive(hold)
    assert portd.terminate() == os.EX_OK


def test_bytes_of_a_lost_connection_arrive_behind_the_stream(source: Server, target: Server, login: str) -> None:
    """A lane's connection breaks in the snapshot, and what a router has of it comes late: no key goes back."""
    fill_strings(source, KEYS, 100)
    with (
        Relay(target.port) as relay,
        Portd(source.url, f"redis://{login}127.0.0.1:{relay.port}") as portd,
    ):
        hold = relay.hold(holding(b"\r\nMSET\r\n", name=b"portd-lane-"), reset=True)
        follow_past(hold, portd, source)
    assert b"\r\nMSET\r\n" in hold.data
    assert_equal(source, target)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("freed", ["expiry", "takeover", "partition"])
def test_a_process_that_lost_the_link_in_the_snapshot(source: Server, target: Server, login: str, freed: str) -> None:
    """Frozen or cut off while another one copies and follows, it writes nothing when it goes on, and ends with 75."""
    fill_strings(source, KEYS, 100)
    with Relay(target.port) as relay, Portd(source.url, f"redis://{login}127.0.0.1:{relay.port}") as first:
        stop = relay.part if freed == "partition" else lambda: first.signal(signal.SIGSTOP)
        hold = relay.hold(holding(b"\r\nMSET\r\n", name=b"portd-lane-"), on_caught=stop)
        caught(hold)
        if freed == "expiry":
            let_the_lease_expire(target)
        options = {} if freed == "expiry" else {"takeover": True}
        with Portd(source.url, f"redis://{login}127.0.0.1:{target.port}", **options) as second:
            streaming(second)
            overwrite(source)
            second.until_applied(source)
            hold.release()
            relay.heal()
            if freed != "partition":
                first.signal(signal.SIGCONT)
            assert first.wait() == os.EX_TEMPFAIL, first.log()
            assert "another portd" in first.log()
            assert hold.over.wait(PATIENCE_SECONDS)
            assert second.terminate() == os.EX_OK
    assert_equal(source, target)


def test_a_process_frozen_while_it_removes_keys(source: Server, target: Server, login: str) -> None:
    """Keys that the source has made anew since stay, when the removal that was on its way comes late."""
    fill_strings(source, KEYS, 100)
    url = f"redis://{login}127.0.0.1:{target.port}"
    with Portd(source.url, url, prune="prune") as portd:
        streaming(portd)
        assert portd.terminate() == os.EX_OK
    for number in range(100):
        target.client().set(f"ghost:{number}", "x")
    target.client().hset(CHECKPOINT, "offset", 1)  # too old to be continued
    target.client().hset(CHECKPOINT, "replid", "f" * 40)
    with Relay(target.port) as relay:
        first = Portd(source.url, f"redis://{login}127.0.0.1:{relay.port}", prune="prune")
        hold = relay.hold(
            holding(b"\r\nUNLINK\r\n", name=b"portd-prune"), on_caught=lambda: first.signal(signal.SIGSTOP)
        )
        with first:
            caught(hold)
            with Portd(source.url, url, prune="prune", takeover=True) as second:
                streaming(second)
                source.client().mset({f"ghost:{number}": "made anew" for number in range(100)})
                second.until_applied(source)
                hold.release()
                first.signal(signal.SIGCONT)
                assert first.wait() == os.EX_TEMPFAIL, first.log()
                assert hold.over.wait(PATIENCE_SECONDS)
                assert second.terminate() == os.EX_OK
    assert_equal(source, target)


def assert_no_step_back(portd: Portd, hold: Hold, source: Server, target: Server, *, writes: int) -> None:
    """The checkpoint of a snapshot arrives behind the stream: it changes nothing, so that a restart applies nothing twice."""
    caught(hold)
    streaming(portd)
    for _ in range(writes):
        source.client().incr("counter")
    portd.until_applied(source)
    before = target.client().hgetall(CHECKPOINT)
    arrive(hold)
    after = target.client().hgetall(CHECKPOINT)
    assert int(after[b"offset"]) >= int(before[b"offset"])
    assert after[b"epoch"] == before[b"epoch"]
    portd.kill()
    portd.start()
    streaming(portd)
    source.client().incr("counter")
    portd.until_applied(source)
    assert (portd.status() or {})["full_syncs"] == {}
    assert portd.terminate() == os.EX_OK


def test_the_checkpoint_behind_a_snapshot_comes_late(source: Server, target: Server, login: str) -> None:
    """The position does not go back, so that a restart applies nothing twice."""
    source.client().set("counter", 1)
    with Relay(target.port) as relay:
        portd = Portd(source.url, f"redis://{login}127.0.0.1:{relay.port}")
        hold = relay.hold(holding(b"\r\nHSET\r\n", name=b"portd-checkpoint", passing=1), reset=True)
        with portd:
            assert_no_step_back(portd, hold, source, target, writes=500)
    assert target.client().get("counter") == b"502"


def test_the_checkpoint_behind_a_snapshot_comes_twice(source: Server, target: Server, login: str) -> None:
    """It took effect, its answer was lost, and the bytes come once more behind the stream: the position does not go back."""
    source.client().set("counter", 1)
    with Relay(target.port) as relay, Portd(source.url, f"redis://{login}127.0.0.1:{relay.port}") as portd:
        hold = relay.hold(holding(b"\r\nHSET\r\n", name=b"portd-checkpoint", passing=1), reset=True, twice=True)
        assert_no_step_back(portd, hold, source, target, writes=50)
    assert target.client().get("counter") == b"52"


@pytest.mark.parametrize("missing", ["list", "kill", "setname", "id"])
def test_a_part_of_the_permissions_to_end_connections(source: Server, target: Server, missing: str) -> None:
    """Who may not do all of it writes in transactions, and what comes late does nothing either."""
    fill_strings(source, KEYS, 100)
    login = least_user(target)
    client: Any = target.client()
    others = [f"+{name}" for name in EVICTING_COMMANDS if not name.endswith(missing)]
    client.execute_command("ACL", "SETUSER", "portd", *others)
    with Relay(target.port) as relay, Portd(source.url, f"redis://{login}127.0.0.1:{relay.port}") as portd:
        hold = relay.hold(holding(b"\r\nMSET\r\n"), reset=True)
        follow_past(hold, portd, source)
    assert b"\r\nMULTI\r\n" in hold.data
    assert_equal(source, target)


def test_three_processes(source: Server, target: Server, login: str) -> None:
    """Two are frozen in their snapshots, one behind the other, while a third one follows: both end with 75 and wrote nothing."""
    fill_strings(source, KEYS, 100)
    with contextlib.ExitStack() as stack:
        relays = [stack.enter_context(Relay(target.port)) for _ in range(2)]
        holds, portds = [], []
        for relay in relays:
            portd = Portd(source.url, f"redis://{login}127.0.0.1:{relay.port}", takeover=True)
            frozen = partial(portd.signal, signal.SIGSTOP)
            holds.append(relay.hold(holding(b"\r\nMSET\r\n", name=b"portd-lane-"), on_caught=frozen))
            portds.append(stack.enter_context(portd))
            caught(holds[-1])
        third = Portd(source.url, f"redis://{login}127.0.0.1:{target.port}", takeover=True)
        stack.enter_context(third)
        streaming(third)
        overwrite(source)
        third.until_applied(source)
        for hold, portd in zip(holds, portds, strict=True):
            hold.release()
            portd.signal(signal.SIGCONT)
            assert portd.wait() == os.EX_TEMPFAIL, portd.log()
            assert hold.over.wait(PATIENCE_SECONDS)
        assert third.terminate() == os.EX_OK
    assert_equal(source, target)


def test_a_stranger_flushes_the_target_during_a_snapshot(source: Server, target: Server, login: str) -> None:
    """The epoch goes with the data: the snapshot starts over, and nothing is missing."""
    fill_strings(source, KEYS, 100)
    with Relay(target.port) as relay, Portd(source.url, f"redis://{login}127.0.0.1:{relay.port}") as portd:
        hold = relay.hold(holding(b"\r\nMSET\r\n", name=b"portd-lane-", passing=3))
        caught(hold)
        target.client().flushall()
        hold.release()
        streaming(portd)
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK
        assert "the epoch that was written before is gone" in portd.log()
    assert_equal(source, target)


def test_an_epoch_of_a_wrong_type_is_named(source: Server, target: Server, login: str) -> None:
    """Who writes something else in its place is told which key to delete, whoever finds it first."""
    for first in ("portd-lease", "portd-applier"):
        target.client().delete(EPOCH)
        with Relay(target.port) as relay, Portd(source.url, f"redis://{login}127.0.0.1:{relay.port}") as portd:
            streaming(portd)
            if first == "portd-applier":  # the lease is not looked at meanwhile
                caught(relay.hold(holding(LEASE.encode(), name=b"portd-lease")))
            target.client().delete(EPOCH)
            target.client().set(EPOCH, "x")
            source.client().incr("counter")
            code = portd.wait()
            assert code not in {os.EX_OK, os.EX_SOFTWARE}
            assert f"delete the key {EPOCH!r}" in portd.log()


def test_a_place_that_was_taken_and_left_again(source: Server, target: Server, login: str) -> None:
    """One that wakes up when nobody has the lease finds the other's epoch: it ends with 75 and writes nothing."""
    url = f"redis://{login}127.0.0.1:{target.port}"
    with Portd(source.url, url) as first:
        streaming(first)
        first.signal(signal.SIGSTOP)
        let_the_lease_expire(target)
        with Portd(source.url, url) as second:
            streaming(second)
            source.client().incr("counter")
            second.until_applied(source)
            assert second.terminate() == os.EX_OK
        assert not target.client().exists(LEASE)
        left = target.client().hgetall(CHECKPOINT), target.client().hgetall(EPOCH)
        source.client().incr("counter")
        first.signal(signal.SIGCONT)
        assert first.wait() == os.EX_TEMPFAIL, first.log()
        assert (target.client().hgetall(CHECKPOINT), target.client().hgetall(EPOCH)) == left
    assert target.client().get("counter") == b"1"


def test_an_epoch_that_was_deleted_is_put_back(source: Server, target: Server, login: str) -> None:
    """Who deletes the key by hand costs the link a partial sync at the most; nothing is lost or applied twice."""
    source.client().set("counter", 0)
    with Portd(source.url, f"redis://{login}127.0.0.1:{target.port}") as portd:
        streaming(portd)
        copies = sum((portd.status() or {})["full_syncs"].values())
        for _ in range(3):
            target.client().delete(EPOCH)
            for _ in range(50):
                source.client().incr("counter")
            portd.until_applied(source)
            wait_for_sync(lambda: target.client().exists(EPOCH))
        assert sum((portd.status() or {})["full_syncs"].values()) == copies
        assert portd.terminate() == os.EX_OK
    assert target.client().get("counter") == b"150"


def test_a_user_who_may_not_end_connections(source: Server, target: Server) -> None:
    """A link that was written over connections which only CLIENT KILL ends is not taken by one who may not use it."""
    fill_strings(source, KEYS, 100)
    login = least_user(target)
    with Portd(source, target) as portd:
        streaming(portd)
        portd.kill()
        with Portd(source.url, f"redis://{login}127.0.0.1:{target.port}") as other:
            assert other.wait() == os.EX_NOPERM, other.log()
            assert "only CLIENT KILL" in other.log()
            assert "allow +client|list +client|kill +client|setname +client|id" in other.log()
        portd.start()
        streaming(portd)
        assert portd.terminate() == os.EX_OK
        with Portd(source.url, f"redis://{login}127.0.0.1:{target.port}") as other:
            streaming(other)
            assert (other.status() or {})["full_syncs"] == {}
            assert other.terminate() == os.EX_OK


def test_links_whose_names_begin_alike_leave_each_other_alone(servers: ServerFactory) -> None:
    """Neither `x` nor `x.y` ends a connection of the other one when it takes its own link."""
    one, two, target = servers(), servers(), servers()

    def connections(link: str) -> set[str]:
        found = target.client().client_list()
        return {each["id"] for each in found if each["name"].rpartition("@")[2].rpartition(".")[0] == link}

    ends = {"x": one, "x.y": two}
    options = {"existing": "replace", "prune": "leave"}
    with (
        Portd(one, target, link="x", **options) as first,
        Portd(two, target, link="x.y", **options) as second,
    ):
        portds = {"x": first, "x.y": second}
        for link, other in (("x", "x.y"), ("x.y", "x")):
            for portd in portds.values():
                streaming(portd)
            before = connections(other)
            assert before
            portds[link].kill()
            portds[link].start()
            streaming(portds[link])
            ends[link].client().incr(f"counter of {link}")
            portds[link].until_applied(ends[link])
            assert connections(other) == before
        for portd in portds.values():
            assert portd.terminate() == os.EX_OK
