"""`/debug/memory/heap`: a heap profile for `go tool pprof`, as text, or as a flame graph.

``POST`` records one, which costs; ``GET`` shows what was recorded last, so that no link and no image of a page starts anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from portd.http import flame
from portd.http.markup import PAGE_HEADERS
from portd.memory.heap import MAX_SECONDS, HeapBusy
from portd.memory.heapformat import as_pprof, as_text, describe

if TYPE_CHECKING:
    from portd.http.observed import Observed
    from portd.memory.heap import HeapProfile, HeapRecorder
    from portd.memory.heapnames import FunctionNames

FORMATS = ("pprof", "text", "flame")


async def answer_heap(service: Observed, request: web.Request) -> web.Response:
    """Returns a profile, which a POST records; the parameters are known to be `seconds`, `debug` and `format`, each once."""
    kind = _format(request)
    seconds = _seconds(request)
    recorder = service.heap()
    profile = await _recorded(recorder, seconds) if request.method == hdrs.METH_POST or recorder.kept else recorder.last
    if profile is None:
        raise web.HTTPNotFound(text="no profile was recorded yet: POST records one, GET shows the last one")
    report = service.memory()
    comments = describe(profile, report.rss_bytes, report.owned_bytes)
    try:
        return await _written(kind, profile, recorder.names, comments)
    finally:
        recorder.names.tidy()


async def _recorded(recorder: HeapRecorder, seconds: float | None) -> HeapProfile:
    try:
        return await recorder.take(seconds)
    except HeapBusy as error:
        retry = str(math.ceil(error.seconds) + 1)
        raise web.HTTPTooManyRequests(text=str(error), headers={hdrs.RETRY_AFTER: retry}) from None


async def _written(kind: str, profile: HeapProfile, names: FunctionNames, comments: list[str]) -> web.Response:
    if kind == "text":
        return web.Response(text=await as_text(profile, names, comments))
    if kind == "flame":
        page = await flame.flame_page(profile, names, comments)
        headers = {"Content-Security-Policy": flame.CONTENT_POLICY, **PAGE_HEADERS}
        return web.Response(text=page, content_type="text/html", headers=headers)
    return web.Response(
        body=await as_pprof(profile, names, comments),
        content_type="application/octet-stream",
        headers={hdrs.CONTENT_DISPOSITION: 'attachment; filename="heap.pb.gz"'},
    )


def _format(request: web.Request) -> str:
    debug, kind = request.query.get("debug"), request.query.get("format")
    if debug not in {None, "0", "1"}:
        raise web.HTTPBadRequest(text="debug can be 0 or 1")
    if kind is not None and kind not in FORMATS:
        raise web.HTTPBadRequest(text=f"format can be {', '.join(FORMATS)}")
    if debug == "1" and kind not in {None, "text"}:
        raise web.HTTPBadRequest(text="debug=1 is the text format: leave one of the two out")
    return "text" if debug == "1" else kind or "pprof"


def _seconds(request: web.Request) -> float | None:
    text = request.query.get("seconds")
    if text is None:
        return None
    if request.method != hdrs.METH_POST:
        raise web.HTTPBadRequest(text="seconds is for POST, which records; GET shows what was recorded last")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:  # also refuses nan
        raise web.HTTPBadRequest(text=f"seconds is above 0 and at most {MAX_SECONDS:.0f}")
    return seconds
