"""Which keys are taken, by prefixes and globs."""

from collections.abc import Sequence
from typing import Self, final

@final
class Patterns:
    """Prefixes, and globs as KEYS has them.

    Args:
        patterns: one with ``*``, ``?`` or ``[`` is a glob and must fit the whole key, any other one is a prefix. In a glob a
            backslash takes the meaning from what follows it; in a prefix it stands for itself.
    """

    def __new__(cls, patterns: Sequence[bytes] = ()) -> Self: ...
    def matches(self, key: bytes) -> bool:
        """Whether one of them fits."""

@final
class Rules:
    """Which keys are taken: those that a pattern of *taken* fits, all where it is empty, but for those that one of *left* fits.

    Args:
        taken: see `Patterns`.
        left: see `Patterns`; these win.
    """

    def __new__(cls, taken: Sequence[bytes] = (), left: Sequence[bytes] = ()) -> Self: ...
    def takes(self, key: bytes) -> bool:
        """Whether a key is taken."""
