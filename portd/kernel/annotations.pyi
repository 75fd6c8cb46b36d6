"""Leaves out the timestamps between the commands of an append-only file. No I/O, no asyncio."""

from typing import Self, final

from typing_extensions import Buffer

@final
class AnnotationFilter:
    """Feed it bytes; it gives them back without annotations, up to the last place that it understands.

    Where something is neither a command nor an annotation, everything goes on from there: whoever reads the commands
    says what is wrong.
    """

    def __new__(cls) -> Self: ...
    def feed(self, data: Buffer) -> bytes:
        """What of *data* are commands."""
    def rest(self) -> bytes:
        """At the end of the file: a line that was not whole."""
