"""How much goes into one transaction: as much as the target executes in a few milliseconds.

While EXEC runs, the target's other clients wait. What it takes is seen in the replies: those of queueing come as the
commands do, and the one of EXEC comes after a gap that is the execution, and what else the target did meanwhile. Sizes
shrink when two gaps in a row are too long (one may be a process that waited for a core), and grow again step by step. To a
target that is far away, gaps vary by themselves: what counts there is a round trip on top. And each transaction costs a
round trip there; a near target is given less at a time, since what the next commands cost is not known before.

A target that waits for a core takes long whatever it is given, and smaller transactions only make it slower. So the part of
the time that does not depend on the size is told from the rest by a line through what the last transactions took.
"""

from __future__ import annotations

from typing import Final

AIM_SECONDS: Final = 0.003  # an EXEC should take: servers tell of commands that take 10 ms
FEWEST_COMMANDS: Final = 64
FEWEST_BYTES: Final = 16 * 1024
SHRINK: Final = 0.25  # at most to this part in one step
GROWTH: Final = 1.5  # in one step
NEAR: Final = 0.25  # part of the largest size that a near target is given
NEAR_SECONDS: Final = 0.005  # there and back
FIRST: Final = 0.25  # part of the largest size that the first transaction has
REMEMBERED: Final = 8  # transactions
ALIKE: Final = 0.05  # sizes that differ by less tell nothing about what depends on them


class _Line:
    """What transactions took, as a fixed part and one for each command: the line of least squares; older ones count less."""

    __slots__ = ("_commands", "_products", "_seconds", "_squares", "_weight")

    def __init__(self) -> None:
        self._weight = self._commands = self._seconds = self._squares = self._products = 0.0

    def note(self, commands: int, seconds: float) -> None:
        """One more."""
        keep = 1 - 1 / REMEMBERED
        self._weight = self._weight * keep + 1
        self._commands = self._commands * keep + commands
        self._seconds = self._seconds * keep + seconds
        self._squares = self._squares * keep + commands * commands
        self._products = self._products * keep + commands * seconds

    def fixed(self) -> float | None:
        """Seconds that one takes however few commands it has; None where all had as many."""
        commands, seconds = self._commands / self._weight, self._seconds / self._weight
        variance = self._squares / self._weight - commands * commands
        if variance <= (ALIKE * commands) ** 2:
            return None
        each = max(0.0, (self._products / self._weight - commands * seconds) / variance)
        return max(0.0, seconds - each * commands)


class GroupSize:
    """The size of the next transaction.

    Args:
        max_bytes: it never has more, where the commands allow.
        max_commands: it never has more.

    Attributes:
        bytes: it takes no further command at this size.
        commands: nor at this many.
    """

    __slots__ = ("_line", "_max_bytes", "_max_commands", "_strain", "bytes", "commands")

    def __init__(self, max_bytes: int, max_commands: int) -> None:
        self._max_bytes = max_bytes
        self._max_commands = max_commands
        self._line = _Line()
        self._strain = 0.0  # of the last transaction: what it took, as a part of what it should
        self.bytes = max_bytes
        self.commands = max_commands
        self._scale(FIRST, max_bytes, max_commands)

    def note(self, seconds: float, size: int, commands: int, round_trip: float = 0.0) -> None:
        """Takes what a transaction cost.

        Args:
            seconds: that its EXEC took at the most.
            size: its bytes.
            commands: its commands.
            round_trip: seconds that the way there and back takes.
        """
        taken, aim = max(0.0, seconds - round_trip), AIM_SECONDS + round_trip
        self._line.note(commands, taken)
        strain = taken / aim
        if strain > 1:
            fixed = min(taken, self._fixed(taken))
            strain = (taken - fixed) / (aim + fixed)
        steady, self._strain = min(strain, self._strain), strain
        if steady > 1:
            self._scale(max(SHRINK, 1 / steady), min(size, self.bytes), min(commands, self.commands))
        elif strain < 1 / GROWTH and (2 * size > self.bytes or 2 * commands > self.commands):
            # a smaller one says nothing about a larger one
            self._scale(GROWTH, self.bytes, self.commands, 1.0 if round_trip > NEAR_SECONDS else NEAR)

    def _fixed(self, taken: float) -> float:
        """Seconds of a transaction that a smaller one would take, too. Nobody knows where all are alike: a smaller one, or a larger one, tells."""
        if (fixed := self._line.fixed()) is not None:
            return fixed
        return taken if self.commands == FEWEST_COMMANDS or self.bytes == FEWEST_BYTES else 0.0

    def _scale(self, factor: float, size: int, commands: int, most: float = 1.0) -> None:
        """Multiplies the sizes given, up to *most* of the largest."""
        self.bytes = min(int(self._max_bytes * most) or 1, max(FEWEST_BYTES, int(size * factor)))
        self.commands = min(int(self._max_commands * most) or 1, max(FEWEST_COMMANDS, int(commands * factor)))
