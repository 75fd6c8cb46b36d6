"""What is known of commands by their names, for one target."""

from collections.abc import Mapping
from typing import Literal, Self, final

@final
class CommandTable:
    """Which commands of a stream go on to a target.

    Made once for a target: it holds some hundred names, and splitters share it.

    Args:
        flags: commands that the target has, by name in any letter case, and whether they write. Empty: the target does
            not tell; then the build's own lists decide, and a name that is in none of them is refused. None: there is
            no target, and such a name goes on.
        publish: messages of PUBLISH and SPUBLISH go on.
    """

    def __new__(cls, flags: Mapping[bytes, bool] | None = None, *, publish: bool = ...) -> Self: ...
    @property
    def strict(self) -> bool:
        """A name that is not known is refused."""
    def decide(self, name: bytes) -> Literal["passed", "filtered", "refused"]:
        """What becomes of a command of this name, its arguments aside."""
