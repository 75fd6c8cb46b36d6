"""What tests of clusters have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clusters import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three empty primaries."""
    with Cluster() as started:
        yield started
