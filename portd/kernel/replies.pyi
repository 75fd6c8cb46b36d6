"""Counts the replies of a target without building them: RESP2 bytes in, numbers and the few replies that matter out."""

from collections import deque
from typing import Final, NamedTuple, Self, final

from typing_extensions import Buffer

MAX_DEPTH: Final[int]
"""Nesting of arrays."""
MAX_LINE: Final[int]
"""Bytes of a line or of a wanted value; more is not an answer to what we send."""
MAX_TEXT: Final[int]
"""Bytes of an error that are kept."""
MAX_ELEMENT_NOTES: Final[int]
"""Errors noted inside of one array; more are counted."""

class Note(NamedTuple):
    """A reply that is more than an acknowledgement.

    Attributes:
        reply: number of the reply, from 0 on the connection.
        element: index inside the reply when that is an array (of EXEC), -1 for the reply itself. An error that lies
            deeper has the index of the outermost array's element it is in.
        text: the error without its ``-``, cut to ``MAX_TEXT`` bytes; None for nil (EXEC after a failed WATCH).
    """

    reply: int
    element: int
    text: str | None

@final
class ReplyCounter:
    """Counts the top-level replies of one connection; resumable at any byte.

    Owns no more than ``MAX_LINE`` bytes beside its notes.
    """

    def __new__(cls) -> Self: ...
    def feed(self, data: Buffer) -> int:
        """Takes bytes as they were received; returns how many replies they completed.

        Raises:
            TargetError: they are not RESP2; the counter cannot go on, every later call raises the same.
        """
    def want(self, reply: int) -> None:
        """Keeps the value of a reply that is still to come, in ``values``.

        Args:
            reply: its number, larger than any wanted before.

        Raises:
            ValueError: it has come already, or is out of order.
        """
    @property
    def replies(self) -> int:
        """Complete replies so far."""
    @property
    def notes(self) -> deque[Note]:
        """Errors, errors inside of arrays, and top-level nils, in order; the reader removes what it has seen."""
    def take_notes(self, first: int, end: int) -> list[Note]:
        """Removes the notes on replies before *end*; they are numbered from *first* on."""
    @property
    def values(self) -> dict[int, bytes | int | None]:
        """What was wanted, by reply number: an integer, a line or bulk string, an array's length, None for nil.

        An error is noted and not kept here. The reader removes what it has seen.
        """
    unnoted: int
    """Errors beyond ``MAX_ELEMENT_NOTES`` of one array; the reader sets it back to 0."""
    def statistics(self) -> dict[str, int]:
        """Keys: ``owned_bytes`` ``open_arrays`` ``wanted`` ``notes``."""
