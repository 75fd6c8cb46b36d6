"""Where a server is and how to get in: address, credentials, TLS.

Both ends of a sync are endpoints. Connections are opened with `Endpoint.connect`, with an asyncio protocol of the
caller's; `portd.net.control` has one for questions. Passwords stay out of reprs, messages and `display`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from portd.errors import ConfigError
from portd.net.resp import request
from portd.net.sentinel import DEFAULT_PORT as SENTINEL_PORT
from portd.net.sentinel import Sentinels
from portd.net.topology import Address, Entrance, NoMap, Seeds, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine
    from pathlib import Path
    from urllib.parse import SplitResult

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)

DEFAULT_PORT = 6379
CONNECT_SECONDS = 10.0  # where no setting says otherwise
SILENCE_SECONDS = 60.0  # likewise
PLAIN_SECONDS = 1.0  # a TLS handshake that takes longer makes us look whether the port speaks without TLS
TLS_HINT = (
    "check the certificate authority, the certificate's names and validity; a plain port needs redis://, and a server that "
    "wants a certificate of ours *_tls_cert"
)
_TLS_LOSSES = (
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ssl.SSLSyscallError,
    ssl.SSLWantReadError,
)  # it went away meanwhile
SECRET_BYTES = 64 * 1024  # read of a file that holds one
KEEPALIVE_IDLE_SECONDS = 15  # quiet time before the kernel probes the peer
KEEPALIVE_INTERVAL_SECONDS = 5  # between probes
KEEPALIVE_PROBES = 3  # unanswered probes that end the connection

_PASSWORD_HINT = (
    "percent-encode special characters of the password (@ as %40, / as %2F, # as %23), or keep it in a file"  # noqa: S105
)
_SCHEME_HINT = (
    "use redis://[user[:password]@]host[:port], rediss://... for TLS, unix:///path/to/socket, or "
    "redis+sentinel://[user[:password]@]host[:port][,host[:port]...]/name, or "
    "redis+cluster://[user[:password]@]host[:port][,host[:port]...]"
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How a TLS connection is made.

    Attributes:
        ca: PEM file of the authorities to trust; None trusts the system's.
        cert: PEM file of our certificate, when the server asks for one.
        key: PEM file of its private key; None when *cert* holds both.
        server_name: the name to ask for (SNI) and to find in the certificate; None is the endpoint's host.
        verify: check the server's certificate and name.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """A fresh client context; files are read again each time, so renewed certificates are picked up.

        Raises:
            ConfigError: a file cannot be read or does not hold what it should.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise _unusable(self.ca, "trusted authorities", error) from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert is not None:
            try:
                # The empty password keeps OpenSSL from asking for one on the terminal.
                context.load_cert_chain(self.cert, self.key, password="")
            except OSError as error:
                raise _unusable(self.cert, "client certificate and key", error) from None
        return context


class NoTls(ssl.SSLError):
    """The port speaks the protocol without TLS."""

    def __init__(self) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, "the port answers without TLS")
        self.reason = "the port answers without TLS"


class _Listener(asyncio.Protocol):
    """Sends nothing, and keeps what ended the connection."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells who waits."""
        if not self.ended.done():
            self.ended.set_result(exc)


def tls_failure(error: BaseException | None) -> str:
    """Why TLS failed, in words, where it will fail again until somebody changes something; "" for any other error."""
    if not isinstance(error, ssl.SSLError) or isinstance(error, _TLS_LOSSES):
        return ""
    detail = getattr(error, "verify_message", "") or getattr(error, "reason", "") or "failed"
    return str(detail).lower().replace("_", " ").replace("without tls", "without TLS")


