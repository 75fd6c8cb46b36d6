"""What operators look at while a sync runs: status page, `/metrics`, `/debug/memory`, health.

`server` listens, `handlers` answers, `pages` draws, `status` describes. aiohttp is loaded by `HttpServer.start`, so a
sync without HTTP does not carry it.
"""

from __future__ import annotations

from portd.http.observed import Observed
from portd.http.server import HttpServer

__all__ = ["HttpServer", "Observed"]
