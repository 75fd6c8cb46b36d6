"""Import mode of a Valkey target that several links share: nobody ends it while another one needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.process import Portd, streaming
from tests.servers import find, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import ServerFactory
    from tests.servers import Server

USERS = "portd:checkpoint::imports"
AN_HOUR_MS = 3_600_000

pytestmark = pytest.mark.skipif(find("valkey9.1") is None, reason="needs a server with import mode")


@pytest.fixture
def source(servers: ServerFactory) -> Server:
    """A source."""
    return servers()


@pytest.fixture
def target(servers: ServerFactory) -> Server:
    """A target that has import mode."""
    return servers(find("valkey9.1"))


def imports(target: Server) -> bool:
    """The target is in import mode."""
    return target.client().config_get("import-mode") == {"import-mode": "yes"}


def looks(target: Server, link: str) -> Callable[[], bool]:
    """Whether *link* has looked at the mode since this was made."""
    client: Any = target.client()
    before = client.hget(USERS, link)
    return lambda: client.hget(USERS, link) not in {before, None}


def losses(portd: Portd) -> str:
    """The counter of lost modes."""
    lines = portd.get("metrics").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("portd_import_mode_losses_total"))


def test_the_last_of_two_links_ends_it(servers: ServerFactory, source: Server, target: Server) -> None:
    """The one that ends first leaves the mode to the other, which never finds it lost; the other one ends it."""
    with (
        Portd(source, target, link="one") as one,
        Portd(servers(), target, link="two", existing="replace") as two,
    ):
        one.until(streaming)
        two.until(streaming)
        assert one.terminate() == 0
        assert imports(target)
        assert 'event="target stays in import mode" links=two' in one.log()
        for _ in range(2):
            wait_for_sync(looks(target, "two"))
        assert losses(two) == "0.0"
        assert two.terminate() == 0
    assert not imports(target)


def test_a_lost_mode_is_put_back(source: Server, target: Server) -> None:
    """Whoever switches it off is corrected by the next look; log and metric tell."""
    with Portd(source, target) as portd:
        portd.until(streaming)
        wait_for_sync(looks(target, "default"))
        target.client().config_set("import-mode", "no")
        wait_for_sync(lambda: imports(target))
        assert losses(portd) == "1.0"
        assert "import mode was lost" in portd.log()
        assert portd.terminate() == 0
    assert not imports(target)


def test_who_may_not_ask_still_puts_it_back(source: Server, target: Server) -> None:
    """A user who may set, but not get, switches it on again without being asked."""
    client: Any = target.client()
    client.execute_command("ACL", "SETUSER", "setter", "on", ">pw", "~*", "&*", "+@all", "-config", "+config|set")
    with Portd(source, f"redis://setter:pw@127.0.0.1:{target.port}") as portd:
        portd.until(streaming)
        target.client().config_set("import-mode", "no")
        wait_for_sync(lambda: imports(target))


@pytest.mark.parametrize(
    ("until", "process", "mode"), [(1, "", "no"), (AN_HOUR_MS, "", "yes"), (AN_HOUR_MS, "x", "no")]
)
def test_who_counts(source: Server, target: Server, until: int, process: str, mode: str) -> None:
    """A link that was killed long ago does not count, nor one that a copy of another server's data names."""
    client: Any = target.client()
    seconds, _ = client.time()
    with Portd(source, target) as portd:
        portd.until(streaming)
        when = until if until == 1 else seconds * 1000 + until
        client.hset(USERS, "other", f"{when} {process or client.info('server')['run_id']}")
        assert portd.terminate() == 0
    assert client.config_get("import-mode") == {"import-mode": mode}


def test_a_killed_link_is_no_data(source: Server, target: Server) -> None:
    """What a killed sync leaves beside its checkpoint does not make the target look full to another link."""
    with Portd(source, target) as portd:
        portd.until(streaming)
        portd.kill()
    client: Any = target.client()
    assert client.exists(USERS)
    client.pexpire("portd:checkpoint:default:lease", 1)  # a while later; in import mode it stays, and is not seen
    wait_for_sync(lambda: not client.exists("portd:checkpoint:default:lease"))
    with Portd(source, target, link="two") as two:
        two.until(streaming)
