"""Finds commands inside RESP bytes that were sent: their names, keys, extents and databases."""

from collections.abc import Container
from typing import NoReturn, final

@final
class Command:
    """A command inside a buffer.

    Attributes:
        name: upper case.
        key: its first key; b"" when it has none, or that is not there.
        start: index of its first byte.
        end: index behind its last byte.
        keys: how many keys it writes (MSET: all of them; others: one or none).
        db: database in effect, of a SELECT the one that it selects; -1 when it is not known.
    """

    def __init__(self) -> NoReturn: ...
    @property
    def name(self) -> bytes: ...
    @property
    def key(self) -> bytes: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def keys(self) -> int: ...
    @property
    def db(self) -> int: ...
    @property
    def title(self) -> str:
        """The name as text, for messages."""

def split(data: bytes) -> list[Command]:
    """The commands of *data*, which begins on a command boundary. One that is cut at the end is not told.

    Raises:
        ValueError: the bytes are not RESP requests.
    """

def head(data: bytes) -> Command:
    """The first command of *data*, as far as it is there: a name or key that is cut is b"".

    Raises:
        ValueError: the bytes are not a RESP request.
    """

def find(data: bytes, numbers: list[int], db: int = -1) -> list[Command]:
    """The commands of *data* with these numbers, from 0.

    Args:
        data: whole commands.
        numbers: in ascending order.
        db: database in effect before the first command.

    Raises:
        IndexError: there are fewer commands; its argument says how many.
        ValueError: the bytes are not RESP requests, or the numbers do not ascend.
    """

def of_keys(data: bytes, keys: Container[bytes]) -> tuple[bytes, int]:
    """The commands of *data* whose first key is one of *keys*, in their order, and how many they are.

    Raises:
        ValueError: the bytes are not RESP requests.
    """

def named(data: bytes, names: Container[bytes]) -> tuple[bytes, list[int], list[bytes]]:
    """The commands of *data* that are called like one of *names* (upper case), their numbers from 0, and their names.

    Raises:
        ValueError: the bytes are not RESP requests.
    """

def without(data: bytes, offsets: bytes, numbers: list[int]) -> tuple[bytes, bytes]:
    """Leaves commands out of *data*, and all others of the same offset.

    Args:
        data: whole commands.
        offsets: of each, packed native u64, as in ``Piece``.
        numbers: of those to leave out, from 0 and in ascending order.

    Returns:
        What is left of both.

    Raises:
        IndexError: there are fewer commands.
        ValueError: the bytes are not RESP requests.
    """

def singles(data: bytes, command: Command) -> tuple[bytes, int]:
    """An MSET as the SETs it is made of, and how many they are.

    Raises:
        ValueError: the command is not in *data*.
    """
