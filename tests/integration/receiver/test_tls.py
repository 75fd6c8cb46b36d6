"""The link over TLS, and over either event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from portd.errors import HandshakeError, SourceError
from portd.net.endpoint import Endpoint, Tls
from portd.source.info import read_info
from portd.source.losses import ReceiverLost
from tests.integration.receiver.kit import acknowledged, command, ends
from tests.servers import Server, free_port, wait_for
from tests.tls import speaks_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Binary


@dataclass(frozen=True)
class Certificates:
    """An authority, a server and a client certificate."""

    ca: Path
    server: Path
    client: Path

    @property
    def server_context(self) -> ssl.SSLContext:
        """For a server that wants a client certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(self.server)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made with openssl; PEM files that hold key and certificate."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    try:
        openssl(*new, "-x509", "-days", "2", "-subj", "/CN=test ca", "-keyout", "ca.key", "-out", "ca.pem")
    except FileNotFoundError:
        pytest.skip("no openssl here")
    for name, names in (("server", "DNS:source.test,IP:127.0.0.1"), ("client", "DNS:client.test")):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "names").write_text(f"subjectAltName={names}")
        openssl(
            *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "names", "-out", f"{name}.crt"),
        )
        (folder / f"{name}.pem").write_text((folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text())
    return Certificates(folder / "ca.pem", folder / "server.pem", folder / "client.pem")


@contextlib.asynccontextmanager
async def tls_proxy(server: Server, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Terminates TLS in front of a server; yields its port."""
    serving: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(server.path))
            await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
    await asyncio.gather(*serving)


async def test_tls_with_client_certificate_and_server_name(source: Server, certificates: Certificates) -> None:
    """Authority, client certificate and SNI are used by both the link and the control plane."""
    source.client().config_set("rdbcompression", "no")
    command(source, "DEBUG", "POPULATE", 100, "key", 30_000)
    asked: list[str] = []
    context = certificates.server_context
    context.sni_callback = lambda _, name, __: asked.append(name or "")
    tls = Tls(ca=certificates.ca, cert=certificates.client, server_name="source.test")
    async with tls_proxy(source, context) as port:
        endpoint = Endpoint("127.0.0.1", port, tls=tls)
        async with ends(endpoint) as each:
            assert len(await each.snapshot(await each.begin())) > 3_000_000
            await acknowledged(source, each)
        assert (await read_info(endpoint)).role == "primary"
    assert set(asked) == {"source.test"}


async def test_tls_refusals_name_the_cause(source: Server, certificates: Certificates) -> None:
    """Untrusted authority, wrong name, TLS to a plain port and the reverse are errors that stay."""
    good = Tls(ca=certificates.ca, cert=certificates.client, server_name="source.test")
    wrong = {
        "certificate": Tls(cert=certificates.client, server_name="source.test"),
        "other.test": Tls(ca=certificates.ca, cert=certificates.client, server_name="other.test"),
    }
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the proxy's own complaints
    async with tls_proxy(source, certificates.server_context) as port:
        for words, tls in wrong.items():
            async with ends(Endpoint("127.0.0.1", port, tls=tls)) as each:
                with pytest.raises(HandshakeError, match=words) as caught:
                    await each.begin()
                assert caught.value.hint
            with pytest.raises(HandshakeError, match=words):
                await read_info(Endpoint("127.0.0.1", port, tls=tls))
        async with ends(Endpoint("127.0.0.1", port)) as each:
            with pytest.raises(ReceiverLost, match="rediss://"):
                await each.begin()
        with pytest.raises(ReceiverLost, match="rediss://"):
            await read_info(Endpoint("127.0.0.1", port))
    async with ends(Endpoint("127.0.0.1", source.port, tls=good), connect_seconds=1.0) as each:
        with pytest.raises(SourceError):
            await each.begin()


async def test_tls_of_the_server_itself(servers: ServerFactory, binary: Binary, certificates: Certificates) -> None:
    """TLS as servers speak it, without a proxy in between."""
    port = free_port()
    files = {"tls_ca_cert_file": certificates.ca, "tls_cert_file": certificates.server}
    settings = {name: str(path) for name, path in files.items()} | {"tls_key_file": str(certificates.server)}
    if not speaks_tls(binary):
        pytest.skip(f"{binary.name} is built without TLS")
    server = servers(binary, tls_port=port, **settings)
    server.client().set("k", "v" * 100_000)
    async with ends(Endpoint("127.0.0.1", port, tls=Tls(ca=certificates.ca, cert=certificates.client))) as each:
        await each.snapshot(await each.begin())
        await acknowledged(server, each)
    async with ends(Endpoint("127.0.0.1", port, tls=Tls(ca=certificates.ca))) as each:
        with pytest.raises(HandshakeError, match="certificate required"):
            await each.begin()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_both_event_loops(
    run: Callable[[Coroutine[Any, Any, None]], None], source: Server, certificates: Certificates, tmp_path: Path
) -> None:
    """Full sync under pressure, partial resync and TLS work on either event loop."""
    source.client().config_set("rdbcompression", "no")
    command(source, "DEBUG", "POPULATE", 500, "key", 20_000)

    async def scenario() -> None:
        async with tls_proxy(source, certificates.server_context) as port:
            tls = Tls(ca=certificates.ca, cert=certificates.client)
            for endpoint in (Endpoint("127.0.0.1", source.port), Endpoint("127.0.0.1", port, tls=tls)):
                async with ends(endpoint, tmp_path, memory=256 << 10) as each:
                    transfer = await each.begin()
                    await wait_for(lambda each=each: each.spool.written > 10_000_000)  # type: ignore[misc]
                    await each.snapshot(transfer)
                    await acknowledged(source, each)
                    await each.stop()
                    assert not (await each.begin(each.position())).full
                    source.client().set("k", "v")
                    await each.read(lambda got: b"SET" in got)

    run(scenario())
