"""Rules on their way to a decoder: what it tells of, and under which names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portd.config.rules import Choice
    from portd.kernel.snapshot import SnapshotDecoder


def choose(decoder: SnapshotDecoder, choice: Choice, own: bytes = b"") -> None:
    """Lets a fresh decoder tell of those keys that are taken, as they are called in the target.

    Args:
        decoder: fresh.
        choice: the rules.
        own: what names of ours begin with, where the decoder is not told by `SnapshotDecoder.spare`.
    """
    if choice:
        decoder.choose(choice.rules, choice.mapping, choice.blocked, own)