@dataclass(slots=True)
class Whereabouts:
    """Where a node of a cluster is by now.

    Attributes:
        address: None: nobody knows yet.
    """

    address: Address | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: a TCP address or a unix socket, with credentials and TLS.

    Attributes:
        host: name or address; empty for a unix socket.
        port: TCP port; 0 for a unix socket.
        path: unix socket; None for TCP.
        username: ACL user; None is the default user.
        password: None when none is needed.
        tls: None for a plain connection.
        sentinels: who tells the address of the server, at every connection; host and port are the first Sentinel's then.
        seeds: nodes of a cluster, who tell at every connection where the primary is that has *slot*.
        slot: what is wanted of a cluster.
        whereabouts: kept by somebody who follows the map of the cluster, in the place of *slot*.
        connect_seconds: longest wait for a connection, and for answers before work begins or beside it.
        silence_seconds: a connection that is owed something and brings no byte for this long is given up.
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    path: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    sentinels: Sentinels | None = None
    seeds: Seeds | None = None
    slot: int = 0
    whereabouts: Whereabouts | None = field(default=None, compare=False)
    connect_seconds: float = CONNECT_SECONDS
    silence_seconds: float = SILENCE_SECONDS

    @property
    def place(self) -> tuple[object, ...]:
        """What two endpoints have in common that are written as one server, whoever logs in."""
        return self.host, self.port, self.path, self.sentinels, self.seeds

    @classmethod
    def parse(cls, url: str, *, password: str | None = None, tls: Tls | None = None) -> Endpoint:
        """Reads a URL as redis-py knows them; the database in it is ignored, since all are copied.

        Args:
            url: `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, `redis+cluster://`, or these two with `rediss`.
            password: wins over the one in the URL.
            tls: settings for `rediss://`; defaults apply when None.

        Raises:
            ConfigError: the URL cannot be understood. The message never repeats what could be a password.
        """
        if url.startswith(("redis+sentinel://", "rediss+sentinel://")):
            return _behind_sentinels(cls, url, password, tls)
        if is_cluster(url):
            return _of_cluster(cls, url, password, tls)
        parts, port = _split(url)
        options = _options(parts)
        username = unquote(parts.username) if parts.username else options.get("username")
        if password is None:
            password = unquote(parts.password) if parts.password else options.get("password")
        if parts.scheme != "rediss" and tls not in {None, Tls()}:
            raise ConfigError(
                f"TLS options are set, but the URL begins with {parts.scheme}://",
                hint="use rediss:// for a TLS connection, or remove the TLS options",
            )
        if parts.scheme == "unix":
            path = unquote(parts.path)
            if not path or parts.hostname:
                raise ConfigError("a unix:// URL needs an absolute path", hint=_SCHEME_HINT)
            return cls(host="", port=0, path=path, username=username, password=password)
        host = unquote(parts.hostname) if parts.hostname else "localhost"
        _check_host(host)
        return cls(
            host=host,
            port=DEFAULT_PORT if port is None else port,
            username=username,
            password=password,
            tls=(tls or Tls()) if parts.scheme == "rediss" else None,
        )

    def one_server(self, what: str) -> Endpoint:
        """This endpoint, if it is no cluster.

        Args:
            what: is to be done, for the message.

        Raises:
            ConfigError: it is one.
        """
        if self.seeds is not None:
            raise ConfigError(
                f"{what} cannot be had of a cluster yet",
                hint="docs/clusters.md says what can; it works with single servers",
            )
        return self

    @property
    def display(self) -> str:
        """The URL without credentials, for logs and pages."""
        if self.path is not None:
            return f"unix://{self.path}"
        if self.sentinels is not None:
            addresses = ",".join(shown(*address) for address in self.sentinels.addresses)
            return f"{'rediss' if self.tls else 'redis'}+sentinel://{addresses}/{self.sentinels.name}"
        if self.seeds is not None:
            addresses = ",".join(shown(*address) for address in self.seeds.addresses)
            return f"{'rediss' if self.tls else 'redis'}+cluster://{addresses}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}"

    def auth_command(self) -> bytes | None:
        """The AUTH command as RESP, or None when there are no credentials."""
        if self.username:
            words = ["AUTH", self.username, self.password or ""]
        elif self.password:
            words = ["AUTH", self.password]
        else:
            return None
        return request(*words)

    @property
    def entrance(self) -> Entrance:
        """How to get into the nodes of a cluster."""
        tls = self.tls
        return Entrance(
            seconds=self.connect_seconds,
            login=self.auth_command(),
            context=tls.context if tls is not None else None,
            server_name=tls.server_name if tls is not None else None,
        )

    async def connect(self, factory: Callable[[], ProtocolT], *, timeout: float) -> tuple[asyncio.Transport, ProtocolT]:  # noqa: ASYNC109
        """Opens a connection, TLS included; nothing is sent on it.

        Args:
            factory: makes the protocol, as `loop.create_connection` wants it.
            timeout: seconds for name resolution, connect and TLS handshake together.

        Raises:
            OSError: refused, unreachable, unknown name, TLS failure (`ssl.SSLError`) or timeout (`TimeoutError`).
            ConfigError: a TLS file cannot be used.
        """
        loop = asyncio.get_running_loop()
        if self.sentinels is not None or self.seeds is not None:
            begun = loop.time()
            async with asyncio.timeout(timeout):
                primary = await self.primary()
            return await primary.connect(factory, timeout=max(0.0, timeout - (loop.time() - begun)))
        async with asyncio.timeout(timeout):
            if self.path is not None:
                transport, protocol = await loop.create_unix_connection(factory, self.path)
            else:
                context = self.tls.context() if self.tls else None
                made = loop.create_connection(
                    factory, self.host, self.port, ssl=context, server_hostname=self._server_name()
                )
                transport, protocol = await (self._secured(made) if context else made)
        if self.path is None:
            _tune(transport)
        return transport, protocol

    async def explained(self, error: OSError) -> OSError:
        """What ended a connection before it brought anything, where TLS knows more than *error* says.

        A server that wants a certificate of ours says so behind the handshake (TLS 1.3), and resets the connection because of what
        we had sent meanwhile. Asked again in silence, it is heard.
        """
        if self.tls is None or not isinstance(error, (ConnectionError, ssl.SSLError)) or tls_failure(error):
            return error
        listener = _Listener()
        try:
            transport, _ = await self.connect(lambda: listener, timeout=self.connect_seconds)
        except OSError as again:
            return again if tls_failure(again) else error
        try:
            async with asyncio.timeout(PLAIN_SECONDS):
                said = await listener.ended
        except TimeoutError:
            return error
        finally:
            transport.abort()
        return said if isinstance(said, OSError) and tls_failure(said) else error

    async def primary(self) -> Endpoint:
        """This endpoint with the address that Sentinels or nodes of the cluster tell now; itself when there are none.

        Raises:
            NoPrimary: no Sentinel tells it; an `OSError`.
            NoMap: no node of the cluster does, or nobody has the slot; an `OSError`.
        """
        if self.seeds is not None:
            if self.whereabouts is None:
                host, port = await self.seeds.owner(self.entrance, self.slot)
            elif self.whereabouts.address is None:
                raise NoMap("no node of the cluster tells where the shard is")
            else:
                host, port = self.whereabouts.address
            return replace(self, host=host, port=port, seeds=None)
        if self.sentinels is None:
            return self
        host, port = await self.sentinels.find_primary(self.connect_seconds, self.tls.context if self.tls else None)
        return replace(self, host=host, port=port, sentinels=None)

    async def _secured(
        self, made: Coroutine[Any, Any, tuple[asyncio.Transport, ProtocolT]]
    ) -> tuple[asyncio.Transport, ProtocolT]:
        """Waits for a connection over TLS. A port without TLS takes the greeting for half of a command, and says nothing.

        Raises:
            NoTls: it is such a port: it answers to a command.
        """
        task = asyncio.create_task(made, name="TLS handshake")
        try:
            done, _ = await asyncio.wait({task}, timeout=PLAIN_SECONDS)
            if not done and await self._answers_without_tls() and not task.done():
                raise NoTls
            return await task
        finally:
            task.cancel()

    async def _answers_without_tls(self) -> bool:
        try:
            async with asyncio.timeout(PLAIN_SECONDS):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    writer.write(request("PING"))
                    return (await reader.read(1)) in {b"+", b"-"}
                finally:
                    writer.transport.abort()
        except OSError:  # TimeoutError is one
            return False

    def _server_name(self) -> str | None:
        if self.tls is None:
            return None
        return self.tls.server_name or self.host


