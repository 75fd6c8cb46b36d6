"""Keys that two links of one process put into the same target are noticed, counted and named; nothing is asked where none can be."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from portd.link.conflicts import LOOK_SECONDS
from tests.process import Links, streaming
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Server

WORDS = "two links write the same keys"


@pytest.fixture
def ends(servers: ServerFactory) -> tuple[Server, Server, Server]:
    """Two sources and a target."""
    return servers(), servers(), servers()


def conflict(portd: Links, link: str, other: str) -> dict[str, Any]:
    """What a link knows of another one."""
    found: dict[str, Any] = portd.of(link)["conflicts"][other]
    return found


def samples(portd: Links) -> dict[str, float]:
    """The series about conflicts."""
    lines = re.findall(r"^(portd_conflicts\S*) (\S+)$", portd.get("metrics", accept="text/plain"), re.MULTILINE)
    return {name: float(value) for name, value in lines}


@pytest.mark.parametrize("rules", ["none", "mapped"])
def test_keys_of_two_links_are_noticed(ends: tuple[Server, Server, Server], rules: str) -> None:
    """Whatever their names at the sources are: with rules that share an image, and without any."""
    eu, us, target = ends
    old = "" if rules == "none" else "old:"
    eu.client().mset(
        {f"{old}both:{number}": "eu" for number in range(50)} | {f"{old}eu:{number}": "1" for number in range(50)}
    )
    us.client(db=0 if rules == "none" else 2).mset(
        {f"both:{number}": "us" for number in range(50)} | {f"us:{number}": "1" for number in range(50)}
    )
    mine: dict[str, object] = {} if rules == "none" else {"rename_prefix": ["old:="], "share_image": True}
    theirs: dict[str, object] = {"existing": "replace"}
    if rules != "none":
        theirs |= {"map_db": ["2=0"], "include_db": [2], "share_image": True}
    tables = {"eu": {"source": eu, "target": target, **mine}, "us": {"source": us, "target": target, **theirs}}
    with Links(tables) as portd:
        status = portd.until_link("eu", lambda status: status["conflicts"]["us"]["found"] > 0)
        portd.until_link("us", lambda status: status["conflicts"]["eu"]["found"] > 0)
        found = status["conflicts"]["us"]
        assert 0 < found["found"] <= found["looked"]
        assert all(db == 0 and name.startswith("'both:") for db, name in found["keys"])
        portd.until_link("eu", lambda status: status["conflicts"]["us"]["looked"] > found["looked"])
        lines = [line for line in portd.log().splitlines() if WORDS in line]
        assert all("both:" in line for line in lines)
        for link in ("eu", "us"):  # the first one at once, and then one in a while, however often it looked
            told = [datetime.fromisoformat(line[3:30]) for line in lines if f"link={link} " in line]
            assert told, portd.log()
            assert all((later - earlier).total_seconds() >= LOOK_SECONDS - 1 for earlier, later in pairwise(told)), told
        series = samples(portd)
        assert series['portd_conflicts_total{link="eu",other="us"}'] > 0
        assert series['portd_conflicts_looked_total{link="us",other="eu"}'] > 0


def test_names_are_not_told_where_they_are_redacted(ends: tuple[Server, Server, Server]) -> None:
    """Counted all the same."""
    eu, us, target = ends
    for each in (eu, us):
        each.client().set("secret-name", "1")
    tables: dict[str, dict[str, object]] = {
        "eu": {"source": eu, "target": target},
        "us": {"source": us, "target": target},
    }
    tables["us"]["existing"] = "replace"
    with Links(tables, redact_keys=True) as portd:
        portd.until_link("eu", lambda status: status["conflicts"]["us"]["found"] > 0)
        assert "secret-name" not in portd.log()
        assert "secret-name" not in portd.get("status")


def test_links_that_are_kept_apart_ask_nothing(ends: tuple[Server, Server, Server]) -> None:
    """Other prefixes, or other targets: no question, no series, no line."""
    eu, us, target = ends
    for each in (eu, us):
        each.client().set("a", "1")
    tables = {
        "eu": {"source": eu, "target": target, "add_prefix": "eu:"},
        "us": {"source": us, "target": target, "add_prefix": "us:"},
    }
    with Links(tables) as portd:
        portd.until_link("eu", streaming)
        portd.until_link("us", streaming)
        assert portd.of("eu")["conflicts"] == portd.of("us")["conflicts"] == {}
        assert samples(portd) == {}
    assert "cmdstat_exists" not in eu.info("commandstats")
    assert "cmdstat_scan" not in us.info("commandstats")


def test_a_source_that_does_not_let_us_is_told_once(ends: tuple[Server, Server, Server]) -> None:
    """The sync goes on, and it is said that nothing is looked for."""
    eu, us, target = ends
    with Wire(us) as wire:
        wire.call("ACL", "SETUSER", "reader", "on", ">pass", "+ping", "+replconf", "+psync", "+info")
    url = f"redis://reader:pass@127.0.0.1:{us.port}"
    eu.client().set("a", "1")
    us.client().set("b", "1")
    tables: dict[str, dict[str, object]] = {
        "eu": {"source": eu, "target": target},
        "us": {"source": url, "target": target},
    }
    tables["us"]["existing"] = "replace"
    with Links(tables) as portd:
        status = portd.until_link("eu", lambda status: bool(status["conflicts"]["us"]["error"]))
        assert "NOPERM" in status["conflicts"]["us"]["error"]
        portd.until_link("us", streaming)
        us.client().set("c", "1")
        portd.until_link_applied("us", us)
        assert portd.log().count("not looked for") <= 2
        assert conflict(portd, "eu", "us")["found"] == 0
