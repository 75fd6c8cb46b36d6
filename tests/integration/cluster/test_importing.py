"""Import mode of a target cluster: keys that the source renews at the last moment do not expire there while portd lags."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, fill
from tests.process import Portd, streaming
from tests.servers import find, wait_for_sync

if TYPE_CHECKING:
    from tests.servers import Server

pytestmark = pytest.mark.skipif(find("valkey9.1") is None, reason="needs servers with import mode")
SOON_MS = 3000


def imports(node: Server) -> bool:
    """A node is in import mode."""
    return bool(Cluster.call(node, "CONFIG", "GET", "import-mode")[1] == b"yes")


def now_ms(node: Server) -> int:
    """By the clock of a node."""
    seconds, micros = Cluster.call(node, "TIME")
    return int(seconds) * 1000 + int(micros) // 1000


@pytest.mark.parametrize("fails", [False, True], ids=["stays", "fails over"])
def test_keys_renewed_at_the_last_moment_survive(source: Server, *, fails: bool) -> None:
    """Their time passes in the target before the renewal comes; also where the replica has been promoted meanwhile."""
    client = source.client()
    with Cluster(find("valkey9.1"), replicas=1) as cluster, Portd(source, cluster.url) as portd:
        portd.until(streaming)
        wait_for_sync(lambda: all(imports(node) for node in cluster.nodes), dump=portd.log)
        until = now_ms(source) + SOON_MS
        keys = [f"key:{number}" for number in range(60)]
        for key in keys:
            client.set(key, 1, pxat=until)
        portd.until_applied(source)
        portd.signal(signal.SIGSTOP)
        for key in keys:
            client.persist(key)
            client.incr(key)
        if fails:
            for replica in cluster.replicas:
                cluster.fail_over(replica, "TAKEOVER")
        wait_for_sync(lambda: now_ms(cluster.nodes[-1]) > until + 200)
        portd.signal(signal.SIGCONT)
        portd.until_applied(source)
        assert all(imports(node) for node in cluster.nodes)
        assert "import mode was lost" not in portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not any(imports(node) for node in cluster.nodes)
        assert not differences(source, cluster)
        assert int(cluster.get("GET", keys[0])) == 2


def test_a_lost_mode_is_put_back_on_every_node(source: Server) -> None:
    """By the next look, at primaries and replicas; that of a primary is told."""
    with Cluster(find("valkey9.1"), replicas=1) as cluster, Portd(source, cluster.url) as portd:
        portd.until(streaming)
        wait_for_sync(lambda: all(imports(node) for node in cluster.nodes))
        for node in cluster.nodes:
            Cluster.call(node, "CONFIG", "SET", "import-mode", "no")
        wait_for_sync(lambda: all(imports(node) for node in cluster.nodes))
        wait_for_sync(lambda: portd.log().count("import mode was lost") == len(cluster.nodes), dump=portd.log)
        portd.kill()
        assert all(imports(node) for node in cluster.nodes)
        portd.start()
        portd.until(streaming)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not any(imports(node) for node in cluster.nodes)


def test_links_of_shards_share_it(cluster: Cluster) -> None:
    """One that ends leaves it to the others, on all nodes; the last one switches it off."""
    fill(cluster)
    with Cluster(find("valkey9.1"), primaries=2) as into:
        with Portd(cluster.url, into.url) as portd:
            portd.until(lambda status: all(each["phase"] == "streaming" for each in status["links"]))
            assert all(imports(node) for node in into.nodes)
            users = "portd:checkpoint::imports"
            wait_for_sync(lambda: into.get("HKEYS", users) is not None)
            assert sorted(key.decode() for key in into.get("HKEYS", users)) == sorted(LINKS)
            assert portd.terminate() == os.EX_OK, portd.log()
        assert not any(imports(node) for node in into.nodes)
        assert "import mode was lost" not in portd.log()


def test_one_who_may_not_is_told(source: Server) -> None:
    """A user that may not set it: the gap is open, the log says so, and no node stays in the mode."""
    with Cluster(find("valkey9.1")) as cluster:
        for node in cluster.nodes:
            Cluster.call(node, "ACL", "SETUSER", "default", "-config|set")
        with Portd(source, cluster.url) as portd:
            portd.until(streaming)
            assert "no import mode" in portd.log()
            assert "the expiry gap is open: the target is a cluster" in portd.log()
            assert portd.terminate() == os.EX_OK, portd.log()
