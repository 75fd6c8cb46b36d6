"""The HTTP pages: what they answer, what they refuse, that they show no more than they should."""

from __future__ import annotations

import asyncio
import html
import json
import re
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import aiohttp
import pytest

from portd.config.load import load_settings
from portd.errors import ConfigError
from portd.http import HttpServer
from portd.http.server import MAX_CONNECTIONS
from portd.http.status import describe, describe_all
from portd.memory.accounting import Accounting, MemoryReport
from portd.memory.heap import HeapRecorder
from portd.model import LaneState, LoopState, Phase, Position, Progress, Standby, Work
from portd.watch.history import Span
from portd.watch.metrics import LinkSources, Sources, build_registry
from portd.watch.readings import KeyReading, PipelineReading
from portd.watch.standing import Standing, look
from portd.watch.view import View
from tests.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from prometheus_client import CollectorRegistry

    from portd.memory.heap import HeapProfile
    from portd.watch.history import HistoryReading

EVIL = "<script>alert(1)</script>&\"'"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@dataclass
class Observed:
    """A service as the pages see it, without a sync behind it."""

    progress: Progress = field(default_factory=Progress)
    pipeline: PipelineReading = field(default_factory=PipelineReading)
    others: tuple[str, ...] = ()
    is_alive: bool = True
    broken: bool = False

    def __post_init__(self) -> None:
        self.settings = load_settings({"source": "redis://u:hunter@one", "target": "redis://two"})
        self.view = View.of(self.progress, "default")
        self.accounting = Accounting()
        self.recorder = HeapRecorder(self.accounting.ledger.readings)
        self.accounting.pipelines = lambda: dict.fromkeys(self.links(), self.pipeline)
        self.accounting.ledger.register(f"lane {EVIL}", lambda: 100)
        self.accounting.samplers.append(self.view.track.sample)
        for _ in range(3):
            self.accounting.sample()

    def links(self) -> list[str]:
        """Those it has; they are alike."""
        return ["default", *self.others]

    def status(self, link: str = "") -> dict[str, Any]:
        """What the sync is doing."""
        if self.broken:
            raise ZeroDivisionError
        each = describe(self.view, self.settings, LoopState())
        if link or not self.others:
            return {**each, "link": link or "default"}
        return describe_all([{**each, "link": name} for name in self.links()])

    def memory(self, span: Span = Span.MINUTES) -> MemoryReport:
        """Where the memory is."""
        return self.accounting.report(span)

    def history(self, link: str = "", span: Span = Span.MINUTES) -> HistoryReading:
        """Of the only one."""
        assert link in {"", *self.links()}
        return self.view.track.history.read(span)

    def heap(self) -> HeapRecorder:
        """What records heap profiles."""
        return self.recorder

    def standings(self) -> dict[str, Standing]:
        """Phase, and whether the target may be read."""
        return {"default": look(self.progress), **dict.fromkeys(self.others, Standing(Phase.STREAMING, ready=True))}

    def registry(self) -> CollectorRegistry:
        """Its series."""
        return build_registry(Sources(links=[LinkSources(view=self.view, source="", target="")], owners=list))

    def alive(self) -> bool:
        """All parts run."""
        return self.is_alive


@pytest.fixture
def service() -> Observed:
    """A service that has begun a snapshot, with a key of a hostile name."""
    found = Observed(
        Progress(work=Work.COPYING, position=Position("a" * 40, 7), lanes=[LaneState(0), LaneState(1)]),
        PipelineReading(budget_bytes=10, current_key=KeyReading(3, EVIL, "hash", 1, 4, 5)),
    )
    found.progress.snapshot.bytes_total, found.progress.snapshot.bytes_decoded = 100, 25
    found.progress.errors.note(EVIL)
    return found


@pytest.fixture
async def server(service: Observed) -> AsyncIterator[HttpServer]:
    """A listening server."""
    async with listening(service) as found:
        yield found


@asynccontextmanager
async def listening(service: Observed, address: str = "127.0.0.1", **options: Any) -> AsyncIterator[HttpServer]:
    """Starts a server on a free port and closes it."""
    found = HttpServer(service, service.registry(), (address, 0), **options)
    await found.start()
    try:
        yield found
    finally:
        found.close()


