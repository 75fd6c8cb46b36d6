"""Ports that tests are given: nobody has another one's."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.servers import KEPT_PORTS, free_port

ASK = f"""
import json, sys
from tests.servers import free_port
print(json.dumps([free_port() for _ in range({KEPT_PORTS})]), flush=True)
sys.stdin.read()
"""


def test_ports_of_two_processes() -> None:
    """Each has as many as it may keep, and none of them is another one's, here or there."""
    with subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        theirs = json.loads(other.stdout.readline())
        ours = [free_port() for _ in range(KEPT_PORTS)]
        other.communicate()
    assert len({*ours, *theirs}) == 2 * KEPT_PORTS
