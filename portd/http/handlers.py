"""Routes and answers. Every answer is made from memory, at once, but a heap profile; none of them changes anything."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web
from prometheus_client.exposition import choose_encoder

from portd.errors import REDACTED
from portd.http.heap import answer_heap
from portd.http.markup import CONTENT_POLICY, PAGE_HEADERS
from portd.http.memorypage import memory_page
from portd.http.origin import check_same_origin
from portd.http.pages import links_page, status_page
from portd.log import get_logger
from portd.model import Phase, Role
from portd.text import dumps
from portd.watch.history import Span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prometheus_client import CollectorRegistry

    from portd.http.observed import Observed
    from portd.http.origin import Names
    from portd.memory.accounting import MemoryReport
    from portd.watch.readings import PipelineReading
    from portd.watch.standing import Standing

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ENDPOINTS = {
    "/": "status page; ?link=NAME of one of several links, ?span=minutes|day of its plots",
    "/status": "status as JSON; ?link=NAME of one of several links",
    "/metrics": "for Prometheus",
    "/debug/memory": "where the memory is: HTML for a browser, JSON otherwise, or ?format=html|json; ?span=minutes|day",
    "/debug/memory/heap": "heap profile for go tool pprof: POST records, ?seconds=N; GET shows the last one, ?debug=1 as text, ?format=flame",
    "/livez": "200 while all parts run",
    "/readyz": "200 while the target has the snapshot and both ends are connected, of every link; ?role=any also where a standby could take over",
}
ANY_ROLE = "any"  # of /readyz?role=: a standby is ready, too
MAX_BODY_BYTES = 1024  # no endpoint takes a body

log = get_logger("http")


def build_app(service: Observed, registry: CollectorRegistry, names: Names, *, redact_keys: bool) -> web.Application:
    """The application with all routes."""
    answers = _Answers(service, registry, redact_keys=redact_keys)
    app = web.Application(middlewares=[_plain_errors, names.check], client_max_size=MAX_BODY_BYTES)
    app.router.add_get("/", answers.index)
    app.router.add_get("/status", answers.status)
    app.router.add_get("/metrics", answers.metrics)
    app.router.add_get("/debug/memory", answers.memory)
    app.router.add_get("/debug/memory/heap", answers.heap, allow_head=False)
    app.router.add_post("/debug/memory/heap", answers.heap)
    app.router.add_get("/livez", answers.livez)
    app.router.add_get("/readyz", answers.readyz)
    return app


class _Answers:
    def __init__(self, service: Observed, registry: CollectorRegistry, *, redact_keys: bool) -> None:
        self._service = service
        self._registry = registry
        self._redact_keys = redact_keys

    async def index(self, request: web.Request) -> web.Response:
        _allow_parameters(request, "link", "span")
        link, span = self._link(request), _span(request)
        status, memory = self._service.status(link), self._service.memory(span)
        if "links" in status:
            return _html(links_page(status, memory, span))
        return _html(status_page(status, memory, self._service.history(link, span), span))

    async def status(self, request: web.Request) -> web.Response:
        _allow_parameters(request, "link")
        return _json(self._service.status(self._link(request)))

    def _link(self, request: web.Request) -> str:
        """The link that is asked for; "" when none is named."""
        name = request.query.get("link", "")
        if name and name not in (names := self._service.links()):
            raise web.HTTPNotFound(text=f"there is no link {name[:64]!r}; there is {', '.join(names)}")
        return name

    async def metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=encode(self._registry), headers={hdrs.CONTENT_TYPE: content_type})

    async def memory(self, request: web.Request) -> web.Response:
        _allow_parameters(request, "format", "span")
        span = _span(request)
        wanted = request.query.get("format") or ("html" if _prefers_html(request) else "json")
        if wanted not in {"html", "json"}:
            raise web.HTTPBadRequest(text=f"format is {wanted!r}; it can be html or json")
        report = self._report(span)
        response = _html(memory_page(report, span)) if wanted == "html" else _json(report.as_dict())
        response.headers[hdrs.VARY] = hdrs.ACCEPT
        return response

    async def heap(self, request: web.Request) -> web.Response:
        _allow_parameters(request, "seconds", "debug", "format")
        check_same_origin(request)
        return await answer_heap(self._service, request)

    async def livez(self, request: web.Request) -> web.Response:
        _allow_parameters(request)
        return _health("alive", "a part of portd has stopped, see the log", good=self._service.alive())

    async def readyz(self, request: web.Request) -> web.Response:
        _allow_parameters(request, "role")
        role = request.query.get("role", Role.HOLDER)
        if role not in {Role.HOLDER, ANY_ROLE}:
            raise web.HTTPBadRequest(text=f"role is {role[:64]!r}; it can be {Role.HOLDER.value} or {ANY_ROLE}")
        standings = self._service.standings()
        waiting = [
            self._unready(name, standing, several=len(standings) > 1)
            for name, standing in standings.items()
            if not (standing.ready or (role == ANY_ROLE and standing.spare))
        ]
        spare = any(standing.spare for standing in standings.values())
        return _health("ready, standing by" if spare else "ready", "\n".join(waiting), good=not waiting)

    def _unready(self, name: str, standing: Standing, *, several: bool) -> str:
        """Which link the target may not be read of, and why."""
        done = self._service.status(name).get("snapshot", {}).get("done") if standing.phase is Phase.SNAPSHOT else None
        share = "" if done is None else f", {done:.0%} of it is"
        return f"not ready: {f'link {name}: ' if several else ''}{standing.phase}, {standing.reason}{share}"

    def _report(self, span: Span) -> MemoryReport:
        report = self._service.memory(span)
        if not self._redact_keys:
            return report
        return replace(report, pipelines={name: _redacted(each) for name, each in report.pipelines.items()})


def _redacted(pipeline: PipelineReading) -> PipelineReading:
    """The same without names of keys."""
    return replace(
        pipeline,
        current_key=replace(pipeline.current_key, key=REDACTED) if pipeline.current_key else None,
        largest_keys=[replace(key, key=REDACTED) for key in pipeline.largest_keys],
        fences=[replace(fence, key=REDACTED) for fence in pipeline.fences],
    )


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Says in one line what is wrong with a request; a fault of ours is logged and ends only that request."""
    try:
        response = await handler(request)
    except web.HTTPNotFound as error:
        known = "\n".join(f"  {path:15} {what}" for path, what in ENDPOINTS.items())
        text = f"there is nothing at {request.path[:100]!r}; there is\n{known}"
        if request.match_info.http_exception is None:  # there is a page, which has nothing to show yet
            text = error.text or text
        response = web.Response(status=404, text=f"{text}\n")
    except web.HTTPMethodNotAllowed as error:
        response = web.Response(
            status=405,
            text=f"{request.method[:20]} is not allowed here: every endpoint only reads\n",
            headers={hdrs.ALLOW: ", ".join(sorted(error.allowed_methods))},
        )
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in (hdrs.RETRY_AFTER,) if name in error.headers}
        response = web.Response(status=error.status, text=f"{error.text}\n", headers=kept)
    except Exception:
        log.exception("http request failed", path=request.path)
        response = web.Response(status=500, text="this is a bug in portd, please report it with the log\n")
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _allow_parameters(request: web.Request, *known: str) -> None:
    """Refuses parameters that mean nothing, so that a misspelt one is noticed."""
    for name in request.query:
        if name not in known:
            text = f"it can have {', '.join(known)}" if known else "it has none"
            raise web.HTTPBadRequest(text=f"{request.path} has no parameter {name[:40]!r}; {text}")
        if len(request.query.getall(name)) > 1:
            raise web.HTTPBadRequest(text=f"the parameter {name!r} is given more than once")


