"""Behind Sentinels: failovers of either end are followed, and no Sentinel ever takes portd for a replica to use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from portd.source.handshake import HandshakeOptions
from tests.compare import assert_equal
from tests.datasets import fill_mixed
from tests.process import Portd
from tests.servers import free_port, wait_for_sync
from tests.tls import over_tls
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

NAME = "primary"


def watched(servers: ServerFactory, primary: Server, **settings: str) -> Server:
    """A Sentinel that watches *primary*, alone and quick to act."""
    sentinel = servers(primary.binary, sentinel=True, **settings)
    with Wire(sentinel) as wire:
        wire.call("SENTINEL", "MONITOR", NAME, "127.0.0.1", str(primary.port), "1")
        wire.call("SENTINEL", "SET", NAME, "down-after-milliseconds", "1000")
        wire.call("SENTINEL", "SET", NAME, "failover-timeout", "10000")
    return sentinel


def url(sentinel: Server, *more: int) -> str:
    """The primary behind a Sentinel, with ports of further ones that do not answer before it."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in (*more, sentinel.port))
    return f"redis+sentinel://{hosts}/{NAME}"


def replicas(sentinel: Server) -> list[dict[str, str]]:
    """What the Sentinel takes for replicas."""
    with Wire(sentinel) as wire:
        answer: Any = wire.call("SENTINEL", "REPLICAS", NAME)
    found = []
    for each in answer:
        words = [word.decode() for word in each]
        found.append(dict(zip(words[::2], words[1::2], strict=True)))
    return found


def primary_port(sentinel: Server) -> int:
    """Where the Sentinel says the primary is."""
    with Wire(sentinel) as wire:
        answer: Any = wire.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
    return int(answer[1])


def until_replica_is_known(sentinel: Server, replica: Server) -> None:
    """Waits until the Sentinel could promote *replica*."""

    def known() -> bool:
        return any(
            each["port"] == str(replica.port) and each["flags"] == "slave" and each["master-link-status"] == "ok"
            for each in replicas(sentinel)
        )

    wait_for_sync(known, dump=lambda: replicas(sentinel))


