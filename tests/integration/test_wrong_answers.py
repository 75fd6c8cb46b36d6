"""Servers that answer with what no server answers: a message that says so, never a traceback, and bounded memory."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from portd.cli.failures import cause, exit_code
from portd.config.choices import StopAfter
from portd.config.settings import Settings
from portd.errors import PortdError
from portd.preflight.audit import check as preflight
from portd.process import Service
from portd.verify.options import Options
from portd.verify.verification import verify
from tests.datasets import fill_every_encoding
from tests.hostile import LyingServer
from tests.process import Portd

if TYPE_CHECKING:
    from tests.servers import Server

LIES = {
    "a number": b":1\r\n",
    "nil": b"$-1\r\n",
    "an empty list": b"*0\r\n",
    "OK": b"+OK\r\n",
    "a map": b"%1\r\n+a\r\n:1\r\n",
    "a mixed list": b"*2\r\n:1\r\n$-1\r\n",
    "nested lists": b"*2\r\n*1\r\n+x\r\n*0\r\n",
    "a text": b"$16\r\ndb9:keys=\xff,x\r\n\xff\r\n",
    "a huge number": b":9223372036854775807\r\n",
    "huge digits": b"*2\r\n$7\r\nversion\r\n$5000\r\n" + b"9" * 5000 + b"\r\n",
    "an error without a word": b"-\r\n",
}
ON_TARGET = (
    *("", "INFO", "CONFIG", "COMMAND", "CLIENT", "MULTI", "EXEC", "WATCH", "HGETALL", "HGET", "HSET", "DEL", "UNLINK"),
    *("SELECT", "SCAN", "EXISTS", "EVAL", "SET", "MSET", "RESTORE", "PEXPIRE", "SCRIPT", "XADD"),
)
ON_SOURCE = ("INFO", "CONFIG", "CLIENT", "PING", "REPLCONF", "PSYNC", "")
IN_VERIFY = ("INFO", "SELECT", "SCAN", "DUMP", "PEXPIRETIME", "PTTL", "MEMORY", "FUNCTION", "")
SECONDS = 0.7  # an end that may pass is tried again: nothing new comes of that


async def ended(work: Any) -> BaseException | None:
    """What ended it, None when it works on or is done; nothing may be left to the event loop to report."""
    stray: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
    error: BaseException | None = None
    try:
        async with asyncio.timeout(SECONDS):
            await work
    except TimeoutError:
        pass
    except BaseException as caught:  # noqa: BLE001 - it is looked at
        error = caught
    await asyncio.sleep(0)
    return error or (RuntimeError(stray) if stray else None)


def untold(error: BaseException | None) -> str:
    """What is wrong with an end: "" for an error of portd, in words, and for none."""
    if error is None:
        return ""
    found = cause(error)
    told = isinstance(found, PortdError) and exit_code(error) != os.EX_SOFTWARE
    where = found.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return "" if told else f"{found!r} in {where and where.tb_frame.f_code.co_filename}:{where and where.tb_lineno}"


def settings(source: str, target: str, folder: Path, **others: Any) -> Settings:
    """Of a sync that ends when it has caught up."""
    return Settings(
        source=source, target=target, http="off", spool_dir=folder, stop_after=StopAfter.CAUGHT_UP, **others
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", ON_TARGET, ids=lambda name: name or "everything")
async def test_a_target_that_lies(name: str, source: Server, target: Server, tmp_path: Path) -> None:
    """Whatever it answers to one command, or to all: from the start, and from the third time on."""
    fill_every_encoding(source)
    found = []
    for said, lie in LIES.items():
        for first in (0, 2):
            await asyncio.to_thread(target.client().flushall)
            with LyingServer(target.port, name, lie, first=first) as liar:
                what = untold(await ended(Service(settings(source.url, liar.url, tmp_path)).run()))
                found += [f"{said} after {first}: {what}"] if what else []
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ON_SOURCE, ids=lambda name: name or "everything")
async def test_a_source_that_lies(name: str, source: Server, target: Server, tmp_path: Path) -> None:
    """The same with the other end."""
    found = []
    for said, lie in LIES.items():
        await asyncio.to_thread(target.client().flushall)
        with LyingServer(source.port, name, lie) as liar:
            what = untold(await ended(Service(settings(liar.url, target.url, tmp_path)).run()))
            found += [f"{said}: {what}"] if what else []
    assert not found, "\n".join(found)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", IN_VERIFY, ids=lambda name: name or "everything")
async def test_an_end_of_a_comparison_that_lies(name: str, source: Server, target: Server, tmp_path: Path) -> None:
    """The same for `verify`, on either side."""
    fill_every_encoding(source)
    found = []
    for said, lie in LIES.items():
        with LyingServer(source.port, name, lie) as liar:
            for ends in ((liar.url, target.url), (source.url, liar.url)):
                what = untold(await ended(verify(settings(*ends, tmp_path), Options(), lambda _: None)))
                found += [f"{said}: {what}"] if what else []
    assert not found, "\n".join(found)


@pytest.mark.deep
async def test_ends_that_lie_to_a_check(source: Server, target: Server, tmp_path: Path) -> None:
    """The same for `check`."""
    found = []
    for name in ("", "INFO", "CONFIG", "TIME", "ACL", "COMMAND", "REPLCONF", "PSYNC", "HGETALL", "MULTI", "SELECT"):
        for said, lie in LIES.items():
            with LyingServer(source.port, name, lie) as liar, LyingServer(target.port, name, lie) as other:
                for ends in ((liar.url, target.url), (source.url, other.url)):
                    what = untold(await ended(preflight(settings(*ends, tmp_path), sample_seconds=0.01)))
                    found += [f"{name} {said}: {what}"] if what else []
    assert not found, "\n".join(found)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["INFO", "HGETALL", "COMMAND", "SCAN"])
def test_endless_elements_take_no_memory(name: str, source: Server, target: Server) -> None:
    """Objects are bounded as well as bytes: a list that announces more than is believed ends the connection."""
    target.client().set("k", "v")
    for lie in (b"*2147483647\r\n", b"*90000\r\n" * 7, b""):
        with LyingServer(target.port, name, lie, endless=b":1\r\n" * 16384) as liar:
            with Portd(source, liar.url, connect_seconds=3, existing="replace") as portd:
                peak = 0
                while portd.alive and liar.sent < 64 << 20:
                    peak = max(peak, _peak(portd.process.pid))
                assert portd.wait() == os.EX_UNAVAILABLE, portd.log()
                assert "Traceback" not in portd.log()
            assert liar.lies
            assert peak < 70 << 20, f"{peak >> 20} MiB"


def _peak(pid: int) -> int:
    """The most memory that a process has had, in bytes; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM")), 0)


