"""Clusters over TLS on both sides, by users of portd's own: maps, streams, copies, comparisons and questions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.clusters import Cluster, differences
from tests.commands import run
from tests.integration.cluster.load import Loads, fill, streaming
from tests.process import Portd
from tests.tls import over_tls

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "hunter2"


def test_clusters_over_tls(tmp_path: Path) -> None:
    """A failover is followed on either side; nothing but TLS is spoken, and passwords stay where they are."""
    binary, certificate, files = over_tls(tmp_path)
    ca = {"source_tls_ca": certificate, "target_tls_ca": certificate}
    with Cluster(binary, replicas=1, tls=files) as here, Cluster(binary, replicas=1, tls=files) as there:
        for node in (*here.nodes, *there.nodes):
            Cluster.call(node, "ACL", "SETUSER", "copier", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        urls = [each.url.replace("://", f"://copier:{PASSWORD}@") for each in (here, there)]
        fill(here)
        ends = [f"--source={urls[0]}", f"--target={urls[1]}", *(f"--{n.replace('_', '-')}={p}" for n, p in ca.items())]
        checked = run("check", *ends, expect=1)  # certificates that end soon
        assert b"source.announced: 3 replicas can be reached" in checked.out
        assert b"target.announced: 3 replicas, which the cluster does not announce" in checked.out
        assert b"all 3 nodes: TLSv1" in checked.out
        with Portd(urls[0], urls[1], **ca) as portd, Loads(here) as loads:
            portd.until(streaming)
            loads.run()
            here.fail_over(here.replicas[0])
            there.fail_over(there.replicas[1])
            loads.run()
            loads.stop()
            portd.until(streaming)
            assert portd.terminate() == os.EX_OK, portd.log()
            assert PASSWORD not in portd.log()
        assert not differences(there, here)
        compared = run("verify", *ends)
        told = run("status", f"--target={urls[1]}", f"--target-tls-ca={certificate}", expect=None)
        assert b"3 shards, 3 of them complete" in told.out
        assert PASSWORD not in f"{checked}{compared}{told}"