def test_a_promoted_source_is_followed_without_a_full_sync(servers: ServerFactory, target: Server) -> None:
    """The primary dies, the Sentinel promotes its replica (not portd), and portd continues there where it was."""
    source, replica = servers(), servers()
    fill_mixed(source, 500)
    replica.replicate(source)
    sentinel = watched(servers, source)
    with Portd(url(sentinel, 1), target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        until_replica_is_known(sentinel, replica)
        for _ in range(100):
            source.client().incr("counter")
        portd.until_applied(source)
        wait_for_sync(lambda: replica.client().get("counter") == b"100")
        source.kill()
        wait_for_sync(lambda: primary_port(sentinel) == replica.port, 40, dump=sentinel.log_tail)
        wait_for_sync(lambda: replica.info("replication")["role"] == "master")
        for _ in range(100):
            replica.client().incr("counter")
        portd.until_applied(replica)
        status = portd.status() or {}
        assert status["full_syncs"] == {"first": 1}, portd.log()
        assert status["partial_syncs"] >= 1
        assert portd.terminate() == os.EX_OK
    assert target.client().get("counter") == b"200"
    assert_equal(replica, target)


def test_no_sentinel_adopts_us(servers: ServerFactory, target: Server) -> None:
    """With us as the only "replica", a dead primary stays dead: nobody is promoted, and nothing is sent to us."""
    assert HandshakeOptions().listening_port == 0
    source = servers()
    sentinel = watched(servers, source)
    with Portd(url(sentinel), target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.client().set("a", "1")
        portd.until_applied(source)
        with Wire(sentinel) as wire:
            wire.call("SENTINEL", "RESET", NAME)  # asks the source for its replicas anew
        wait_for_sync(lambda: "slave0" in source.info("replication"))
        found = replicas(sentinel)
        assert all(each["port"] == "0" for each in found), found
        source.client().save()  # it comes back with its data: an empty one would be held
        source.kill()
        wait_for_sync(lambda: "-failover-abort-no-good-slave" in sentinel.log_tail(200), 40, dump=sentinel.log_tail)
        assert primary_port(sentinel) == source.port
        assert "+promoted-slave" not in sentinel.log_tail(1000)
        source.start()
        source.client().set("b", "1")
        portd.until(lambda status: status["phase"] == "streaming" and status["source"]["connects"] > 1)
        portd.until_applied(source)
        portd.terminate()
    assert target.client().get("b") == b"1"
    assert_equal(source, target)


def test_a_promoted_target_is_followed(source: Server, servers: ServerFactory) -> None:
    """The target fails over: its checkpoint is in the promoted replica too, and every INCR counts once."""
    first, second = servers(), servers()
    second.replicate(first)
    sentinel = watched(servers, first)
    with Portd(source, url(sentinel)) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        until_replica_is_known(sentinel, second)
        for _ in range(100):
            source.client().incr("counter")
        portd.until_applied(source)
        wait_for_sync(lambda: second.client().get("counter") == b"100")
        first.kill()
        for _ in range(100):
            source.client().incr("counter")
        wait_for_sync(lambda: second.info("replication")["role"] == "master", 40, dump=sentinel.log_tail)
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert second.client().get("counter") == b"200"
    assert_equal(source, second)


def test_a_password_of_the_sentinels_is_not_that_of_the_server(servers: ServerFactory, target: Server) -> None:
    """Sentinel and server have credentials of their own; neither is logged."""
    source = servers(requirepass="server-secret")
    sentinel = watched(servers, source, requirepass="sentinel-secret")
    with Wire(sentinel) as wire:
        wire.call("SENTINEL", "SET", NAME, "auth-pass", "server-secret")
    source.client().set("a", "1")
    address = f"redis+sentinel://:server-secret@127.0.0.1:{sentinel.port}/{NAME}?sentinel_password=sentinel-secret"
    with Portd(address, target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        assert "secret" not in portd.log()
    assert target.client().get("a") == b"1"


def test_sentinels_and_server_over_tls(servers: ServerFactory, tmp_path: Path) -> None:
    """With rediss+sentinel:// both are spoken to over TLS, data and control connections alike, on either end."""
    binary, certificate, files = over_tls(tmp_path)

    def secure(*, sentinel: bool) -> Server:
        return servers(
            binary, sentinel=sentinel, tls_port=free_port(), tls_auth_clients="no", tls_replication="yes", **files
        )

    source, target = secure(sentinel=False), secure(sentinel=False)
    urls = []
    for end in (source, target):
        sentinel = secure(sentinel=True)
        with Wire(sentinel) as wire:
            wire.call("SENTINEL", "MONITOR", NAME, "127.0.0.1", str(end.config["tls-port"]), "1")
        urls.append(f"rediss+sentinel://127.0.0.1:{sentinel.config['tls-port']}/{NAME}")
    fill_mixed(source, 300)
    ca = {"source_tls_ca": certificate, "target_tls_ca": certificate}
    with Portd(urls[0], urls[1], stop_after="caught-up", **ca) as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    assert_equal(source, target)


def test_an_unknown_primary_is_said(servers: ServerFactory, source: Server, target: Server) -> None:
    """A Sentinel that does not know the name ends the start with 69."""
    sentinel = watched(servers, source)
    address = f"redis+sentinel://127.0.0.1:{sentinel.port}/other"
    with Portd(address, target) as portd:
        assert portd.wait() == os.EX_UNAVAILABLE, portd.log()


def test_hello_messages_stay_where_they_are(servers: ServerFactory, target: Server) -> None:
    """What Sentinels publish about the source never reaches the target's subscribers; other messages do."""
    source = servers()
    watched(servers, source)
    with Portd(source, target) as portd, target.client().pubsub() as listener:  # type: ignore[no-untyped-call]
        portd.until(lambda status: status["phase"] == "streaming")
        listener.psubscribe("*")
        heard: list[bytes] = []

        def news() -> bool:
            message = listener.get_message(timeout=0.05)
            if message is not None and message["type"] == "pmessage":
                heard.append(message["channel"])
            return b"last" in heard

        hellos = source.client().pubsub()  # type: ignore[no-untyped-call]
        hellos.subscribe("__sentinel__:hello")
        wait_for_sync(lambda: (hellos.get_message(timeout=0.05) or {}).get("type") == "message")
        source.client().publish("last", "1")
        wait_for_sync(news)
        hellos.close()
        portd.terminate()
    assert heard == [b"last"]
