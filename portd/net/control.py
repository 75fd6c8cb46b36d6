"""Control connections: a few questions to a server, whose answers are read whole.

Data has connections of its own. Who asks for strings that may be too large to hold takes a control connection that can do
that, too (`portd.net.pieces`). What is asked goes out in one write, hiredis reads the answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import hiredis

from portd.kernel.answerbound import AnswerBound
from portd.net.resp import request
from portd.net.shapes import Conversation, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from portd.net.endpoint import Endpoint

ANSWER_BYTES: Final = 8 << 20  # of answers to what is asked at once: more is no answer to any question of ours
ANSWER_OBJECTS: Final = 100_000  # likewise: a few bytes make an object of many
MOST_DATABASES: Final = 2**31 - 1  # config.c: `databases` is an int
NO_ROOM: Final = "ERR max number of clients"  # said without a question (networking.c:acceptCommonHandler)


class Refused(Exception):
    """An error reply.

    Attributes:
        text: as the server sent it, without the ``-``.
        login: it was our user or password that was refused.
    """

    def __init__(self, text: str, *, login: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.login = login or text.startswith(("NOAUTH", "WRONGPASS"))


class Taker(Protocol):
    """What takes the bytes that answer what was asked."""

    def feed(self, data: bytes) -> bool:
        """Takes bytes; tells whether nothing more is to come."""

    def fail(self, error: Exception) -> None:
        """Nothing more comes."""


class Answers:
    """Collects the answers to some questions.

    Args:
        count: of questions.
        most_bytes: of all answers.
        most_objects: in all answers.
    """

    def __init__(self, count: int, most_bytes: int = ANSWER_BYTES, most_objects: int = ANSWER_OBJECTS) -> None:
        self.future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._reader = hiredis.Reader()
        self._most_bytes = most_bytes
        self._most_objects = most_objects
        self._bound = AnswerBound(most_objects)
        self._missing = count
        self._answers: list[Any] = []
        self._bytes = 0

    def feed(self, data: bytes) -> bool:
        """Takes bytes; tells whether all answers are in, and the future done.

        Raises:
            hiredis.ProtocolError: that is no answer.
        """
        self._bytes += len(data)
        if self._bytes > self._most_bytes:
            raise hiredis.ProtocolError(f"an answer of more than {self._most_bytes} bytes")
        if not self._bound.feed(data):
            raise hiredis.ProtocolError(f"an answer of more than {self._most_objects} objects")
        self._reader.feed(data)
        while self._missing:
            answer = self._reader.gets()
            if answer is False:
                return False
            self._answers.append(answer)
            self._missing -= 1
        if self._reader.gets() is not False or self._reader.has_data():
            raise hiredis.ProtocolError("more replies than questions")
        if not self.future.done():
            self.future.set_result(self._answers)
        return True

    def fail(self, error: Exception) -> None:
        """Who waits is told."""
        if not self.future.done():
            self.future.set_exception(error)


class Control(asyncio.Protocol):
    """A connection for questions, one batch of them at a time; see `open_control`.

    Args:
        seconds: longest wait for all answers to what is asked at once.

    Attributes:
        heard: it has answered something.
        most_bytes: of all answers to what is asked at once; more is no answer to any question.
        most_objects: likewise.
    """

    most_bytes = ANSWER_BYTES
    most_objects = ANSWER_OBJECTS

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._transport: asyncio.Transport | None = None
        self._taker: Taker | None = None
        self._limit: asyncio.Timeout | None = None  # of the wait for answers
        self._ended: Exception | None = None
        self.heard = False
        self._conversation = Conversation()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclasses

    def data_received(self, data: bytes) -> None:
        """Takes answers. A server that speaks without being asked says why it does not serve us."""
        self.heard = True
        if self._taker is None:
            self._fail(_turned_away(data.lstrip(b"-").split(b"\r\n")[0].decode("utf-8", "replace")))
            return
        try:
            if self._taker.feed(data):
                self._taker = None
        except hiredis.ProtocolError as error:
            self._fail(ConnectionAbortedError(f"it does not speak RESP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells who waits."""
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("it closed the connection"))

    def _fail(self, error: Exception) -> None:
        self._ended = self._ended or error
        if self._taker is not None:
            self._taker.fail(self._ended)
        self._taker = None
        self.close()

    # -- asking

    async def ask(self, *commands: bytes) -> list[Any]:
        """Sends commands and reads their answers; error replies are ``hiredis.ReplyError`` objects among them.

        Raises:
            OSError: the connection is lost, or too slow (`TimeoutError`); it cannot be used any more.
            Refused: the server turned us away before it was asked.
        """
        found = await self._exchange(commands, len(commands))
        if complaint := self._conversation.complaint(commands, found):
            self._fail(error := ConnectionAbortedError(f"it {complaint}"))
            raise error
        if isinstance(found[0], hiredis.ReplyError) and str(found[0]).startswith(NO_ROOM):
            raise _turned_away(str(found[0]))
        return found

    async def _exchange(self, data: Sequence[bytes], replies: int) -> list[Any]:
        """Sends bytes of commands and reads as many answers, whatever they are.

        Raises:
            OSError: see `ask`.
            Refused: likewise.
        """
        answers = Answers(replies, self.most_bytes, self.most_objects)
        self._send(data, answers)
        try:
            async with asyncio.timeout(self._seconds) as self._limit:
                return await answers.future
        except BaseException:
            self._taker = None
            self.close()  # answers that come now would be taken for those to the next questions
            raise
        finally:
            self._limit = None

    def _send(self, data: Sequence[bytes], taker: Taker) -> asyncio.Transport:
        """Sends bytes of commands in one packet, and one TLS record; *taker* takes what answers them."""
        assert self._taker is None, "one batch of questions at a time"
        if self._ended is not None or self._transport is None:
            raise self._ended or ConnectionResetError("the connection is closed")
        self._taker = taker
        self._transport.write(b"".join(data))
        return self._transport

    async def call(self, *words: bytes | str | int) -> Any:
        """Sends one command and reads its answer.

        Raises:
            Refused: it is an error reply.
            OSError: see `ask`.
        """
        (answer,) = await self.ask(request(*words))
        return checked(answer)

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


