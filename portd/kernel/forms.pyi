"""The table of forms: which commands and options came with which release, and what becomes of them on a target without."""

from collections.abc import Collection
from typing import Final, NamedTuple, final

ALWAYS: Final[tuple[int, int]]
NEVER: Final[tuple[int, int]]
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

@final
class Forms:
    """What one target lacks, for the splitter.

    Args:
        lacks: names from the table; ValueError for others.
        scripts: the target takes EVAL.
        claims: the source removes a pending entry whose message was deleted when it is claimed.
    """

    def __init__(self, lacks: Collection[str], scripts: bool, claims: bool) -> None: ...
    @property
    def scripts(self) -> bool: ...
    @property
    def claims(self) -> bool: ...