def _hosts(url: str, password: str | None, tls: Tls | None, kind: str) -> tuple[SplitResult, list[str], dict[str, Any]]:
    """The parts of a URL with several hosts, the hosts, and how to get in at each of them, as `Endpoint` takes it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError("the URL has no valid hosts", hint=_PASSWORD_HINT) from None
    userinfo, _, hosts = parts.netloc.rpartition("@")
    user, _, given = userinfo.partition(":")
    if parts.fragment or "@" in parts.query or "@" in parts.path:
        raise ConfigError("the URL holds an unescaped character", hint=_SCHEME_HINT)
    if not url.startswith("rediss") and tls not in {None, Tls()}:
        raise ConfigError(
            f"TLS options are set, but the URL begins with redis+{kind}://", hint=f"use rediss+{kind}:// for TLS"
        )
    login = {
        "username": unquote(user) or None,
        "password": password if password is not None else unquote(given) or None,
        "tls": (tls or Tls()) if url.startswith("rediss") else None,
    }
    return parts, hosts.split(","), login


def is_cluster(url: str) -> bool:
    """Whether a URL names a cluster."""
    return url.startswith(("redis+cluster://", "rediss+cluster://"))


def read_address_map(text: str, name: str) -> tuple[tuple[tuple[str, int], tuple[str, int]], ...]:
    """Reads ``announced=used,...``, where each is a host and a port.

    Args:
        text: as it was given.
        name: of the setting, for the message.

    Raises:
        ConfigError: it is no such list.
    """

    def address(word: str) -> tuple[str, int]:
        parts = urlsplit(f"//{word.strip()}")
        if not parts.hostname or not parts.port or parts.username or parts.path:
            raise ValueError(word)
        return parts.hostname, parts.port

    try:
        pairs = [pair.split("=") for pair in text.split(",") if pair.strip()]
        return tuple((address(announced), address(used)) for announced, used in pairs)
    except ValueError:
        raise ConfigError(
            f"{name} is no list of announced=used addresses", hint="for example 10.0.0.5:6379=127.0.0.1:7001"
        ) from None


def _of_cluster(cls: type[Endpoint], url: str, password: str | None, tls: Tls | None) -> Endpoint:
    """Reads ``redis+cluster://[user[:password]@]host[:port],...``."""
    parts, hosts, login = _hosts(url, password, tls, "cluster")
    if parts.path not in {"", "/", "/0"}:
        raise ConfigError("a cluster's URL ends with its hosts", hint=_SCHEME_HINT)
    _options(parts)
    seeds = Seeds(tuple(_address(each, DEFAULT_PORT) for each in hosts))
    host, port = seeds.addresses[0]
    return cls(host=host, port=port, seeds=seeds, **login)


