"""The primaries of a target that pretends: what is portd's is kept and read again, the rest is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.pretend.nodes import OK, Answering, array, bulk

if TYPE_CHECKING:
    import asyncio

    from tests.pretend.nodes import Half

OURS: Final = b"portd:"
QUEUED: Final = b"+QUEUED\r\n"


class Kept:
    """What a primary of the target has: keys of portd's, and numbers of the rest."""

    def __init__(self) -> None:
        self.strings: dict[bytes, bytes] = {}
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.clients: set[Taking] = set()


class Taking(Answering):
    """A connection to a primary of the target."""

    nodes: list[Kept]
    commands: bytes  # the answer to COMMAND
    sets = 0  # of keys that are not portd's, over all connections

    def __init__(self, half: Half, number: int) -> None:
        super().__init__(half, number)
        self._kept = self.nodes[number]
        self._queue: list[list[bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        super().connection_made(transport)
        self._kept.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        super().connection_lost(exc)
        self._kept.clients.discard(self)

    def take(self, words: list[bytes]) -> bytes:
        """One command, at once or queued."""
        if self._queue is None or words[0] in {b"EXEC", b"DISCARD"}:
            return self.answer(words)
        self._queue.append(words)
        return QUEUED

    def answer(self, words: list[bytes]) -> bytes:
        """Data is counted first: nearly all that comes is data."""
        if words[0] == b"SET" and not words[1].startswith(OURS):
            Taking.sets += 1
            return OK
        return super().answer(words)

    def do_multi(self, _: list[bytes]) -> bytes:
        """MULTI."""
        self._queue = []
        return OK

    def do_exec(self, _: list[bytes]) -> bytes:
        """EXEC."""
        queue, self._queue = self._queue or [], None
        return array([self.answer(words) for words in queue])

    def do_info(self, _: list[bytes]) -> bytes:
        """INFO."""
        return self.half.about(self.number, master_repl_offset=1)

    def do_command(self, _: list[bytes]) -> bytes:
        """COMMAND."""
        return self.commands

    def do_client(self, words: list[bytes]) -> bytes:
        """CLIENT."""
        if words[1].upper() == b"LIST":
            return bulk(
                b"".join(b"id=%d addr=127.0.0.1:1 name=%b\n" % (each.id, each.label) for each in self._kept.clients)
            )
        if words[1].upper() == b"KILL":
            for each in [each for each in self._kept.clients if each.id == int(words[3])]:
                each.open = False
                each.transport.close()
        return super().do_client(words)

    def do_mset(self, words: list[bytes]) -> bytes:
        """MSET of data."""
        Taking.sets += len(words) // 2
        return OK

    def do_set(self, words: list[bytes]) -> bytes:
        """SET of a key of portd's."""
        self._kept.strings[words[1]] = words[2]
        return OK

    def do_get(self, words: list[bytes]) -> bytes:
        """GET."""
        return bulk(self._kept.strings.get(words[1]))

    def do_del(self, words: list[bytes]) -> bytes:
        """DEL."""
        gone = [self._kept.strings.pop(key, None) or self._kept.hashes.pop(key, None) for key in words[1:]]
        return b":%d\r\n" % sum(each is not None for each in gone)

    def do_exists(self, words: list[bytes]) -> bytes:
        """EXISTS."""
        return b":%d\r\n" % sum(key in self._kept.strings or key in self._kept.hashes for key in words[1:])

    def do_hset(self, words: list[bytes]) -> bytes:
        """HSET."""
        self._kept.hashes.setdefault(words[1], {}).update(zip(words[2::2], words[3::2], strict=True))
        return b":0\r\n"

    def do_hdel(self, words: list[bytes]) -> bytes:
        """HDEL."""
        for field in words[2:]:
            self._kept.hashes.get(words[1], {}).pop(field, None)
        return b":0\r\n"

    def do_hget(self, words: list[bytes]) -> bytes:
        """HGET."""
        return bulk(self._kept.hashes.get(words[1], {}).get(words[2]))

    def do_hgetall(self, words: list[bytes]) -> bytes:
        """HGETALL."""
        return array([bulk(word) for pair in self._kept.hashes.get(words[1], {}).items() for word in pair])

    def do_pttl(self, words: list[bytes]) -> bytes:
        """PTTL: what is there lasts."""
        return b":9000\r\n" if words[1] in self._kept.hashes else b":-2\r\n"

    def do_scan(self, _: list[bytes]) -> bytes:
        """SCAN of nothing: data is not kept."""
        return array([bulk(b"0"), array([])])

    def do_dbsize(self, _: list[bytes]) -> bytes:
        """DBSIZE: likewise."""
        return b":0\r\n"

    def do_pexpire(self, _: list[bytes]) -> bytes:
        """PEXPIRE."""
        return b":1\r\n"

    def do_rpush(self, _: list[bytes]) -> bytes:
        """RPUSH."""
        return b":1\r\n"

    def do_watch(self, _: list[bytes]) -> bytes:
        """WATCH: nobody else is there."""
        return OK

    do_unwatch = do_restore = do_quit = do_watch
