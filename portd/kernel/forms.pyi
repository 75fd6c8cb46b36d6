"""The table of forms: which commands and options came with which release, and what becomes of them on a target without."""

from typing import Final, NamedTuple

PLAIN: Final[str]
SCRIPT: Final[str]
VALUES: Final[str]
NONE: Final[str]

class Form(NamedTuple):
    """A command, or options of one.

    Attributes:
        name: as operators know it.
        redis: (major, minor) of the first Redis that knows it.
        valkey: of the first Valkey.
        becomes: ``plain``: other commands that do the same. ``script``: those, or a script where they cannot. ``values``:
            what it stores is kept, what only newer releases have is lost and counted. ``none``: it is refused by a target without.
    """

    name: str
    redis: tuple[int, int]
    valkey: tuple[int, int]
    becomes: str

FORMS: Final[tuple[Form, ...]]

def lacking(family: str, version: tuple[int, ...]) -> frozenset[str]:
    """Names of the forms that came later than a release of ``redis`` or ``valkey``."""
