"""TLS that cannot work, on either end and in every command: said as what it is, at once, and not tried for ever."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from portd.model import ConnectionState
from portd.net.endpoint import Endpoint
from portd.target.connection import ConnectionOptions, Disconnected, connect
from tests.commands import run
from tests.servers import free_port
from tests.tls import over_tls

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server


@pytest.fixture(params=["plain", "untrusted", "ours"])
def broken(
    request: pytest.FixtureRequest, servers: ServerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """A URL whose TLS fails, and why."""
    if request.param == "plain":
        return f"rediss://127.0.0.1:{servers().port}", "the port answers without TLS"
    binary, certificate, files = over_tls(tmp_path)
    port = free_port()
    if request.param == "ours":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        servers(binary, tls_port=port, tls_auth_clients="yes", **files)
        return f"rediss://127.0.0.1:{port}", "alert certificate required"
    servers(binary, tls_port=port, tls_auth_clients="no", **files)
    return f"rediss://127.0.0.1:{port}", "self-signed certificate"


@pytest.mark.parametrize("command", ["sync", "check", "verify"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_of_both_ends(broken: tuple[str, str], source: Server, command: str, side: str) -> None:
    """77, with the reason and what to do, whichever end it is."""
    url, why = broken
    ends = {"source": source.url, "target": source.url} | {side: url}
    more = ("--http", "off") if command == "sync" else ()
    ended = run(command, "--source", ends["source"], "--target", ends["target"], *more, expect=os.EX_NOPERM)
    said = ended.err + ended.out.decode()
    assert why in said
    assert "a plain port needs redis://" in said
    assert "firewall" not in said


def test_of_what_reads_or_writes_one_end(broken: tuple[str, str], tmp_path: Path) -> None:
    """The same for a dump, and for a restore."""
    url, why = broken
    assert why in run("dump", "--source", url, "--output", tmp_path / "file.rdb", expect=os.EX_NOPERM).err
    assert why in run("decode", url, expect=os.EX_NOPERM).err
    (tmp_path / "empty.rdb").write_bytes(b"REDIS0009\xff" + bytes(8))
    assert why in run("restore", tmp_path / "empty.rdb", "--target", url, expect=os.EX_NOPERM).err


async def test_data_connections_say_where_and_why() -> None:
    """A lane that cannot connect names the address and the reason."""
    where = Endpoint.parse(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(Disconnected, match=rf"lane 0 to {where.display}: the target refused the connection"):
        await connect(where, "lane 0", ConnectionState(), ConnectionOptions())
    nowhere = Endpoint.parse("redis://nowhere.invalid")
    with pytest.raises(Disconnected, match=r"lane 0 to redis://nowhere\.invalid:6379: .*failed: .*[Nn]ame"):
        await connect(nowhere, "lane 0", ConnectionState(), ConnectionOptions())
