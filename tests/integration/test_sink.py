"""The target of the push benchmark: acknowledges writes, counts them, and leaves everything else to a real server."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import redis

from tests.benchmarks.sink import build, counts, sink
from tests.servers import Server, default_binary

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_sink_counts_and_asks_the_server_behind_it(tmp_path: Path) -> None:
    """Writes are acknowledged and counted, everything else is answered by a real server, transactions included."""
    program = build(tmp_path)
    with Server(default_binary()) as server, sink(program, server) as port:
        with redis.Redis(port=port, protocol=2) as client:
            assert client.set("a", "b")
            assert client.exists("a") == 0
            assert client.set("portd:a", "b")
            with client.pipeline(transaction=True) as transaction:
                transaction.execute_command("SET", "x", "y")
                transaction.execute_command("HSET", "portd:h", "f", "v")
                assert len(transaction.execute()) == 2
        assert counts(port)[0] == 2
        assert sorted(server.client().keys("*")) == [b"portd:a", b"portd:h"]
