"""Keys that are owed to the slots of a cluster: what the records say of them, and what the next ones are to say.

Such a key is named by the record of its slot, from the transaction on that moves the record over the first command that was left
out for it, until the one that brings its copy. So the record says what the slot has *and* what it lacks, wherever the slot goes and
whatever place its node goes back to. Who reads the stream again begins with all keys that records name: one that is settled behind
that place, or not owed there as yet, is copied once more, which does no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portd.kernel.slotwindow import Window


Key: TypeAlias = tuple[int, bytes]  # database and name, as the source has them


class Owing:
    """What is owed to each slot of a link.

    Attributes:
        texts: by slot, what its record says of keys from the next transaction on: what is sorted in counts. Not to be changed.
        count: keys that the records in the target name.
    """

    def __init__(self) -> None:
        self.texts: dict[int, bytes] = {}
        self.count = 0
        self._sorted: dict[int, dict[str, None]] = {}
        self._recorded: dict[int, bytes] = {}
        self._since: dict[str, int] = {}  # offsets of the commands that made keys owed, of this time

    # -- what is sorted in

    def owe(self, slot: int, key: Key, offset: int) -> None:
        """A key of a slot is owed since the command at *offset*."""
        self._since[_text(key)] = offset
        self._sorted.setdefault(slot, {})[_text(key)] = None
        self._write(slot)

    def settle(self, slot: int, key: Key) -> None:
        """It is not any more: its copy is sorted in, or there will be none."""
        keys = self._sorted.get(slot, {})
        keys.pop(_text(key), None)
        self._write(slot)
        self._forget(slot, _text(key))

    def keep(self, taken: Callable[[Key], bool]) -> list[int]:
        """Other keys are taken from here on: what is owed of others is not any more; slots of which that is so."""
        found = [slot for slot, keys in self._sorted.items() if not all(taken(_key(each)) for each in keys)]
        for slot in found:
            self._sorted[slot] = {each: None for each in self._sorted[slot] if taken(_key(each))}
            self._write(slot)
        return found

    def _write(self, slot: int) -> None:
        if keys := self._sorted.get(slot):
            self.texts[slot] = ",".join(keys).encode()
        else:
            self._sorted.pop(slot, None)
            self.texts.pop(slot, None)

    # -- what the target has

    def read(self, slot: int, text: bytes) -> None:
        """A record was read that names these keys."""
        self._record(slot, text)

    def confirm(self, window: Window, slots: Iterable[tuple[int, int]] | None = None) -> None:
        """The transactions of a window ran, or those of some of its slots."""
        if not self._recorded and not window.owed:
            return
        for slot, _ in window.slots() if slots is None else slots:
            self._record(slot, window.owed.get(slot, b""))

    def owes(self, offset: int) -> bool:
        """Whether records name a key that was owed at *offset*, as far as is known."""
        if not self.count:
            return False
        return any(self._since.get(key, 0) <= offset for text in self._recorded.values() for key in _keys(text))

    def _record(self, slot: int, text: bytes) -> None:
        before = self._recorded.get(slot, b"")
        self.count += _count(text) - _count(before)
        if text:
            self._recorded[slot] = text
        else:
            self._recorded.pop(slot, None)
        for key in _keys(before):
            self._forget(slot, key)

    def _forget(self, slot: int, key: str) -> None:
        """Since when a key was owed is not asked any more, if it is not by now."""
        if key not in self._sorted.get(slot, ()) and key not in _keys(self._recorded.get(slot, b"")):
            self._since.pop(key, None)

    def again(self) -> str:
        """The stream is read again: what is owed then, as a splitter takes it."""
        for slot, text in self._recorded.items():
            self._sorted.setdefault(slot, {}).update(dict.fromkeys(_keys(text)))
            self._write(slot)
        return self.sorted_in

    @property
    def sorted_in(self) -> str:
        """What is owed behind all that is sorted in, as a splitter takes it."""
        return " ".join(key for keys in self._sorted.values() for key in keys)


def _text(key: Key) -> str:
    """A key as records and splitters name it."""
    db, name = key
    return f"{db}:{name.hex()}"


def _key(text: str) -> Key:
    db, _, name = text.partition(":")
    return int(db), bytes.fromhex(name)


def _keys(text: bytes) -> list[str]:
    return text.decode().split(",") if text else []


def _count(text: bytes) -> int:
    return text.count(b",") + 1 if text else 0
