"""A short deck from cluster to cluster; `python -m tests.faults --cluster N` is the long one."""

from __future__ import annotations

import pytest

from tests.faults.clusters import run_cluster_deck


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_faults_of_clusters_lose_and_double_nothing() -> None:
    """Whatever fails over, dies or is cut on either side, both clusters are equal in the end."""
    report = run_cluster_deck(5, 3, source=None, target=None, tell=False)
    assert report.faults.total() == 5
    assert report.checks >= 2
    assert report.commands > 0
