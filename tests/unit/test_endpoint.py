"""Addresses, credentials and TLS settings of servers."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from portd.errors import ConfigError
from portd.net.endpoint import Endpoint, Tls
from portd.net.sentinel import Sentinels

SECRET = "hun/ter@2#:é"
ENCODED = "hun%2Fter%402%23%3A%C3%A9"


@pytest.mark.parametrize(
    ("url", "want", "display"),
    [
        ("redis://", Endpoint("localhost", 6379), "redis://localhost:6379"),
        ("redis://db.example:7000/5", Endpoint("db.example", 7000), "redis://db.example:7000"),
        ("redis://10.0.0.1?db=3", Endpoint("10.0.0.1", 6379), "redis://10.0.0.1:6379"),
        ("redis://[::1]:7000", Endpoint("::1", 7000), "redis://[::1]:7000"),
        (f"redis://:{ENCODED}@h", Endpoint("h", password=SECRET), "redis://h:6379"),
        (f"redis://us%40er:{ENCODED}@h", Endpoint("h", username="us@er", password=SECRET), "redis://h:6379"),
        ("rediss://h:1", Endpoint("h", 1, tls=Tls()), "rediss://h:1"),
        ("unix:///run/x%20y.sock", Endpoint("", 0, "/run/x y.sock"), "unix:///run/x y.sock"),
        ("unix://u:p@/run/x?db=2", Endpoint("", 0, "/run/x", username="u", password="p"), "unix:///run/x"),
    ],
)
def test_urls(url: str, want: Endpoint, display: str) -> None:
    """URLs mean what they mean to redis-py; the database is ignored."""
    assert Endpoint.parse(url) == want
    assert Endpoint.parse(url).display == display


def test_password_from_elsewhere_wins() -> None:
    """A password from a file is used instead of the one in the URL."""
    assert Endpoint.parse("redis://u:old@h", password="new").password == "new"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "http://:hunter2@h",
        "redis://:hunter2/x@h",
        "redis://:123/hunter2@h",
        "redis://:123?hunter2=x@h",
        "redis://:hunter2#x@h:1",
        "redis://:hunter2?x@h",
        "redis://h:port-hunter2",
        "redis://h:0",
        "redis://h:99999",
        "redis://h?password=hunter2&timeout=5",
        "redis://hunter2" + "x" * 80,
        "unix://",
        "unix://hunter2",
    ],
)
def test_bad_urls_are_refused_without_repeating_them(url: str) -> None:
    """A URL that cannot be understood may hold a password in any place."""
    with pytest.raises(ConfigError) as caught:
        Endpoint.parse(url)
    assert caught.value.hint
    assert "hunter2" not in repr(caught.value) + str(caught.value)
    assert caught.value.__cause__ is None


def test_secrets_stay_out_of_reprs() -> None:
    """An endpoint can be logged."""
    endpoint = Endpoint.parse(f"redis://u:{ENCODED}@h")
    assert SECRET not in repr(endpoint) + str(endpoint) + endpoint.display


@pytest.mark.parametrize(
    ("endpoint", "command"),
    [
        (Endpoint(), None),
        (Endpoint(password="é"), b"*2\r\n$4\r\nAUTH\r\n$2\r\n\xc3\xa9\r\n"),
        (Endpoint(username="u", password="p"), b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n"),
        (Endpoint(username="u"), b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$0\r\n\r\n"),
    ],
)
def test_auth_command(endpoint: Endpoint, command: bytes | None) -> None:
    """AUTH carries the user only when there is one; a user may have no password."""
    assert endpoint.auth_command() == command


def test_tls_options_need_rediss() -> None:
    """TLS settings on a plain URL would be silently useless."""
    with pytest.raises(ConfigError, match="redis://"):
        Endpoint.parse("redis://h", tls=Tls(ca=Path("ca.pem")))
    assert Endpoint.parse("redis://h", tls=Tls()).tls is None


def test_tls_without_verification() -> None:
    """Checking can be switched off, and is on unless it is."""
    checked, unchecked = Tls().context(), Tls(verify=False).context()
    assert (checked.verify_mode, checked.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (unchecked.verify_mode, unchecked.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_unusable_tls_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    """A missing or broken file is an error with its name, whichever it is."""
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    for tls in (Tls(ca=path), Tls(cert=path, key=path)):
        with pytest.raises(ConfigError) as caught:
            tls.context()
        assert str(path) in str(caught.value)
        assert caught.value.hint


def test_sentinel_urls() -> None:
    """Several Sentinels, the name of the primary, and two kinds of credentials; none is shown."""
    end = Endpoint.parse("redis+sentinel://us:p%40ss@a,b:7,[::1]:8/my?sentinel_username=s&sentinel_password=hunter2")
    addresses = (("a", 26379), ("b", 7), ("::1", 8))
    assert end.sentinels == Sentinels(addresses, "my", username="s", password="hunter2")
    assert (end.username, end.password, end.tls) == ("us", "p@ss", None)
    assert end.display == "redis+sentinel://a:26379,b:7,[::1]:8/my"
    assert "hunter2" not in repr(end)
    assert Endpoint.parse("rediss+sentinel://a/my", tls=Tls(server_name="n")).tls == Tls(server_name="n")


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a",
        "redis+sentinel://a/",
        "redis+sentinel://a/x/y",
        "redis+sentinel:///x",
        "redis+sentinel://a,,b/x",
        "redis+sentinel://a:0/x",
        "redis+sentinel://a:hunter2,b/x",
        "redis+sentinel://:hunter2/x@a/x",
        "redis+sentinel://a/x?timeout=hunter2",
        "redis+sentinel://a/x#hunter2",
    ],
)
def test_bad_sentinel_urls(url: str) -> None:
    """What cannot be meant is refused, without repeating what may be a password."""
    with pytest.raises(ConfigError) as caught:
        Endpoint.parse(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["plain", "sentinel"])
async def test_names_are_resolved_for_every_connection(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that points elsewhere after a failover is followed: nothing remembers an address."""
    loop = asyncio.get_running_loop()
    asked: list[str] = []
    resolve = loop.getaddrinfo

    async def getaddrinfo(host: str, *arguments: object, **options: object) -> object:
        asked.append(host)
        return await resolve("127.0.0.1", *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    url = "redis://db.example:1" if name == "plain" else "redis+sentinel://db.example:1/primary"
    endpoint = Endpoint.parse(url)
    for number in (1, 2):
        with pytest.raises(OSError, match=r".+"):
            await endpoint.connect(asyncio.Protocol, timeout=5)
        assert asked == ["db.example"] * number
