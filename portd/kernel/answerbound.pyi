"""How many objects an answer is made of, counted before anybody builds them. No I/O, no asyncio."""

from typing import Self, final

from typing_extensions import Buffer

@final
class AnswerBound:
    """Counts the objects of RESP2 and RESP3 replies; resumable at any byte.

    Args:
        most: objects that are believed, elements of lists among them. A list that announces more is too much at once.
    """

    def __new__(cls, most: int) -> Self: ...
    def feed(self, data: Buffer) -> bool:
        """Takes bytes as they were received; False when they are too much."""
    def forget(self) -> None:
        """What was counted is not held any more; the next bytes go on where the last ones ended."""