@asynccontextmanager
async def open_control(endpoint: Endpoint) -> AsyncIterator[Control]:
    """A control connection for the length of the block; our user is logged in.

    Args:
        endpoint: the server; its `connect_seconds` bounds the connection, and all answers to what is asked at once.

    Raises:
        OSError: it could not be made.
        Refused: the server refuses user or password.
        ConfigError: a TLS file cannot be used.
    """
    seconds = endpoint.connect_seconds
    _, control = await endpoint.connect(lambda: Control(seconds), timeout=seconds)
    try:
        if (login := endpoint.auth_command()) is not None:
            (answer,) = await control.ask(login)
            checked(answer, login=True)
        yield control
    except OSError as error:
        if control.heard or (why := await endpoint.explained(error)) is error:
            raise
        raise why from None
    finally:
        control.close()


def _turned_away(text: str) -> Exception:
    """What a server said instead of serving us."""
    return ConnectionRefusedError(text) if text.startswith(NO_ROOM) else Refused(text)


def checked(answer: Any, *, login: bool = False) -> Any:
    """The answer itself.

    Raises:
        Refused: it is an error reply.
    """
    if isinstance(answer, hiredis.ReplyError):
        raise Refused(str(answer), login=login)
    return answer


def parse_info(text: bytes) -> dict[str, str]:
    """The `name:value` lines of an INFO reply; repeated names (modules) are joined with a space."""
    found: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines():
        name, separator, value = line.partition(":")
        if separator and not line.startswith("#"):
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


def parse_fields(text: str) -> dict[str, str]:
    """`name=value` pairs with commas between them, as a line of INFO has them."""
    return {name: value for name, _, value in (part.partition("=") for part in text.split(","))}


def calls_by_command(info: Mapping[str, str]) -> Counter[str]:
    """How often each command was called, from ``INFO commandstats``, by its name in small letters; subcommands add up."""
    calls: Counter[str] = Counter()
    for name, value in info.items():
        if name.startswith("cmdstat_"):
            calls[name.removeprefix("cmdstat_").partition("|")[0].lower()] += (
                whole(parse_fields(value).get("calls", "")) or 0
            )
    return calls


def keys_by_database(info: Mapping[str, str]) -> dict[int, int]:
    """Keys in each database, from ``INFO keyspace``; empty databases are not told."""
    counts = {name[2:]: parse_fields(value).get("keys", "") for name, value in info.items() if name.startswith("db")}
    numbers = ((whole(db, MOST_DATABASES), whole(keys)) for db, keys in counts.items())
    return {db: keys for db, keys in numbers if db is not None and keys is not None}


def parse_pairs(reply: Sequence[object]) -> dict[str, str]:
    """Names and values that alternate in a reply (CONFIG GET, HGETALL), as text."""
    texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in reply]
    return dict(zip(texts[::2], texts[1::2], strict=False))
