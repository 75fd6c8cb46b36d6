"""What is known of commands by their names, for one target."""

from collections.abc import Mapping
from typing import Literal, Self, final

from portd.kernel.forms import Forms
from portd.kernel.keyspecs import KeySpecs
from portd.kernel.snapshot import Dialect

@final
class CommandTable:
    """Which commands of a stream go on to a target, and in which form.

    Made once for a target: it holds some hundred names, and splitters share it.

    Args:
        flags: commands that the target has, by name in any letter case, and whether they write. Empty: the target does
            not tell; then the build's own lists decide, and a name that is in none of them is refused. None: there is
            no target, and such a name goes on.
        publish: messages of PUBLISH and SPUBLISH go on.
        forms: what the target does not know; None: it knows all. What has another form goes on in it, listed by
            COMMAND or not.
        dialect: what the target takes as the payload of RESTORE; None: any, they go on as they came.
        keys: where the keys of commands stand; None: only what is known of all servers.
        left: names of commands that do not go on, whatever they are.

    Raises:
        ValueError: *left* names one that others depend on.
    """

    def __new__(
        cls,
        flags: Mapping[bytes, bool] | None = None,
        *,
        publish: bool = ...,
        forms: Forms | None = ...,
        dialect: Dialect | None = ...,
        keys: KeySpecs | None = ...,
        left: frozenset[bytes] = ...,
    ) -> Self: ...
    @property
    def strict(self) -> bool:
        """A name that is not known is refused."""
    def decide(self, name: bytes) -> Literal["passed", "filtered", "refused"]:
        """What becomes of a command of this name, its arguments aside."""