async def get(server: HttpServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, Any]:
    """Status, body and headers of one request."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, server.url + path, headers=headers, allow_redirects=False) as reply,
    ):
        return reply.status, await reply.text(), reply.headers


async def test_health_follows_the_service(server: HttpServer, service: Observed) -> None:
    """/livez tells whether the parts run, /readyz whether the target may be read, with the reason when not."""
    assert (await get(server, "livez"))[0] == 200
    status, text, _ = await get(server, "readyz")
    reason = "the snapshot is not applied yet, and the target is not connected"
    assert (status, text) == (503, f"not ready: snapshot, {reason}, 25% of it is\n")
    service.progress.work, service.is_alive = Work.FOLLOWING, False
    service.progress.stream.caught_up = True
    service.progress.lanes[1].connection.connected = True
    assert (await get(server, "readyz"))[:2] == (200, "ready\n")
    assert (await get(server, "livez"))[0] == 503


async def test_a_standby_is_ready_for_who_asks_for_any_role(server: HttpServer, service: Observed) -> None:
    """By itself it is not, since no target may be read because of it; unfit, it is for nobody. The page says for whom it waits."""
    service.progress.standby = Standby(holder=f"process 7 on {EVIL}")
    service.progress.outlook.asked_at, service.progress.outlook.backlog_bytes = 1.0, 1 << 20
    assert (await get(server, "readyz"))[:2] == (503, f"not ready: standby, process 7 on {EVIL} has the link\n")
    assert (await get(server, "readyz?role=any"))[:2] == (200, "ready, standing by\n")
    assert (await get(server, "readyz?role=holder"))[0] == 503
    assert (await get(server, "readyz?role=x"))[:2] == (400, "role is 'x'; it can be holder or any\n")
    _, page, _ = await get(server, "", Accept=BROWSER)
    assert EVIL not in page
    assert "a partial sync, as far as is known" in page
    assert "1.00 MiB of 1.00 MiB" in page
    service.progress.standby.full_sync = "the backlog is short"
    assert (await get(server, "readyz?role=any"))[0] == 200
    assert "a full sync: the backlog is short" in (await get(server, "", Accept=BROWSER))[1]
    service.progress.standby.unfit = "the source is gone"
    code, text, _ = await get(server, "readyz?role=any")
    assert (code, text.endswith("and it could not be taken over: the source is gone\n")) == (503, True)
    assert "the source is gone" in (await get(server, "", Accept=BROWSER))[1]


async def test_several_links_have_a_page_each_and_one_together(service: Observed) -> None:
    """`/` and `/status` tell of all; ?link= is the page of one; /readyz names who is not ready."""
    service.others = ("eu", EVIL)
    async with listening(service) as server:
        status = json.loads((await get(server, "status"))[1])
        assert [each["link"] for each in status["links"]] == ["default", "eu", EVIL]
        assert not status["ready"]
        assert status["reason"].startswith("link default: snapshot, ")
        assert json.loads((await get(server, "status?link=eu"))[1])["link"] == "eu"
        code, text, _ = await get(server, "status?link=asia")
        assert (code, text) == (404, f"there is no link 'asia'; there is default, eu, {EVIL}\n")
        code, text, _ = await get(server, "readyz")
        assert code == 503
        assert text.startswith("not ready: link default: snapshot, the snapshot is not applied yet")
        assert text.count("\n") == 1
        _, text, _ = await get(server, "", Accept=BROWSER)
        assert 'href="?link=eu"' in text
        assert EVIL not in text
        assert "Key being decoded of eu" in (await get(server, "debug/memory", Accept=BROWSER))[1]
        report = json.loads((await get(server, "debug/memory"))[1])
        assert set(report["pipelines"]) == {"default", "eu", EVIL}
        assert "pipeline" not in report
        service.progress.work, service.progress.source.connected = Work.FOLLOWING, True
        service.progress.lanes[0].connection.connected = True
        assert (await get(server, "readyz"))[:2] == (200, "ready\n")


async def test_status_is_json_without_secrets(server: HttpServer) -> None:
    """/status has the position, the settings and both ends, and no password."""
    status, text, headers = await get(server, "status")
    data = json.loads(text)
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert data["position"] == {"replid": "a" * 40, "offset": 7}
    assert data["source"]["url"] == "redis://one:6379"
    assert data["settings"]["writers"] == 4
    assert "hunter" not in text


async def test_metrics_are_served_as_prometheus_asks(server: HttpServer) -> None:
    """The text format by default, OpenMetrics for who accepts it."""
    status, text, headers = await get(server, "metrics")
    assert status == 200
    assert 'portd_phase{link="default",phase="snapshot"} 1.0' in text
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    _, text, headers = await get(server, "metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", "*/*", "application/json"),
        ("", BROWSER, "text/html"),
        ("", "application/json", "application/json"),
        ("", "text/html;q=0.4, application/json;q=0.6", "application/json"),
        ("?format=html", "application/json", "text/html"),
        ("?format=json", BROWSER, "application/json"),
    ],
)
async def test_the_memory_page_is_html_or_json(server: HttpServer, query: str, accept: str, kind: str) -> None:
    """A browser gets a page, curl gets JSON, and a parameter decides over both."""
    status, text, headers = await get(server, f"debug/memory{query}", Accept=accept)
    assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
    assert ("current_key" in json.loads(text)["pipeline"]) if kind == "application/json" else "<svg" in text


@pytest.mark.parametrize("path", ["", "debug/memory?format=html"])
async def test_pages_escape_what_they_show(server: HttpServer, path: str) -> None:
    """Key names and errors are data: they cannot become tags, and the policy lets no foreign script run."""
    status, text, headers = await get(server, path)
    assert status == 200
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert "http" not in policy


async def test_pages_need_nothing_from_elsewhere(server: HttpServer) -> None:
    """No address of another host is in the pages: they work where there is no internet."""
    for path in ("", "debug/memory?format=html"):
        _, text, _ = await get(server, path)
        body = text.replace("redis://one:6379", "").replace("redis://two:6379", "")
        assert "://" not in body


async def test_keys_can_be_redacted(service: Observed) -> None:
    """With redact_keys no key name leaves the process."""
    async with listening(service, redact_keys=True) as server:
        for query in ("format=json", "format=html"):
            _, text, _ = await get(server, f"debug/memory?{query}")
            assert "(redacted)" in text
            assert '"key": "<script>' not in text
            assert "<code>&lt;script" not in text
        data = json.loads((await get(server, "debug/memory"))[1])
        assert data["pipeline"]["current_key"]["key"] == "(redacted)"


@pytest.mark.parametrize(
    ("path", "method", "status", "words"),
    [
        ("nothing", "GET", 404, "/debug/memory"),
        ("debug/", "GET", 404, "/status"),
        ("..%2f..%2fetc/passwd", "GET", 404, "nothing at"),
        ("status", "POST", 405, "only reads"),
        ("metrics", "DELETE", 405, "only reads"),
        ("status?x=1", "GET", 400, "no parameter 'x'"),
        ("debug/memory?format=xml", "GET", 400, "html or json"),
        ("debug/memory?format=json&format=html", "GET", 400, "more than once"),
        ("debug/memory?fromat=json", "GET", 400, "it can have format"),
    ],
)
async def test_wrong_requests_are_told_what_is_wrong(
    server: HttpServer, path: str, method: str, status: int, words: str
) -> None:
    """A request that means nothing gets a clear 4xx as plain text."""
    found, text, headers = await get(server, path, method)
    assert found == status
    assert words in text
    assert headers["Content-Type"].startswith("text/plain")
    assert (found != 405) or headers["Allow"] == "GET, HEAD"


async def test_a_bad_accept_header_is_refused(server: HttpServer) -> None:
    """A q that is no number is the client's mistake, not an internal error."""
    assert (await get(server, "debug/memory", Accept="text/html;q=much"))[0] == 400


