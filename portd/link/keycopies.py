"""Copies of single keys, made at the source while its stream is followed: keys that are owed to the target.

A copy is worth something only with the offset at which it was made. One transaction asks for both: nothing comes between
DUMP, the key's expiry and INFO's `master_repl_offset`, so the stream up to that offset is in the copy, and nothing of what
follows. Where a key expires in that very moment its DEL follows, and finds nothing. MEMORY USAGE comes first: a server must not
be made to write down a value that is too large.

Why: docs/design/0009-fenced-copies.md.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import hiredis

from portd.errors import PortdError, SourceBusy
from portd.feed.owed import Copied, Refused
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.control import Refused as Refusal
from portd.net.control import keys_by_database, open_control, parse_info
from portd.net.replies import presentable
from portd.net.resp import request
from portd.net.shapes import MOST_NUMBER, whole
from portd.source.refusals import refused as refusal
from portd.target.names import EVERY_SECONDS
from portd.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from portd.config.rules import Choice
    from portd.feed.owed import Key, OwedKeys
    from portd.net.control import Control
    from portd.net.endpoint import Endpoint

_log = get_logger("source")

HINT: Final = (
    "on the source: ACL SETUSER <user> ~* +select +multi +exec +info +memory|usage +dump +pexpiretime "
    "(before Redis 7: +pttl +time)"
)
GONE_SECONDS: Final = (
    1.0  # a replica hides what has expired, and its primary may have renewed it: it has to be gone for that long
)
IDLE_SECONDS: Final = 10.0  # a connection that nothing is asked over is closed
AGAIN_SECONDS: Final = 5.0  # longest wait before a source is asked again that does not answer
MOVED: Final = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")  # codes that pass when the cluster has settled
ELSEWHERE: Final = ("MOVED ", "ASK ")  # of them, those that say that the node does not have the key
GONE: Final = -2  # of PTTL and PEXPIRETIME: there is no such key
FOREVER: Final = -1  # likewise: it does not expire


class _Later(Exception):
    """The source cannot tell now."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of a source of some age.

    Attributes:
        expiretime: it knows PEXPIRETIME. Before, two readings of its clock that agree around PTTL tell the same.
    """

    expiretime: bool

    def about(self, keys: Sequence[Key], rivals: Mapping[Key, Sequence[Key]]) -> list[bytes]:
        """One transaction about keys, and about whether others are there that go where they go."""
        words = [request("MULTI")]
        for db, name in keys:
            words += [request("SELECT", db), request("DUMP", name)]
            if self.expiretime:
                words.append(request("PEXPIRETIME", name))
            else:
                words += [request("TIME"), request("PTTL", name), request("TIME")]
            for other, rival in rivals[db, name]:
                words += [request("SELECT", other), request("PEXPIRETIME" if self.expiretime else "PTTL", rival)]
        return [*words, request("INFO", "keyspace"), request("INFO", "replication"), request("EXEC")]

    def read(
        self,
        keys: Sequence[Key],
        rivals: Mapping[Key, Sequence[Key]],
        answers: Sequence[Any],
        replid: str,
        used: set[int] | None,
    ) -> dict[Key, Copied]:
        """What EXEC has answered; a key of which the clock has gone on meanwhile is not among it.

        Raises:
            _Later: another history is told, or keys are in a database in which no rivals were looked for: *used* are all others.
        """
        info = parse_info(answers[-1])
        offset = whole(info.get("master_repl_offset", ""), MOST_NUMBER)
        if offset is None or info.get("master_replid") != replid:
            raise _Later
        if used is not None and not _databases(answers[-2]) <= used:
            raise _Later
        each = 3 if self.expiretime else 5
        found: dict[Key, Copied] = {}
        rest = iter(answers)
        for key in keys:
            _, payload, *expiry = islice(rest, each)
            others = list(islice(rest, 2 * len(rivals[key])))[1::2]
            at = expiry[0] if self.expiretime else _expires_ms(*expiry)
            if payload is None or at == GONE:
                found[key] = Copied(offset, None, elsewhere=any(other != GONE for other in others))
            elif at is not None:
                found[key] = Copied(offset, payload, 0 if at == FOREVER else at)
        return found


def _databases(keyspace: bytes) -> set[int]:
    """Those that hold keys."""
    return set(keys_by_database(parse_info(keyspace)))


def _expires_ms(before: list[bytes], left: int, after: list[bytes]) -> int | None:
    """When a key expires; None where the clock moved on."""
    if left < 0:
        return left
    first, second = (int(each[0]) * 1000 + int(each[1]) // 1000 for each in (before, after))
    return first + left if first == second else None


@dataclass(slots=True)
class KeyCopies:
    """Copies the keys that are owed.

    Attributes:
        endpoint: the source.
        owed: the keys.
        replid: tells the history that is followed.
        info: what the source is, as `Progress.source_info` has it.
        choice: tells where keys go.
    """

    endpoint: Endpoint
    owed: OwedKeys
    replid: Callable[[], str]
    info: Mapping[str, str]
    choice: Callable[[], Choice]
    _alone: bool = False  # the last answer was too large: one key at a time
    _crowded: bool = False  # some were not asked for, since there is no room
    _gone: dict[Key, float] = field(default_factory=dict)  # of a replica: since when keys are not there, monotonic
    _copied: int = 0  # since the last line of the log
    _told_at: float = field(default=float("-inf"))  # monotonic

    async def run(self) -> None:
        """Copies until cancelled."""
        backoff = Backoff(limit_seconds=AGAIN_SECONDS)
        try:
            while True:
                await self.owed.wanted.wait()
                try:
                    async with open_control(self.endpoint) as control:
                        await self._serve(control, backoff)
                except (OSError, PortdError, Refusal, _Later) as error:
                    self._alone = isinstance(error, ConnectionAbortedError)
                    if not backoff.attempts:
                        _log.warning(
                            "keys cannot be copied from the source now, and that is tried again",
                            error=presentable(str(error)) or "it follows another history, or moves the key", hint=HINT,
                        )  # fmt: skip
                    self.owed.answer({})
                    await asyncio.sleep(backoff.next_wait())
        finally:
            self.owed.close()

    async def _serve(self, control: Control, backoff: Backoff) -> None:
        """Asks over one connection, until nothing has been wanted for a while."""
        control.most_bytes = 2 * self.owed.most_bytes
        while True:
            keys = self.owed.questions(1 if self._alone else self.owed.at_once)
            if keys:
                found = await self._copy(control, keys)
                self.owed.answer(found, crowded=self._crowded)
                self._alone = False
                backoff.reset()
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self.owed.wanted.wait()
            except TimeoutError:
                return

    async def _copy(self, control: Control, keys: list[Key]) -> dict[Key, Copied | Refused]:
        """What becomes of keys that are asked for: those for which there is no room now are left out.

        Raises:
            OSError: the connection is lost.
            SourceBusy, _Later: the source cannot tell now.
        """
        found, wanted = await self._admit(control, keys)
        if not wanted:
            return found
        question = _Question(self._knows_expiretime())
        used = _databases(await control.call("INFO", "keyspace")) if self.choice().anywhere else None
        rivals = {key: self._rivals(key, used or set()) for key in wanted}
        try:
            answers = await control.ask(*question.about(wanted, rivals))
        except ConnectionAbortedError:
            if self._alone:
                return found | {key: self._too_large() for key in wanted}
            raise
        if problem := next((each for each in answers if isinstance(each, hiredis.ReplyError)), None):
            if len(wanted) == 1:
                return found | {wanted[0]: self._refused("DUMP", str(problem))}
            for key in wanted:  # it may be about one of them
                found |= await self._copy(control, [key])
            return found
        if b"master_replid:" not in answers[-1][-1]:
            reason = "key: the source does not tell its history: it is older than Redis 4"
            return found | dict.fromkeys(wanted, Refused("INFO", reason))
        copies = question.read(wanted, rivals, answers[-1], self.replid(), used)
        if b"role:slave" in answers[-1][-1]:
            self._doubt(copies)
        self._tell(len(copies))
        return found | copies

    async def _admit(self, control: Control, keys: list[Key]) -> tuple[dict[Key, Copied | Refused], list[Key]]:
        """Keys of which it is known what becomes of them, and those for which there is room now; raises as `_copy` does."""
        found: dict[Key, Copied | Refused] = {}
        wanted, room = [], self.owed.most_bytes - self.owed.held_bytes
        for key, size in zip(keys, await self._sizes(control, keys), strict=True):
            if size is None:
                found[key] = await self._left(control, key)
            elif isinstance(size, Refused):
                found[key] = size
            elif size > self.owed.most_bytes:
                found[key] = self._too_large()
            elif size <= room:
                room -= size
                wanted.append(key)
        self._crowded = len(found) + len(wanted) < len(keys)
        return found, wanted

    def _rivals(self, key: Key, used: set[int]) -> list[Key]:
        """Other keys of the source that have the same place in the target."""
        choice = self.choice()
        return [each for each in choice.origins(*choice.to_target(*key), used) if each != key]

    async def _sizes(self, control: Control, keys: list[Key]) -> list[int | Refused | None]:
        """Bytes of memory that values take; None where the node says that another one has the key."""
        commands = [
            each for db, name in keys for each in (request("SELECT", db), request("MEMORY", "USAGE", name))
        ]  # fmt: skip
        answers = await control.ask(*commands)
        found: list[int | Refused | None] = []
        for selected, size in zip(answers[::2], answers[1::2], strict=True):
            problem = next((each for each in (selected, size) if isinstance(each, hiredis.ReplyError)), None)
            if problem is None:
                found.append(size or 0)
            else:
                away = str(problem).startswith(ELSEWHERE)
                found.append(None if away else self._refused("MEMORY USAGE", str(problem)))
        return found

    async def _left(self, control: Control, key: Key) -> Copied:
        """A key of a slot that has moved, or is about to: this node does not have it, and who has it brings it.

        That waits until nothing is owed of this one's (docs/design/0011).

        Raises:
            _Later: it is not the node that is followed, or has the key.
        """
        told, size = await control.ask(request("INFO", "replication"), request("MEMORY", "USAGE", key[1]))
        info = parse_info(told) if isinstance(told, bytes) else {}
        offset = whole(info.get("master_repl_offset", ""), MOST_NUMBER)
        followed = info.get("role") == "master" and info.get("master_replid") == self.replid()
        if not followed or offset is None or not str(size).startswith(ELSEWHERE):
            raise _Later
        return Copied(offset, None)

    def _refused(self, command: str, text: str) -> Refused:
        """What an error reply means for a key.

        Raises:
            SourceBusy: it passes.
            _Later: likewise.
        """
        if text.startswith(MOVED):
            raise _Later
        error = refusal(command, b"-" + text.encode())
        if isinstance(error, SourceBusy):
            raise error
        return Refused(command, f"key: the source refuses {command}: {presentable(text)}")

    def _doubt(self, copies: dict[Key, Copied]) -> None:
        """Leaves out what a replica says is not there, until it has said so for a while."""
        now = time.monotonic()
        self._gone = {key: at for key, at in self._gone.items() if self.owed.owes(key)}
        for key, copy in list(copies.items()):
            if copy.payload is None and now - self._gone.setdefault(key, now) < GONE_SECONDS:
                del copies[key]
                self._crowded = True
            else:
                self._gone.pop(key, None)
        if self._crowded:
            asyncio.get_running_loop().call_later(GONE_SECONDS, self.owed.wanted.set)

    def _too_large(self) -> Refused:
        return Refused("DUMP", f"key: its value is larger than {human_bytes(self.owed.most_bytes)}")

    def _knows_expiretime(self) -> bool:
        version = whole(self.info.get("version", "").partition(".")[0], MOST_NUMBER) or 0
        return self.info.get("family") == "valkey" or version >= 7

    def _tell(self, copied: int) -> None:
        """Says now and then that keys are copied."""
        self._copied += copied
        now = time.monotonic()
        if self._copied and now - self._told_at >= EVERY_SECONDS:
            _log.info(
                "keys are copied from the source: commands brought them what rules leave out, or what another slot has",
                keys=self._copied,
            )
            self._copied, self._told_at = 0, now
