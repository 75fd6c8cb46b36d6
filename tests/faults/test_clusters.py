"""A short deck from cluster to cluster; `python -m tests.faults --cluster N` is the long one."""

from __future__ import annotations

import pytest

from tests.faults.clusters import run_cluster_deck


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("faults", "seed"), [(6, 3), pytest.param(24, 4, marks=pytest.mark.deep)], ids=str)
def test_faults_of_clusters_lose_and_double_nothing(faults: int, seed: int) -> None:
    """Whatever fails over, dies or is cut on either side, both clusters are equal in the end."""
    report = run_cluster_deck(faults, seed, source=None, target=None, tell=False)
    assert report.faults.total() == faults
    assert report.checks >= 2
    assert report.counted > 0
