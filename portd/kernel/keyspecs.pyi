"""What is known of commands and their keys: where these stand, what becomes of them, their slots."""

from collections.abc import Mapping, Sequence
from typing import Final, Self, final

# What a command does to a key, as COMMAND GETKEYSANDFLAGS says it: a sum of these.
USES: Final[Mapping[str, int]]

@final
class KeySpecs:
    """Where the keys of commands stand.

    Args:
        told: what a server says of commands that are not in the table, those of modules above all, by name (a
            subcommand's behind a bar), as `portd.net.commands.key_specs` writes it. What the table has stays as it is, and so does what
            cannot be read: nobody knows it.
    """

    def __new__(cls, told: Mapping[bytes, str] | None = None) -> Self: ...
    @property
    def numbers(self) -> dict[bytes, int]:
        """Names that are known, in upper case; the numbers are the kernel's."""
    def knows(self, name: bytes) -> bool:
        """Whether the keys of a command of this name, in any letter case, are known."""
    def places(self, arguments: Sequence[bytes]) -> list[tuple[int, int]] | None:
        """Where the keys of a command stand, in their order, and what it does to each (a sum of ``USES``).

        Args:
            arguments: of the command, its name first.

        Returns:
            None when nobody knows that command, or its subcommand.

        Raises:
            ValueError: its arguments do not say where its keys are, or there are fewer than they say.
        """
    def slots(self, arguments: Sequence[bytes]) -> frozenset[int] | None:
        """The cluster slots of a command's keys, or of its channel; the rest as for `places`."""

KNOWN: Final[KeySpecs]
