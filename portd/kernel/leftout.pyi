"""What is said of a piece beside its bytes: commands that were left out of it by name, and the databases it needs."""

from typing import final

@final
class Refusal:
    """A command that cannot be written to the target: a dead letter."""

    @property
    def offset(self) -> int:
        """Replication offset of its first byte."""
    @property
    def db(self) -> int:
        """Database in effect at the source."""
    @property
    def command(self) -> str:
        """Its name, upper case; cut when it is long."""
    @property
    def key(self) -> bytes:
        """Its first key, cut when it is long; b"" when it has none, or when that was not at hand."""
    @property
    def code(self) -> str:
        """What it is counted as."""
    @property
    def reason(self) -> str: ...
