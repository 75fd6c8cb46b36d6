"""Values become lines: one JSON object, or one CSV row, for each element."""

from typing import Final, Self

from typing_extensions import disjoint_base

from portd.kernel.handler import Handler

CSV_HEADER: Final[bytes]

@disjoint_base
class EventHandler(Handler):
    """Writes what a decoder tells it; ``next_output`` of the decoder gives bytes to be written one after the other.

    Lines are cut anywhere, and no line is ever held whole that is longer than a few ``chunk_bytes``.

    Args:
        csv: rows of comma-separated values, a header first; else lines of JSON.
        functions: tell function libraries.
        aux: tell the fields of the file's head.
        part_bytes: output is handed out once it has this many bytes.
        chunk_bytes: of the decoder.
    """

    def __new__(
        cls,
        *,
        csv: bool = ...,
        functions: bool = ...,
        aux: bool = ...,
        part_bytes: int = ...,
        chunk_bytes: int = ...,
    ) -> Self: ...
