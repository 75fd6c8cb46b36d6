"""Fixtures of these tests."""

from __future__ import annotations

import pytest

from portd.target.kept.eviction import Eviction
from tests.integration.lanes.kit import LINK, TOKEN, Load


@pytest.fixture(params=["plain", "transactions"], autouse=True)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Bulk data goes outside of transactions, where connections can be ended, or all of it inside."""
    monkeypatch.setattr(Load, "eviction", Eviction(LINK, TOKEN) if request.param == "plain" else None)
    return str(request.param)