@pytest.mark.parametrize("suffix", ["", ":lease", ":epoch"])
def test_a_key_of_ours_with_another_type_is_named(suffix: str, source: Server, target: Server) -> None:
    """The message says which key stands in the way, and what to delete."""
    key = f"portd:checkpoint:default{suffix}"
    target.client().set(key, "x")
    with Portd(source, target) as portd:
        assert portd.wait() == os.EX_UNAVAILABLE
        assert f"delete the key {key!r}" in portd.log()
    target.client().delete(key)
    with Portd(source, target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offset", "9" * 30), ("offset", "-1"), ("offset", "9" * 5000), ("offset", "x"), ("offset", "\u0661\u0662"),
        ("db", "99999999999"), ("db", "-2"), ("time_ms", "9" * 400), ("version", "9" * 5000), ("version", "4"),
        ("state", "else"), ("epoch", None), ("strands", "many"),
    ],
)  # fmt: skip
def test_numbers_of_a_checkpoint_are_not_believed(
    field: str, value: str | None, source: Server, target: Server
) -> None:
    """What is missing, no number or out of range is a message."""
    checkpoint: dict[Any, Any] = {
        "version": "1", "state": "stream", "replid": "a" * 40, "offset": "1", "db": "0", "epoch": "x", "time_ms": "1",
    }  # fmt: skip
    if value is None:
        del checkpoint[field]
    else:
        checkpoint[field] = value
    target.client().hset("portd:checkpoint:default", mapping=checkpoint)
    with Portd(source, target) as portd:
        assert portd.wait() == os.EX_UNAVAILABLE
        assert "checkpoint" in portd.log()
        assert "Traceback" not in portd.log()