async def test_large_requests_are_refused(server: HttpServer) -> None:
    """Request line and headers are bounded."""
    assert (await get(server, "status?" + "x" * 9000))[0] == 400
    assert (await get(server, "status", Cookie="x" * 20000))[0] == 400


async def test_a_fault_ends_only_its_request(server: HttpServer, service: Observed) -> None:
    """An error in a handler is a 500 that says so; the next request is answered."""
    service.broken = True
    status, text, _ = await get(server, "status")
    assert (status, "bug" in text) == (500, True)
    assert (await get(server, "livez"))[0] == 200


async def test_head_is_answered(server: HttpServer) -> None:
    """Load balancers may ask with HEAD."""
    assert (await get(server, "livez", "HEAD"))[:2] == (200, "")


async def test_silent_connections_keep_nobody_out(server: HttpServer) -> None:
    """Who says nothing, or half of a request, makes room for who asks, the longest idle first."""
    port = int(server.url.rsplit(":", 1)[1].strip("/"))
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
    for _, writer in held[1::2]:
        writer.write(b"GET /livez HTTP/1.1\r\nHost: loc")
    asked, writer = held[0]
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await asked.readline()).startswith(b"HTTP/1.1 200")
    for _ in range(MAX_CONNECTIONS + 10):
        assert (await get(server, "livez"))[0] == 200
    assert await asyncio.wait_for(held[1][0].read(), 60) == b""
    for _, writer in held:
        writer.close()


