"""The pages in a real browser: nothing of them runs over its edge, breaks the policy, or loses what a user looks at."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import PHONE, WIDE, Browser, needs_browser
from tests.commands import run
from tests.datasets import fill_strings
from tests.process import Links, Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

pytestmark = needs_browser

LONG = "x" * 10_000
EVIL = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">&\"'"
KEYS = (EVIL.encode(), b"\x00\xff\x1b[31m" + bytes(range(256)), LONG.encode(), "\u202egnp.exe \U0001f469".encode())
OVER = """
return [...document.querySelectorAll('main *')].filter((each) => !each.closest('.scroll, svg') &&
    each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML.slice(0, 200))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    with Browser() as found:
        yield found


def fits(browser: Browser, url: str) -> None:
    """A page on a desk and on a phone, light and dark: nothing is wider than the window, nothing is blocked or fails."""
    browser.open("about:blank")
    browser.complaints()  # those of other pages
    for width in (WIDE, PHONE):
        for dark in (False, True):
            browser.look(width=width, dark=dark)
            browser.open(url)
            assert browser.run(OVER) == [], (url, width)
            assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), (url, width)
            assert "broken" not in browser.run("return document.title")
            assert browser.complaints() == []


def streaming(status: dict[str, Any]) -> bool:
    """It has caught up."""
    return bool(status["phase"] == "streaming")


def test_pages_fit_and_break_no_policy(browser: Browser, source: Server, target: Server) -> None:
    """Whatever keys are called, however long errors are."""
    client = source.client()
    for key in KEYS:
        client.hset(key, mapping={f"field{number}": "x" * 100 for number in range(2000)})
    fill_strings(source, 1000)
    with Portd(source, target, command_bytes=4096) as portd:
        portd.until(streaming)
        target.client().set(KEYS[0], "no hash")
        client.hset(KEYS[0], "a", "b")  # WRONGTYPE: a dead letter, and an error
        portd.until(lambda status: bool(status["dead_letters"]))
        portd.get("debug/memory/heap?seconds=0.1&debug=1", method="POST")
        for page in ("", "?span=day", "debug/memory?format=html", "debug/memory/heap?format=flame"):
            fits(browser, f"http://{portd.http}/{page}")


def test_several_links_fit(browser: Browser, servers: ServerFactory) -> None:
    """The table of all, and a link's own page, to which it leads."""
    tables = {name: {"source": servers(), "target": servers()} for name in ("eu", "us")}
    with Links(tables) as portd:
        for name in tables:
            portd.until_link(name, streaming)
        wait_for_sync(
            lambda: all(portd.get(f"?link={name}", "text/html").count('class="plot"') == 4 for name in tables)
        )
        fits(browser, f"http://{portd.http}/")
        browser.look()
        browser.open(f"http://{portd.http}/")
        browser.run("document.querySelector('table a').click()")
        wait_for_sync(lambda: "link=" in browser.run("return location.search"))
        wait_for_sync(lambda: browser.run("return document.querySelectorAll('.plot').length") == 4)


def looked_at(browser: Browser) -> str:
    """The time that the first plot shows."""
    text: str = browser.run("return document.querySelector('.plot time').textContent")
    return text


@pytest.fixture
def followed(source: Server, target: Server) -> Iterator[str]:
    """The address of a page that has something to plot."""
    with Portd(source, target) as portd:
        portd.until(streaming)
        wait_for_sync(lambda: portd.get("", "text/html").count('class="plot"') == 4)
        wait_for_sync(lambda: len(json.loads(portd.get("debug/memory"))["history"]["at"]) > 3)
        yield f"http://{portd.http}/"


def test_a_plot_shows_the_figures_at_the_pointer(browser: Browser, followed: str) -> None:
    """With the mouse and with arrow keys; a page that is brought up to date leaves them there."""
    browser.look()
    browser.open(followed)
    newest = looked_at(browser)
    browser.point(".plot .area", 0.01)
    assert looked_at(browser) < newest
    browser.point("h1", 0.5)
    browser.run("document.querySelector('.plot input').focus()")
    before = looked_at(browser)
    browser.keys("\ue012", "\ue012")  # left, twice
    assert looked_at(browser) < before
    said = browser.run("return document.activeElement.getAttribute('aria-valuetext')")
    assert said.startswith(looked_at(browser))
    assert "behind the source" in said


def test_a_page_is_renewed_in_place(browser: Browser, followed: str) -> None:
    """Focus, scroll and selection stay where they are while figures move on."""
    browser.look(width=PHONE)
    browser.open(followed)
    browser.run(
        "window.kept = document.querySelector('.scroll'); kept.scrollLeft = 7; document.querySelector('.spans a').focus();"
        "window.up = [...document.querySelectorAll('#state .soft')].pop().textContent"
    )
    before = browser.run("return document.querySelector('.scroll').scrollLeft")
    wait_for_sync(lambda: browser.run("return [...document.querySelectorAll('#state .soft')].pop().textContent !== up"))
    assert browser.run("return document.activeElement.matches('.spans a')")
    assert browser.run("return document.querySelector('.scroll') === kept && kept.scrollLeft") == before


def test_a_page_that_gets_no_answer_says_so(browser: Browser, source: Server, target: Server) -> None:
    """Old figures are not taken for new ones, and it goes on when there is an answer again."""
    portd = Portd(source, target)
    with portd:
        portd.until(streaming)
        browser.look()
        browser.open(f"http://{portd.http}/")
    wait_for_sync(lambda: browser.run("return document.body.matches('.stale')"))
    assert browser.run("return document.getElementById('stale').innerText") == "no answer, trying again"


def test_pages_tell_all_without_a_script(browser: Browser, followed: str) -> None:
    """What only works with one is not there: the figures are, and the page renews itself."""
    browser.look(script=False)
    browser.open(followed)
    browser.look()
    assert browser.run("return getComputedStyle(document.querySelector('.plot input')).display") == "none"
    assert browser.run("return document.querySelectorAll('.plot svg path').length") == 7
    assert browser.run("return document.querySelector('noscript meta') !== null")


def test_the_flame_graph_is_led_through_by_keys(browser: Browser, source: Server, target: Server) -> None:
    """Arrow keys, Enter and Escape."""
    with Portd(source, target) as portd:
        portd.until(streaming)
        portd.get("debug/memory/heap?seconds=0.1&debug=1", method="POST")
        browser.look()
        browser.open(f"http://{portd.http}/debug/memory/heap?format=flame")
        browser.run("document.querySelector('.flame').focus()")
        browser.keys("\ue015", "\ue007")  # down, Enter
        picked = browser.run("return document.getElementById('picked').textContent")
        assert picked == browser.run("return document.querySelector('.here title').textContent")
        assert browser.run("return document.querySelector('.here rect').getAttribute('width')") == "100%"
        browser.keys("\ue00c")
        assert browser.run("return document.getElementById('picked').textContent").startswith("all: ")


def test_the_report_fits_a_phone(browser: Browser, source: Server, tmp_path: Path) -> None:
    """A file, opened from the disk; names of keys are text there, too."""
    client = source.client()
    for key in KEYS:
        client.hset(key, mapping={"field": "value"})
        client.set(b"prefix" + key + b":1", "x")
    page = tmp_path / "report.html"
    run("decode", source.url, "-f", "stats", "--report", "html", "-o", page)
    fits(browser, page.as_uri())
