"""How much goes into one transaction: as much as the target executes in a few milliseconds.

While EXEC runs, the target's other clients wait. What it takes is seen in the replies: those of queueing come as the
commands do, and the one of EXEC comes after a gap that is the execution, and what else the target did meanwhile. Sizes
shrink at once when the gap is too long, and grow again step by step.
"""

from __future__ import annotations

from typing import Final

AIM_SECONDS: Final = 0.003  # an EXEC should take: servers tell of commands that take 10 ms
FEWEST_COMMANDS: Final = 16
FEWEST_BYTES: Final = 16 * 1024
SHRINK: Final = 0.25  # at most to this part in one step: the gap may have had another cause
GROWTH: Final = 1.5  # in one step
FIRST: Final = 0.25  # part of the largest size that the first transaction has


class GroupSize:
    """The size of the next transaction.

    Args:
        max_bytes: it never has more, where the commands allow.
        max_commands: it never has more.

    Attributes:
        bytes: it takes no further command at this size.
        commands: nor at this many.
    """

    __slots__ = ("_max_bytes", "_max_commands", "bytes", "commands")

    def __init__(self, max_bytes: int, max_commands: int) -> None:
        self._max_bytes = max_bytes
        self._max_commands = max_commands
        self.bytes = max_bytes
        self.commands = max_commands
        self._scale(FIRST, max_bytes, max_commands)

    def note(self, seconds: float, size: int, commands: int) -> None:
        """Takes what a transaction cost.

        Args:
            seconds: that its EXEC took at the most.
            size: its bytes.
            commands: its commands.
        """
        if seconds > AIM_SECONDS:
            self._scale(max(SHRINK, AIM_SECONDS / seconds), min(size, self.bytes), min(commands, self.commands))
        elif seconds < AIM_SECONDS / GROWTH and (2 * size > self.bytes or 2 * commands > self.commands):
            self._scale(GROWTH, self.bytes, self.commands)  # a smaller one says nothing about a larger one

    def _scale(self, factor: float, size: int, commands: int) -> None:
        self.bytes = min(self._max_bytes, max(FEWEST_BYTES, int(size * factor)))
        self.commands = min(self._max_commands, max(FEWEST_COMMANDS, int(commands * factor)))