def _span(request: web.Request) -> Span:
    """How far plots go back."""
    wanted = request.query.get("span", Span.MINUTES.value)
    if wanted not in [*Span]:
        raise web.HTTPBadRequest(text=f"span is {wanted[:40]!r}; it can be {' or '.join(Span)}")
    return Span(wanted)


def _prefers_html(request: web.Request) -> bool:
    """Whether the client names HTML and does not want JSON more; browsers do, curl's `*/*` does not."""
    quality = {"text/html": 0.0, "application/json": 0.0}
    for part in request.headers.get(hdrs.ACCEPT, "").split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weights = [word[2:] for word in parameters if word.startswith("q=")]
        if kind in quality:
            try:
                quality[kind] = float(weights[0]) if weights else 1.0
            except ValueError:
                raise web.HTTPBadRequest(text="the Accept header has a q that is not a number") from None
    return quality["text/html"] > quality["application/json"]


def _json(data: dict[str, Any]) -> web.Response:
    return web.Response(text=dumps(data) + "\n", content_type="application/json")


def _html(page: str) -> web.Response:
    headers = {"Content-Security-Policy": CONTENT_POLICY, **PAGE_HEADERS}
    text = page.encode("utf-8", "backslashreplace").decode()  # a rule given as a flag may hold bytes that are no text
    return web.Response(text=text, content_type="text/html", headers=headers)


def _health(good_text: str, bad_text: str, *, good: bool) -> web.Response:
    return web.Response(status=200 if good else 503, text=(good_text if good else bad_text) + "\n")