def _behind_sentinels(cls: type[Endpoint], url: str, password: str | None, tls: Tls | None) -> Endpoint:
    """Reads ``redis+sentinel://[user[:password]@]host[:port],.../name``; credentials are the server's.

    Those of the Sentinels, where they want any, are the options ``sentinel_username`` and ``sentinel_password``.
    """
    parts, hosts, login = _hosts(url, password, tls, "sentinel")
    name = unquote(parts.path.removeprefix("/"))
    if "/" in name or not name:
        raise ConfigError(
            "the URL does not end in the name of a primary, or holds an unescaped character", hint=_SCHEME_HINT
        )
    options = _options(parts, {"sentinel_username", "sentinel_password"})
    sentinels = Sentinels(
        addresses=tuple(_address(each, SENTINEL_PORT) for each in hosts),
        name=name,
        username=options.get("sentinel_username"),
        password=options.get("sentinel_password"),
    )
    host, port = sentinels.addresses[0]
    return cls(host=host, port=port, sentinels=sentinels, **login)


def _address(text: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise ConfigError("the URL has no valid hosts", hint=_SCHEME_HINT)
    _check_host(host)
    return host, default if port is None else port


def _split(url: str) -> tuple[SplitResult, int | None]:
    """The parts of the URL and its port; errors of urllib quote the text, which may be a password, so they stay here."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("the URL has no valid host and port", hint=_PASSWORD_HINT) from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ConfigError("the URL has no known scheme", hint=_SCHEME_HINT)
    if parts.fragment or "@" in parts.query or (parts.scheme != "unix" and "@" in parts.path):
        raise ConfigError("the URL holds an unescaped '#', '?', '/' or '@'", hint=_PASSWORD_HINT)
    if port == 0:
        raise ConfigError("port 0 is not an address", hint=_SCHEME_HINT)
    return parts, port


def _options(parts: SplitResult, more: Collection[str] = ()) -> dict[str, str]:
    """The query of the URL: what redis-py reads there and what means something here."""
    options = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    unknown = sorted(options.keys() - {"db", "protocol", "username", "password", *more})
    if unknown:
        raise ConfigError(
            f"the URL carries options that portd does not read there: {', '.join(unknown)[:100]}",
            hint="remove them; TLS and timeouts have settings of their own",
        )
    return options


def _check_host(host: str) -> None:
    try:
        host.encode("idna")
    except UnicodeError:
        raise ConfigError("the URL's host is not a valid name", hint=_PASSWORD_HINT) from None


def _unusable(path: Path | None, what: str, error: OSError) -> ConfigError:
    reason = error.strerror or "unreadable"
    return ConfigError(
        f"cannot load {what} from {path}: {reason.lower()}",
        hint="the file must be PEM, readable by portd's user, and its key without a passphrase",
    )


def _tune(transport: asyncio.Transport) -> None:
    """Sends small writes at once, and lets the kernel notice a peer that vanished."""
    sock = transport.get_extra_info("socket")
    if sock is None:  # it is lost already, as the protocol was told: TLS 1.3 refuses a client behind its handshake
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def read_secret(file: Path, what: str) -> str:
    """The first line of a file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            return stream.readline(SECRET_BYTES).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"{what} cannot be read from {file}: {reason}", hint="the file must be readable by the user portd runs as"
        ) from None
