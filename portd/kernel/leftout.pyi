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
        """Of the target: that of the database in effect at the source."""
    @property
    def command(self) -> str:
        """Its name, upper case; cut when it is long."""
    @property
    def key(self) -> bytes:
        """Its first key, as it is called in the target, cut when it is long; b"" when it has none, or when that was not at hand."""
    @property
    def source_db(self) -> int:
        """The database in effect at the source; -1 where it has the same number."""
    @property
    def source_key(self) -> bytes:
        """What that key is called there."""
    @property
    def code(self) -> str:
        """What it is counted as."""
    @property
    def reason(self) -> str: ...
