"""The epoch: a key beside the checkpoint that says who may write, and that every write of ours is fenced by.

Bytes may reach the target late: a router holds them, a process was frozen, a connection ended here and not there. So
nothing is sent that would take effect by itself. Whoever takes the link writes a new epoch; a transaction watches the
key, and its commands are sent only when the answers have shown that our epoch stands. Whenever EXEC arrives then, it
does nothing if the epoch has changed since. See docs/design/0004-the-fence.md.

An epoch is one snapshot with its pruning, or one stream. Its value is ``<process>-<number>.<renewal>``: a renewal keeps
the epoch and voids what lost connections have left.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

from portd.errors import DataLost, LinkTaken
from portd.model import ConnectionState
from portd.net.replies import USER_HINT, error_of
from portd.net.resp import request
from portd.target.connection import connect, text_of, while_connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.net.endpoint import Endpoint
    from portd.target.connection import Connection, ConnectionOptions

EPOCH_SUFFIX: Final = ":epoch"  # of the key beside a checkpoint: a hash, as that is, for the same permissions
FIELD: Final = "epoch"  # in it
PLAIN: Final = "plain"  # in it: 1 while data is written outside of transactions (`portd.target.kept.eviction`)
GIVEN_BACK: Final = "given_back"  # in it: the epoch with which a process gave the link back in order
QUIT: Final = request("QUIT")  # needs no permission
OPENING_ELSEWHERE: Final = 5  # commands that open a transaction in another database than 0


class Epochs:
    """Makes the epochs of one process on one link.

    Args:
        checkpoint_key: of the link.
        link: its name, for messages.
        process: random, of the process.
        plain: it writes outside of transactions as well.

    Attributes:
        key: where the epoch stands, in db 0.
        link: see above.
        plain: see above.
    """

    def __init__(self, checkpoint_key: str, link: str = "", process: str = "", *, plain: bool = False) -> None:
        self.key = checkpoint_key + EPOCH_SUFFIX
        self.link = link
        self.plain = plain
        self._process = process or secrets.token_hex(8)
        self._made = 0

    def new(self) -> Epoch:
        """Another epoch; it begins when it is written."""
        self._made += 1
        return Epoch(self, f"{self._process}-{self._made}")

    def are_ours(self, found: object) -> bool:
        """Whether this process wrote what was found."""
        return isinstance(found, bytes) and found.startswith(f"{self._process}-".encode())


class Epoch:
    """What everything is written under from one snapshot's beginning to its end, or one stream's; made by `Epochs`.

    Attributes:
        key: where it stands, in db 0.
        steady: held while something is sent that could not be sent again; nobody renews meanwhile.
    """

    def __init__(self, epochs: Epochs, name: str) -> None:
        self.key = epochs.key
        self.steady = asyncio.Lock()
        self._epochs = epochs
        self._name = name
        self._renewal = 0
        self._successor: Epoch | None = None

    @classmethod
    def of(cls, checkpoint_key: str) -> Epoch:
        """One of a process of its own."""
        return Epochs(checkpoint_key).new()

    @property
    def value(self) -> str:
        """What stands in the target, or a renewal of it."""
        return f"{self._name}.{self._renewal}"

    @property
    def successor(self) -> Epoch:
        """The one that begins where this one ends; always the same."""
        self._successor = self._successor or self._epochs.new()
        return self._successor

    def stands(self, found: object) -> bool:
        """Whether what was found lets this epoch write."""
        return isinstance(found, bytes) and found.startswith(f"{self._name}.".encode())

    def check(self, *found: object) -> None:
        """Makes sure that this epoch may write.

        Args:
            found: the one value of the key; None where there is none.

        Raises:
            TargetLost: the target lost it, and with it perhaps what was written.
            LinkTaken: another process has taken the link.
        """
        (value,) = found
        if self.stands(value):
            return
        if value is not None and not self._epochs.are_ours(value):
            raise taken_over(self._epochs.link)
        raise DataLost("the target lost its data: the epoch that was written before is gone")

    def stated(self) -> bytes:
        """The command that writes it as it is."""
        return request("HSET", self.key, FIELD, self.value, PLAIN, int(self._epochs.plain))

    def renewed(self) -> bytes:
        """The command that voids what lost connections have left."""
        self._renewal += 1
        return self.stated()

    @property
    def keys(self) -> tuple[str, ...]:
        """What is looked at; see `portd.target.transactions.Guard`."""
        return (self.key,)

    def questions(self) -> list[bytes]:
        """What is asked, in db 0, before a transaction is filled: the epoch, watched."""
        return [request("WATCH", self.key), request("HGET", self.key, FIELD)]


class Fenced:
    """Transactions under an epoch whose answers are read; see `portd.target.transactions` for those of bulk data.

    Behind each EXEC the next transaction is opened, so that one costs one round trip, and none is filled that is not
    known to be open, in its database, under our epoch. Between two the connection can be used for nothing else.

    Args:
        connection: nothing else may be sent on it meanwhile; in db 0.
        epoch: that must stand.
    """

    def __init__(self, connection: Connection, epoch: Epoch) -> None:
        self._connection = connection
        self._epoch = epoch
        self._db = 0  # of the connection
        self._opened: list[Any] | None = None  # answers to what opened the next transaction

    async def execute(self, *commands: bytes, db: int = 0, what: str = "a write") -> list[Any]:
        """Executes commands in one transaction; returns their answers.

        Error replies of commands that ran are among the answers, as ``hiredis.ReplyError``.

        Args:
            commands: at least one.
            db: for them.
            what: is done, for messages.

        Raises:
            LinkTaken: another process has taken the link.
            TargetLost: the epoch is gone.
            TargetBusy: the target refuses for now.
            TargetRefused: what our user may not do.
            TargetError: it refuses for another reason.
            Disconnected: the connection was lost; nothing is known.
        """
        epoch = self._epoch
        while True:
            if self._opened is None or self._db != db:
                discard = [] if self._opened is None else [request("EXEC")]
                self._opened = (await self._connection.ask(*discard, *self._opening(db)))[len(discard) :]
            opened, self._opened = self._opened, None
            self._db = db
            for answer in opened:
                check(answer, what, epoch.key)
            found = opened[2 if len(opened) == OPENING_ELSEWHERE else 1]
            epoch.check(found)
            answers = await self._connection.ask(*commands, request("EXEC"), *self._opening(db))
            self._opened = answers[len(commands) + 1 :]
            executed = answers[len(commands)]
            for answer in answers[: len(commands) + 1]:
                check(answer, what)
            if executed is not None:
                return list(executed)
            # Nothing happened: a renewal of ours, or somebody else's epoch. The next look tells.

    async def execute_last(self, *commands: bytes, what: str, closes: bool = False) -> list[Any] | None:
        """Like `execute`, in db 0, as the first and last of a connection, which the target ends behind it.

        So nothing takes effect that comes once more over it, when the epoch goes on or there is another one: no transaction
        is open then that it could fall into.

        Args:
            commands: at least one.
            what: is done, for messages.
            closes: the epoch ends with it, and its successor begins. A try whose answer was lost is told by that;
                nothing is answered then.

        Returns:
            None where nothing happened: another look, over another connection, tells why.
        """
        assert self._opened is None, "nothing else was executed over the connection"
        epoch = self._epoch
        if closes:
            commands = (*commands, epoch.successor.stated())
        opened = await self._connection.ask(*self._opening(0))
        for answer in opened:
            check(answer, what, epoch.key)
        if closes and epoch.successor.stands(opened[1]):
            return []
        epoch.check(opened[1])
        answers = await self._connection.ask(*commands, request("EXEC"), QUIT)
        for answer in answers[:-1]:
            check(answer, what)
        executed = answers[-2]
        return None if executed is None else list(executed)

    async def leave(self) -> None:
        """Ends the open transaction, which is empty, so that the connection, in db 0, can be used for something else."""
        if self._opened is not None:
            self._opened = None
            await self._connection.ask(request("EXEC"), request("SELECT", 0))
            self._db = 0

    def _opening(self, db: int) -> list[bytes]:
        """What opens a transaction in a database; the watched key is in db 0."""
        if not (db or self._db):
            return [*self._epoch.questions(), request("MULTI")]
        return [request("SELECT", 0), *self._epoch.questions(), request("SELECT", db), request("MULTI")]


async def write_once(
    endpoint: Endpoint,
    options: ConnectionOptions,
    epoch: Epoch,
    *commands: bytes,
    what: str,
    closes: bool = False,
    name: str = "fenced",
    look: Callable[[Connection], Awaitable[None]] | None = None,
) -> list[Any]:
    """One transaction of `Fenced` over a connection of its own; see there.

    Args:
        endpoint: the target.
        options: how the connection is made.
        epoch: that must stand.
        commands: for db 0.
        what: is done, for messages.
        closes: the epoch ends with it.
        name: of the connection.
        look: awaited before, with the connection.
    """

    async def write(connection: Connection) -> list[Any] | None:
        if look is not None:
            await look(connection)
        return await Fenced(connection, epoch).execute_last(*commands, what=what, closes=closes)

    while True:
        connection = await connect(endpoint, name, ConnectionState(), options)
        try:
            answers = await while_connected(connection, write(connection))
        finally:
            connection.close()
        if answers is not None:
            return answers


async def renew(connection: Connection, epoch: Epoch) -> None:
    """Voids what lost connections of this epoch have left; may be repeated.

    Raises:
        LinkTaken: another process has taken the link.
        TargetLost: the epoch is gone.
        TargetError: the target refuses, for now or for good.
    """
    async with epoch.steady:
        fenced = Fenced(connection, epoch)
        await fenced.execute(epoch.renewed(), what="the epoch")
        await fenced.leave()


def taken_over(link: str = "") -> LinkTaken:
    """The error of one who finds another process's epoch, token or checkpoint."""
    name = f" {link!r}" if link else ""
    return LinkTaken(
        f"another portd has taken over the link{name}; nothing more is written",
        hint="one of the two is too many: keep it stopped, or give it another --link",
    )


def check(answer: object, what: str, key: str = "", *, hint: str = USER_HINT) -> None:
    """Raises what an error reply means.

    Args:
        answer: any answer.
        what: was to be done, for messages.
        key: that was asked for, where that is one of ours; "" for none.
        hint: what to do.

    Raises:
        TargetBusy: the target refuses for now.
        TargetRefused: what our user may not do.
        TargetError: it refuses for another reason.
    """
    if text := text_of(answer):
        raise error_of(text, f"refuses {what}", for_now=f"refuses {what} for now", key=key, hint=hint)
