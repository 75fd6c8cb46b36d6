"""The ends of a sync, as settings describe them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from portd.errors import ConfigError
from portd.net.endpoint import Endpoint, Tls, read_address_map, read_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def end_of(side: Literal["source", "target"], value: Callable[[str], Any]) -> Endpoint:
    """Where one end is and how to get in.

    Args:
        side: which one.
        value: of a setting, by its name.

    Raises:
        ConfigError: the URL, the password or the TLS settings cannot be used.
    """

    def setting(name: str) -> Any:
        return value(f"{side}_{name}")

    tls = Tls(
        ca=setting("tls_ca"),
        cert=setting("tls_cert"),
        key=setting("tls_key"),
        server_name=setting("tls_server_name"),
        verify=not setting("tls_insecure"),
    )
    if tls.key is not None and tls.cert is None:
        raise ConfigError(
            f"{side}_tls_key is set, but {side}_tls_cert is not", hint="a private key needs its certificate"
        )
    password: str | None = setting("password")
    file: Path | None = setting("password_file")
    if password is not None and file is not None:
        raise ConfigError(f"{side}_password and {side}_password_file are both set", hint="keep one of the two")
    if file is not None:
        password = read_secret(file, f"{side}_password_file")
    try:
        end = Endpoint.parse(value(side), password=password, tls=tls)
    except ConfigError as error:
        raise ConfigError(f"{side}: {error.args[0]}", hint=error.hint) from None
    return replace(end, connect_seconds=value("connect_seconds"), silence_seconds=value("silence_seconds"))


def with_map(end: Endpoint, side: Literal["source", "target"], addresses: str, slot: int) -> Endpoint:
    """An end that may be a cluster, with what is known of its addresses.

    Args:
        end: see `end_of`.
        side: which one it is.
        addresses: the setting: what its nodes announce, and what is used instead.
        slot: whose owner is wanted of a cluster.

    Raises:
        ConfigError: the setting is no list of addresses, or the end is no cluster.
    """
    name = f"{side}_address_map"
    if end.seeds is None:
        if addresses and end.path is None:  # commands that need but one end have a socket for the other
            raise ConfigError(f"{name} is set, but the {side} is no redis+cluster:// URL")
        return end
    return replace(end, seeds=replace(end.seeds, mapped=read_address_map(addresses, name)), slot=slot)
