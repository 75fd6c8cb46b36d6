"""The spool on a file system that really is full: a 2 MiB tmpfs in a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
MOUNT = 'mount -t tmpfs -o size=2m tmpfs "$1" && shift && exec "$@"'

CHILD = """
import asyncio, hashlib, sys
from pathlib import Path
from portd.spool import Spool, SpoolClosed

TOTAL = 12 << 20

async def main(directory):
    spool = Spool(memory_bytes=1 << 20, directory=directory, max_disk_bytes=1 << 30)
    room = asyncio.Event()
    room.set()
    stopped = asyncio.Event()
    spool.attach(lambda: (room.clear(), stopped.set()), room.set)
    sent, got = hashlib.sha256(), hashlib.sha256()

    async def write():
        written = 0
        while written < TOTAL:
            await room.wait()
            buffer = spool.get_buffer(-1)
            count = min(len(buffer), TOTAL - written)
            buffer[:count] = (written.to_bytes(8, "big") * (count // 8 + 1))[:count]
            sent.update(buffer[:count])
            spool.commit(count)
            written += count
            await asyncio.sleep(0)
        spool.end()

    async with asyncio.timeout(600), asyncio.TaskGroup() as group:
        group.create_task(write())
        while not (stopped.is_set() and spool.statistics().blocked):
            await asyncio.sleep(0.01)
        print(spool.statistics().blocked, spool.statistics().full)
        while True:
            try:
                chunk = await spool.read()
            except SpoolClosed:
                break
            got.update(chunk.data)
            spool.release(chunk.end)
    print(sent.digest() == got.digest(), spool.statistics().peak_memory_bytes <= 1 << 20)
    spool.close()
    print(list(directory.iterdir()))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_full_file_system(tmp_path: Path) -> None:
    """ENOSPC from a real file system stops reading, loses nothing, and ends when segments are deleted."""
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(tmp_path)]
    try:
        tried = subprocess.run([*unshare, "true"], capture_output=True, timeout=PATIENCE_SECONDS, check=False)
        possible = tried.returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("mount namespaces are not allowed here")
    ran = subprocess.run(
        [*unshare, sys.executable, "-c", CHILD, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd=ROOT,
    )
    said = [line for line in ran.stdout.splitlines() if "spool" not in line]
    assert said == ["disk full True", "True True", "[]"], ran.stdout + ran.stderr
    assert "reason='disk full'" in ran.stdout
