"""``python -m tests.pictures``: makes the pictures of the pages in docs/ again, of real syncs in a real browser.

It takes some minutes: something has to happen that can be plotted.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.browser import Browser
from tests.commands import run
from tests.datasets import fill_every_encoding, fill_strings
from tests.process import Portd
from tests.servers import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

SCALE: Final = 0.7
WIDTH: Final = 1100
LARGEST_BYTES: Final = 100_000  # of a picture
FIRE_SECONDS: Final = 70.0  # a spool that fills is a warning for a minute before it fires


def streaming(portd: Portd) -> None:
    """Waits until the target has caught up."""
    portd.until(lambda status: bool(status["phase"] == "streaming"))


def write(source: Server, seconds: float) -> None:
    """Writes for that long, now more and now less."""
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        fill_strings(source, 200 + turn * 97 % 900, 300)
        turn += 1
        time.sleep(0.2)


def follow(browser: Browser, docs: Path, seconds: float) -> None:
    """A sync that streams and compares both ends now and then; and a report on its source."""
    with Server() as source, Server() as target:
        fill_strings(source, 20_000, 300)
        with Portd(source, target, verify_every=20) as portd:
            streaming(portd)
            write(source, seconds)
            show(browser, f"http://{portd.http}/", docs / "status-page.png", 1000)
        page = docs / "report.html"
        fill_every_encoding(source)
        run("decode", source.url, "-f", "stats", "--report", "html", "-o", page)
        show(browser, page.absolute().as_uri(), docs / "report-page.png", 700)
        page.unlink()


def suffer(browser: Browser, docs: Path, seconds: float) -> None:
    """A target that stands still, and has refused a command before."""
    with (
        Server(client_output_buffer_limit="replica 256mb 8mb 300") as source,
        Server() as target,
        Portd(source, target, spool_max_bytes="16MiB", memory_budget="9MiB") as portd,
    ):
        streaming(portd)
        target.client().set("list", "no list")
        source.client().rpush("list", "a")
        portd.until(lambda status: bool(status["dead_letters"]))
        write(source, seconds / 3)
        target.signal(signal.SIGSTOP)
        fill_strings(source, 60_000, 1000)
        time.sleep(FIRE_SECONDS)
        show(browser, f"http://{portd.http}/", docs / "status-page-trouble.png", 800)
        target.signal(signal.SIGCONT)


def show(browser: Browser, url: str, picture: Path, height: float) -> None:
    """Takes one picture."""
    browser.look(width=WIDTH, height=int(height))
    browser.open(url)
    browser.picture(picture, height=height, scale=SCALE)
    if picture.stat().st_size > LARGEST_BYTES:
        raise SystemExit(f"{picture} is too large: {picture.stat().st_size} bytes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--seconds", type=float, default=60.0, help="for which writes go on")
    given = parser.parse_args(arguments)
    with Browser() as browser:
        follow(browser, given.docs, given.seconds)
        suffer(browser, given.docs, given.seconds)


if __name__ == "__main__":
    main()
