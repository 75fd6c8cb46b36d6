"""What the target refused for good: counted by code, logged, kept in a file of JSON lines.

A dead letter names what was refused and why; it never holds a value.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from portd.errors import REDACTED, ConfigError, SpoolError, TargetRejected, printable
from portd.log import get_logger
from portd.target.replies import code_of, presentable

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from portd.model import Progress

_log = get_logger("target")
DEFAULT_MAX_BYTES: Final = 64 * 1024 * 1024
MAX_READ: Final = 100_000  # letters whose keys are held at once
LETTERS_HINT: Final = "name a file that --dead-letters wrote"
UNSUPPORTED: Final = "unsupported"  # code of what was refused by ourselves
LOGGED_EACH: Final = 10  # letters of one code that are logged one by one; after that each power of two


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One refusal.

    Attributes:
        phase: ``snapshot`` or ``stream``.
        db: database; -1 when it is not known.
        key: b"" when the command has none.
        command: name of the command, or of the value's type.
        offset: byte offset in the snapshot, or replication offset in the stream; -1 when it is not known.
        reply: the target's error, or our reason, without values.
    """

    phase: str
    db: int
    key: bytes
    command: str
    offset: int
    reply: str

    @property
    def code(self) -> str:
        """What it is counted under."""
        return code_of(self.reply)

    def fields(self, *, redact: bool = False) -> dict[str, Any]:
        """What a JSON line holds. A key that is not UTF-8 is told as ``{"base64": ...}``, none where it is to be redacted."""
        try:
            key: str | dict[str, str] = self.key.decode()
        except UnicodeDecodeError:
            key = {"base64": base64.b64encode(self.key).decode()}
        redacted = {"key": REDACTED, "redacted": True} if redact and self.key else {}
        return {
            "phase": self.phase,
            "db": self.db,
            "key": key,
            **redacted,
            "command": self.command,
            "offset": self.offset,
            "code": self.code,
            "reply": presentable(self.reply),
        }


def read_keys(path: Path) -> frozenset[tuple[int, bytes]]:
    """The keys, with their databases, that the letters of snapshots in a file name.

    Raises:
        ConfigError: it cannot be read, holds something else, keys that are redacted, or more letters than may be held.
    """
    keys: set[tuple[int, bytes]] = set()
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number > MAX_READ:
                    raise ConfigError(f"{path} has more than {MAX_READ} letters", hint="restore the whole file instead")
                letter = json.loads(line)
                key = letter["key"]
                if letter["phase"] == "snapshot" and key and letter["db"] >= 0:
                    if letter.get("redacted"):
                        raise ConfigError(
                            f"{path}: line {number} does not name its key: it was written with redact_keys",
                            hint="restore the whole file instead",
                        )
                    keys.add((letter["db"], base64.b64decode(key["base64"]) if isinstance(key, dict) else key.encode()))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'unreadable').lower()}", hint=LETTERS_HINT) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path}: line {number} is no dead letter", hint=LETTERS_HINT) from None
    return frozenset(keys)


class DeadLetters:
    """Receives refusals of lanes, applier and decoder.

    Args:
        progress: ``dead_letters`` is counted up; whoever has the letters may note other trouble there.
        path: file to append to; None keeps no file.
        max_bytes: size at which the file takes no more; what comes later is counted and logged only.
        stop: the policy: the first letter ends the sync.
        redact: name no key, neither in the file nor in the log.

    Raises:
        SpoolError: the file cannot be opened.
    """

    def __init__(
        self,
        progress: Progress,
        *,
        path: Path | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        stop: bool = False,
        redact: bool = False,
    ) -> None:
        self.progress = progress
        self._path = path
        self._max_bytes = max_bytes
        self._stop = stop
        self._redact = redact
        self._file: FileIO | None = None
        self._size = 0
        self.unwritten = 0  # letters that the file did not take
        if path is not None:
            try:
                self._file = path.open("ab", buffering=0)
                self._size = self._file.tell()
            except OSError as error:
                raise self._unwritable(error) from None

    def add(self, letter: Letter) -> None:
        """Keeps a letter.

        Raises:
            TargetRejected: the policy is to stop.
            SpoolError: the file cannot be written.
        """
        self.progress.dead_letters[letter.code] += 1
        self._log(letter, self.progress.dead_letters[letter.code])
        self._write(letter)
        if self._stop:
            raise self.refusal(letter)

    def count(self, code: str, number: int) -> None:
        """Counts refusals that are not told one by one, for there are too many."""
        self.progress.dead_letters[code] += number
        self.unwritten += number

    @property
    def stops(self) -> bool:
        """The policy: the first letter ends the sync."""
        return self._stop

    def refusal(self, letter: Letter) -> TargetRejected:
        """The error with which a letter ends the sync."""
        key = f", key {self._shown(letter)}" if letter.key else ""
        return TargetRejected(
            f"the target refused {letter.command} (db {letter.db}{key}, {letter.phase} offset {letter.offset}): "
            f"{presentable(letter.reply)}",
            hint="with --on-refusal continue such commands are kept as dead letters and the sync goes on",
        )

    def close(self) -> None:
        """Closes the file; idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, letter: Letter) -> None:
        if self._path is None:
            return
        line = (
            json.dumps(
                {"time": round(time.time(), 3), **letter.fields(redact=self._redact)}, separators=(",", ":")
            ).encode()
            + b"\n"
        )
        if self._file is None or self._size + len(line) > self._max_bytes:
            self.unwritten += 1
            return
        try:
            self._file.write(line)
        except OSError as error:
            raise self._unwritable(error) from None
        self._size += len(line)

    def _shown(self, letter: Letter) -> str:
        return REDACTED if self._redact and letter.key else printable(letter.key)

    def _log(self, letter: Letter, number: int) -> None:
        if number > LOGGED_EACH and number & (number - 1):
            return
        _log.warning(
            "refused by the target",
            phase=letter.phase,
            db=letter.db,
            key=self._shown(letter),
            command=letter.command,
            offset=letter.offset,
            reply=presentable(letter.reply),
            count=number,
        )

    def _unwritable(self, error: OSError) -> SpoolError:
        reason = (error.strerror or "unknown error").lower()
        return SpoolError(
            f"cannot write dead letters to {self._path}: {reason}", hint="check the path, its owner and the free space"
        )
