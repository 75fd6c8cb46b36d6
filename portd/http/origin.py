"""Who asks: by which name, and whether a page of somebody else had a browser ask.

There is no login, so a browser on this machine must not be made to ask for others. A page that gives its own name our
address (DNS rebinding) would be of the same origin as ours, and read every answer: but its requests carry its name in
``Host``. A page that only sends requests cannot read the answer, but it could start recordings, which cost: browsers say
where a request comes from (Fetch Metadata, ``Origin``, ``Referer``).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from portd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not listened on
_SITE: Final = "Sec-Fetch-Site"

log = get_logger("http")


class Names:
    """The names by which we may be asked.

    Args:
        listens: the address that is listened on, as it was configured.
        more: further names.
    """

    def __init__(self, listens: str, more: Collection[str] = ()) -> None:
        self._known = LOOPBACK | {listens.lower()} | {name.lower() for name in more}
        self._any_address = listens in EVERYWHERE
        self._told = False

    def knows(self, host: str) -> bool:
        """Whether a ``Host`` header names us; without one it was no browser. No page has an address for its name."""
        name = name_of(host)
        return not host or name in self._known or (self._any_address and _is_address(name))

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses requests for other names; the first one is logged.

        Raises:
            HTTPMisdirectedRequest: it is for another name.
        """
        host = request.headers.get(hdrs.HOST, "")
        if self.knows(host):
            return await handler(request)
        if not self._told:
            self._told = True
            log.warning("request for another name refused", host=host[:100], hint="--http-hosts lists further names")
        raise web.HTTPMisdirectedRequest(
            text=f"the request is for {host[:100]!r}, which is not a name of this portd; "
            "it goes by localhost, its --http address and what --http-hosts lists"
        )


def name_of(host: str) -> str:
    """The name or address in a ``Host`` header, without port and brackets, lower case; "" when it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def check_same_origin(request: web.Request) -> None:
    """Lets requests pass that no other page made: those of our own pages, of a typed address, and of no browser.

    Raises:
        HTTPForbidden: a page of another origin may have made it.
    """
    site = request.headers.get(_SITE)
    if site is not None:
        own = site in {"same-origin", "none"}
    else:  # no Fetch Metadata: an old browser, one that reaches us without TLS from elsewhere, or none at all
        told = request.headers.get(hdrs.ORIGIN) or request.headers.get(hdrs.REFERER)
        if told is not None:
            own = urlsplit(told).netloc.lower() == request.headers.get(hdrs.HOST, "").lower() != ""
        else:
            own = not request.headers.get(hdrs.USER_AGENT, "").startswith("Mozilla/")
    if not own:
        raise web.HTTPForbidden(text="a recording is started by portd's own pages, or outside of a browser, only")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
