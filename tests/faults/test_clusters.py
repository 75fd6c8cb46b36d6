"""A short deck from cluster to cluster; `python -m tests.faults --cluster N` is the long one."""

from __future__ import annotations

import pytest

from tests.faults.clusters import run_cluster_deck


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("faults", "seed", "rules"),
    [
        pytest.param(6, 3, False, id="short"),
        pytest.param(24, 4, False, id="long", marks=pytest.mark.deep),
        pytest.param(24, 6, True, id="rules", marks=pytest.mark.deep),
    ],
)
def test_faults_of_clusters_lose_and_double_nothing(faults: int, seed: int, *, rules: bool) -> None:
    """Whatever fails over, dies or is cut on either side, both clusters are equal in the end."""
    report = run_cluster_deck(faults, seed, rules=rules)
    assert report.faults.total() == faults
    assert report.checks >= 2
    assert report.pipelines > 0
