"""Keys that are owed to the target: between the splitter, which finds them, and what copies them at the source.

What such a key is, and when a copy is good for it, is said in `portd.kernel.owed`. Here copies are kept until the splitter comes
to where they belong, and until the target has them: a feed that goes back hands the same ones out again.

A copy that came too late, for something was left out behind it meanwhile, is made again. What would be left out then waits
for the answer, so that the second one is good.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from portd.kernel.settling import Settler
from portd.net.resp import request
from portd.target.stream.group import MOST_COPIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from portd.kernel.stream import Piece, StreamSplitter

MUCH: Final = 1 << 40  # more than a piece may be
MOST_COPY_BYTES: Final = 8 * 1024 * 1024  # of all copies that are held, and of one
MOST_PARTED: Final = 128  # keys that are asked for at a time where a copy is told from others by its slot
Key: TypeAlias = tuple[int, bytes]  # database and name, as the source has them


@dataclass(frozen=True, slots=True)
class Copied:
    """What a key held at one offset of the source.

    Attributes:
        offset: replication offset.
        payload: of DUMP; None: there was no such key.
        expires_ms: unix time in ms; 0: never.
        elsewhere: there was none, but another one with the same place in the target, of which nothing may be taken away.
    """

    offset: int
    payload: bytes | None
    expires_ms: int = 0
    elsewhere: bool = False

    def commands(self, key: Key) -> list[bytes]:
        """What writes it, as a source would send it; all of these together."""
        if self.elsewhere:
            return []
        db, name = key
        select = request("SELECT", db)
        if self.payload is None:
            return [select, request("DEL", name)]
        options = (b"REPLACE", b"ABSTTL") if self.expires_ms else (b"REPLACE",)
        head = b"".join(_argument(each) for each in (b"RESTORE", name, b"%d" % self.expires_ms))
        tail = b"".join(_argument(each) for each in options)
        count = b"*%d\r\n" % (4 + len(options))
        return [select, b"%b%b$%d\r\n" % (count, head, len(self.payload)), self.payload, b"\r\n" + tail]


def _argument(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


@dataclass(frozen=True, slots=True)
class Refused:
    """There will be no copy of a key.

    Attributes:
        command: of the source, that was of no use.
        reason: for the dead letter.
    """

    command: str
    reason: str


class OwedKeys:
    """Keys that are owed, and copies of them.

    Args:
        most_bytes: of copies that are held, and of one.
        parted: the target is a cluster. Where a feed goes back, some of its slots may be further than a copy that was made before: it
            is made again.

    Attributes:
        most_bytes: see above.
        at_once: keys that are asked for at a time.
        held_bytes: of copies.
        wanted: set when there may be a question for the source.
        changed: set when the feed may go on that had to wait.
    """

    def __init__(self, most_bytes: int = MOST_COPY_BYTES, *, parted: bool = False) -> None:
        self.most_bytes = most_bytes
        self.at_once = MOST_PARTED if parted else MOST_COPIES
        self._parted = parted
        self.held_bytes = 0
        self.wanted, self.changed = asyncio.Event(), asyncio.Event()
        self._settler: Settler | None = None
        self._fresh: Callable[[], StreamSplitter] | None = None
        self._copies: dict[Key, Copied | Refused] = {}  # that wait for the splitter
        self._settled: deque[tuple[int, Key, Copied | Refused]] = deque()  # with the offset at which that was
        self._late: set[Key] = set()  # those of which a copy came too late
        self._coming: Iterator[Piece] | None = None  # of copies that are being handed out
        self._crowded = False  # there is no room for more copies
        self._number = 0  # of copies handed out between the same two commands
        self._left_out: set[int] = set()  # offsets of commands that the target refused to queue

    # -- the feed

    def begin(self, splitter: StreamSplitter, fresh: Callable[[], StreamSplitter]) -> None:
        """The feed begins, or has gone back.

        Args:
            splitter: of what comes next.
            fresh: makes one for the commands of a copy.
        """
        self._settler, self._fresh = Settler(splitter), fresh
        self._coming = None
        self._left_out.clear()
        while self._settled:
            _, key, copy = self._settled.popleft()
            if key in self._copies:
                self._drop(key)
            if isinstance(copy, Copied) and not self._parted:
                self._copies[key] = copy
            else:
                self._free(copy)
        if self._parted:
            for key in list(self._copies):
                self._drop(key)
        self.look()

    def look(self) -> None:
        """The splitter has come further: it is told of copies that it did not ask for before."""
        if self._settler is None or not self._settler.lacks:
            return
        if self._parted:
            if not self._crowded:
                self.wanted.set()
            return
        for key in self._unanswered():
            if (copy := self._copies.get(key)) is not None:
                self._tell(key, copy)
            elif not self._crowded:
                self.wanted.set()

    def exclude(self, offset: int) -> None:
        """The target refuses to queue the command of a copy that has this offset."""
        self._left_out.add(offset)

    @property
    def waits(self) -> bool:
        """Nothing may be split off before a copy has come."""
        return self._settler is not None and self._settler.waits

    def owes(self, key: Key) -> bool:
        """It is one of them, where the splitter stands."""
        return self._settler is not None and self._settler.owes(key)

    @property
    def expects(self) -> bool:
        """A copy may come."""
        return self._settler is not None and self._settler.lacks

    def next_piece(self) -> Piece | None:
        """The next one of copies that belong where the splitter stands."""
        assert self._settler is not None
        if self._coming is None:
            if not (due := self._settler.due()):
                self._number = 0
                return None
            self._coming = self._pieces([(key, self._copies.pop(key)) for key in due])
        piece = next(self._coming, None)
        if piece is None:
            self._coming = None
            return self.next_piece()
        return piece

    def release(self, offset: int, owed: str) -> None:
        """The target has everything before *offset*, and what settled keys there, up to when those of *owed* were left."""
        left: set[str] | None = None
        while self._settled and self._settled[0][0] <= offset:
            at, (db, name), copy = self._settled[0]
            if at == offset:
                left = set(owed.split()) if left is None else left
                if f"{db}:{name.hex()}" in left:
                    break
            self._settled.popleft()
            self._free(copy)
        for key, copy in list(self._copies.items()):
            if isinstance(copy, Copied) and copy.offset < offset and not self.owes(key):
                self._drop(key)  # the feed went back to behind it

    def forget(self) -> None:
        """The source may be another one by now: copies that are not handed out yet are made again."""
        for key in list(self._copies):
            self._drop(key)
        if self._settler is not None:
            self._settler.forget()
        self.look()

    def close(self) -> None:
        """No copy comes any more."""
        self._hold(())
        self.changed.set()

    # -- what asks the source

    def questions(self, most: int) -> list[Key]:
        """Keys to be copied; nothing more is left out for those that were copied too late before, until `answer`."""
        self.wanted.clear()
        found = [key for key in self._unanswered() if key not in self._copies][:most]
        self._hold(key for key in found if key in self._late)
        return found

    def answer(self, found: Mapping[Key, Copied | Refused], *, crowded: bool = False) -> None:
        """What became of questions. Keys of which nothing is told are asked for again.

        Args:
            found: of keys.
            crowded: there was no room for others: they wait until there is.
        """
        self._crowded = crowded
        for key, copy in found.items():
            if key in self._copies:
                self._drop(key)
            self._copies[key] = copy
            self.held_bytes += _size(copy)
            self._tell(key, copy)
        self._hold(())
        if self.expects and not crowded:
            self.wanted.set()
        self.changed.set()

    # -- inside

    def _unanswered(self) -> tuple[Key, ...]:
        return self._settler.unanswered() if self._settler is not None else ()

    def _tell(self, key: Key, copy: Copied | Refused) -> bool:
        """Tells the splitter of a copy; False when that is of no use, and the copy is dropped."""
        assert self._settler is not None
        if self._settler.tell(key, copy.offset if isinstance(copy, Copied) else None):
            self._late.discard(key)
            return True
        self._drop(key)
        self._late = {each for each in (*self._late, key) if each in self._unanswered()}
        self.wanted.set()
        return False

    def _drop(self, key: Key) -> None:
        self._free(self._copies.pop(key))

    def _free(self, copy: Copied | Refused) -> None:
        """A copy is not held any more."""
        self.held_bytes -= _size(copy)
        self._crowded = False
        if self.expects:
            self.wanted.set()

    def _hold(self, keys: Iterable[Key]) -> None:
        if self._settler is not None:
            self._settler.hold(frozenset(keys))

    def _pieces(self, due: list[tuple[Key, Copied | Refused]]) -> Iterator[Piece]:
        """What settles keys that are due, with their copies."""
        assert self._settler is not None
        self._settled += [(self._settler.offset, key, copy) for key, copy in due]
        for key, copy in due:
            number, self._number = self._number, (self._number + 1) % MOST_COPIES
            if self._parted:
                number = -1
            if isinstance(copy, Refused):
                yield self._settler.refuse(key, copy.command, copy.reason)
            elif self._settler.offset - number in self._left_out:
                yield self._settler.settle(key, None, number, True)
            else:
                yield from self._written(key, copy, number)

    def _written(self, key: Key, copy: Copied, number: int) -> Iterator[Piece]:
        """A copy as the target takes it, in pieces."""
        assert self._settler is not None
        before: Piece | None = None
        for piece in self._split(copy.commands(key)):
            if before is not None:
                yield self._settler.settle(key, before, number, False)
            before = piece
        yield self._settler.settle(key, before, number, True)

    def _split(self, commands: list[bytes]) -> Iterator[Piece]:
        assert self._fresh is not None
        splitter = self._fresh()
        for part in commands:
            rest = memoryview(part)
            while rest:
                taken = splitter.feed(rest, 0)
                rest = rest[taken:]
                if not taken:
                    yield from _all_of(splitter)
        yield from _all_of(splitter)


def _all_of(splitter: StreamSplitter) -> Iterator[Piece]:
    while (piece := splitter.next_piece(MUCH, MUCH)) is not None:
        yield piece


def _size(copy: Copied | Refused) -> int:
    return len(copy.payload or b"") if isinstance(copy, Copied) else 0
