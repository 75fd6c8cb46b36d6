"""What one write to the target sends."""

from typing import Final, final

WHOLE: Final = 0
OPEN: Final = 1
SPREAD: Final = 2
ORDERED: Final = 3
CLOSE: Final = 4

@final
class Batch:
    """RESP bytes for one lane, all for one database, and what must be known to account for them.

    A batch ends on a command boundary unless ``part`` is set; then the command goes on in the next batch of the same
    big key, on the same lane, with nothing between.

    Attributes:
        data: RESP commands, or a part of one.
        replies: how many replies the target will send for the commands that *end* in this batch.
        db: database the commands are for; the lane sends the SELECT.
        keys: keys whose last command is in this batch; applied once it is acknowledged.
        kind: ``WHOLE`` only whole keys, any lane. A big key (``fence`` != 0) is one ``OPEN`` batch (UNLINK, or EXISTS
            when existing keys are skipped), then chunks, then one ``CLOSE`` batch (TTL and the like; ``replies`` may be
            0 when there is nothing to say). Chunks are ``SPREAD`` (hash, set, zset: any lane, once OPEN is
            acknowledged) or ``ORDERED`` (list, stream, string, and every ``part``: one lane, in order). One key uses
            either; a SPREAD key may hold ORDERED runs for elements sent in parts. CLOSE waits until all of the
            key's chunks are acknowledged.
        fence: number of the big key, counted from 1; 0 for WHOLE.
        key: name of the big key, for messages and for asking the target about it; b"" for WHOLE.
        offset: snapshot offset of the first byte this batch came from.
        base: list elements of this key sent before this batch (what LLEN must have reached); 0 elsewhere.
        part: the last command continues in the next batch.
    """

    def __init__(
        self,
        data: bytes,
        *,
        replies: int,
        db: int,
        keys: int = 0,
        kind: int = 0,
        fence: int = 0,
        key: bytes = b"",
        offset: int = 0,
        base: int = 0,
        part: bool = False,
    ) -> None: ...
    @property
    def data(self) -> bytes: ...
    @property
    def replies(self) -> int: ...
    @property
    def db(self) -> int: ...
    @property
    def keys(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def fence(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def offset(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def part(self) -> bool: ...
    def __len__(self) -> int: ...