async def test_connections_are_bounded_and_closed(service: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every connection has a request under way, one more gets a 503; close drops all and may be called again."""
    waiting = asyncio.Event()
    asked = 0

    async def wait(seconds: float | None = None) -> HeapProfile:
        nonlocal asked
        asked += 1
        await waiting.wait()
        raise AssertionError

    monkeypatch.setattr(service.recorder, "take", wait)
    async with listening(service) as server:
        await _fill_and_close(server, lambda: asked == MAX_CONNECTIONS)


async def _fill_and_close(server: HttpServer, full: Callable[[], bool]) -> None:
    port = int(server.url.rsplit(":", 1)[1].strip("/"))
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
    for _, writer in held:
        writer.write(b"POST /debug/memory/heap HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await wait_for(full)
    reader_over, writer_over = await asyncio.open_connection("127.0.0.1", port)
    assert (await reader_over.read()).startswith(b"HTTP/1.1 503")
    server.close()
    server.close()
    for reader, _ in held:
        await asyncio.wait_for(reader.read(), 60)  # ends: the connection is gone
    for _, writer in [*held, (reader_over, writer_over)]:
        writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8899", 200),
        ("127.0.0.1", 200),
        ("[::1]:8899", 200),
        ("LOCALHOST.:1", 200),
        ("metrics.example:80", 200),
        ("evil.example", 421),
        ("evil.example:8899", 421),
        ("localhost.evil.example", 421),
        ("192.0.2.7:8899", 421),
        ("[::1", 421),
        ("localhost@evil.example", 421),
    ],
)
async def test_only_our_names_are_answered(service: Observed, host: str, status: int) -> None:
    """A page that gives its own name our address reads nothing: its requests carry that name."""
    async with listening(service, hosts=["Metrics.example"]) as server:
        for path in ("", "status", "metrics", "debug/memory", "debug/memory/heap?seconds=0.01&debug=1", "livez"):
            found, text, _ = await get(server, path, "POST" if "seconds" in path else "GET", Host=host)
            assert found == status, (path, text)
            assert status == 200 or ("--http-hosts" in text and EVIL not in text)


async def test_an_open_listener_answers_to_addresses_and_not_to_names(service: Observed) -> None:
    """Where every address is listened on, each of them is ours; a name still has to be listed."""
    async with listening(service, address="0.0.0.0") as server:
        url = f"http://127.0.0.1:{server.url.rsplit(':', 1)[1]}"
        async with aiohttp.ClientSession() as session:
            for host, status in (("192.0.2.7:8899", 200), ("[2001:db8::1]", 200), ("evil.example", 421)):
                async with session.get(url + "status", headers={"Host": host}) as reply:
                    assert reply.status == status, host


async def test_who_names_no_host_is_no_browser(server: HttpServer) -> None:
    """HTTP/1.0 without a Host header, as simple health checks have it, is answered."""
    port = int(server.url.rsplit(":", 1)[1].strip("/"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
    assert b" 200 " in await reader.readline()
    writer.close()


FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 200),  # curl
        ("POST", {"Sec-Fetch-Site": "same-origin", "User-Agent": FIREFOX}, 200),
        ("POST", {"Sec-Fetch-Site": "none", "User-Agent": FIREFOX}, 200),
        ("POST", {"Sec-Fetch-Site": "cross-site", "User-Agent": FIREFOX}, 403),
        ("POST", {"Sec-Fetch-Site": "same-site", "User-Agent": FIREFOX}, 403),
        ("POST", {"Origin": "http://evil.example", "User-Agent": FIREFOX}, 403),
        ("POST", {"Origin": "null", "User-Agent": FIREFOX}, 403),
        ("POST", {"Origin": "http://HOST", "User-Agent": FIREFOX}, 200),
        ("POST", {"Referer": "http://evil.example/x", "User-Agent": FIREFOX}, 403),
        ("POST", {"Referer": "http://HOST/debug/memory", "User-Agent": FIREFOX}, 200),
        ("POST", {"User-Agent": FIREFOX}, 403),
    ],
)
async def test_no_other_page_starts_a_recording(
    server: HttpServer, method: str, headers: dict[str, str], status: int
) -> None:
    """A browser records for our own pages only; what is no browser may ask."""
    own = server.url.removeprefix("http://").strip("/")
    given = {name: value.replace("HOST", own) for name, value in headers.items()}
    found, text, _ = await get(server, "debug/memory/heap?seconds=0.01&debug=1", method, **given)
    assert found == status, text


async def test_a_get_starts_no_recording(server: HttpServer, service: Observed) -> None:
    """Whoever asks, a GET shows what a POST has recorded, as often as one likes; the memory it takes has its owner."""
    recorder = service.recorder
    found, text, _ = await get(server, "debug/memory/heap")
    assert (found, "POST" in text) == (404, True)
    found, text, _ = await get(server, "debug/memory/heap?seconds=0.01")
    assert (found, "POST" in text) == (400, True)
    assert not recorder.held_bytes()
    recorded = (await get(server, "debug/memory/heap?seconds=0.01&debug=1", "POST"))[1]
    assert recorder.last is not None
    assert recorder.held_bytes() >= len(recorder.last.samples) * 1024 > 0
    found, again, _ = await get(server, "debug/memory/heap?debug=1")
    assert (found, again.partition("\n\n")[2]) == (200, recorded.partition("\n\n")[2])  # without figures of now
    assert "<svg" in (await get(server, "debug/memory/heap?format=flame"))[1]


async def test_links_work_below_a_path(server: HttpServer) -> None:
    """A proxy may serve the pages below a path: every link of every page leads to a page, from there too."""
    pages = {"": "", "debug/memory": "?format=html", "debug/memory/heap": "?seconds=0.01&format=flame"}
    for path, query in pages.items():
        _, text, _ = await get(server, path + query, "POST" if "seconds" in query else "GET")
        links = re.findall(r"""(href|formaction)=["']([^"']+)""", text)
        assert links, path
        for kind, link in links:
            below = urljoin(f"http://proxy/ops/portd/{path}", link)
            assert below.startswith("http://proxy/ops/portd/"), (path, link)
            there = html.unescape(below.removeprefix("http://proxy/ops/portd/")).replace("seconds=3", "seconds=0.01")
            method = "GET" if kind == "href" else "POST"
            assert (await get(server, there, method))[0] == 200, (path, link)


async def test_a_taken_port_is_told(service: Observed) -> None:
    """A second portd on the same port says which, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        registry = service.registry()
        server = HttpServer(service, registry, ("127.0.0.1", port))
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: address already in use\nHINT: .*--http"):
            await server.start()
        server.close()


async def test_pages_are_quick(server: HttpServer) -> None:
    """No page may hold up the event loop that also answers the source."""
    for path in ("", "status", "metrics", "debug/memory?format=html", "debug/memory?format=json"):
        took = []
        for _ in range(3):
            start = time.thread_time()  # of client and server: a busy machine does not lengthen it
            assert (await get(server, path))[0] == 200
            took.append(time.thread_time() - start)
        assert min(took) < 0.25, path
