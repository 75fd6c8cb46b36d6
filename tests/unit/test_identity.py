"""Who a server is, from the words of its INFO."""

from __future__ import annotations

import pytest

from portd.errors import TargetLost
from portd.net.control import parse_info
from portd.net.identity import ServerIdentity, require_process, run_id_of

VALKEY = b"""# Server\r
redis_version:7.2.4\r
server_name:valkey\r
valkey_version:9.1.2\r
run_id:0123456789abcdef\r
# Replication\r
role:slave\r
# Cluster\r
cluster_enabled:1\r
# Modules\r
module:name=json,ver=10201,api=1\r
module:ver=1\r
module:name=bf,ver=1\r
"""


def test_all_that_is_told() -> None:
    """A Valkey is not the Redis that it is compatible with; a module without a name is none."""
    found = ServerIdentity.of(parse_info(VALKEY))
    assert found == ServerIdentity(
        "valkey", (9, 1, 2), "0123456789abcdef", "slave", cluster=True, modules=("json", "bf")
    )
    assert (found.name, found.number, found.rdb_version) == ("valkey 9.1.2", "9.1.2", 80)
    assert run_id_of(VALKEY) == "0123456789abcdef"


def test_nothing_is_told() -> None:
    """What a server does not say is unknown, and no mistake."""
    found = ServerIdentity.of({})
    assert found == ServerIdentity("", (0, 0, 0), "", "", cluster=None, modules=())
    assert found.name == "an unknown server"
    assert run_id_of(b"# Server\r\n") == ""


def test_another_process_is_no_longer_trusted() -> None:
    """A target that was restarted may have lost what it acknowledged; one that tells nothing is taken for the same."""
    for info, run_id in ((VALKEY, "0123456789abcdef"), (VALKEY, ""), (b"", "0123456789abcdef")):
        require_process(info, run_id)
    with pytest.raises(TargetLost, match="replaced behind the snapshot"):
        require_process(VALKEY, "f" * 16, "behind the snapshot")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("6.2", (6, 2, 0)),
        ("7.4.0.1", (7, 4, 0)),
        ("8", (8, 0, 0)),
        ("5.0.x", (5, 0, 0)),
        ("9" * 5000, (0, 0, 0)),
        ("-1.2", (2, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_odd_versions(text: str, version: tuple[int, int, int]) -> None:
    """Whatever stands there, three numbers come of it."""
    assert ServerIdentity.of({"redis_version": text}).version == version
