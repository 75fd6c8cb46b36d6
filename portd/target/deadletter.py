"""What the target refused for good: counted by code, logged, kept in a file of JSON lines.

A dead letter names what was refused and why; it never holds a value.
"""

from __future__ import annotations

import base64
import json
import time
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from portd.config.choices import OnRefusal
from portd.errors import REDACTED, ConfigError, SpoolError, TargetRejected, printable
from portd.log import get_logger
from portd.net.replies import code_of, presentable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from io import FileIO
    from pathlib import Path

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.kernel.leftout import Refusal
    from portd.kernel.snapshot import DeadLetter
    from portd.model import Progress

_log = get_logger("target")
DEFAULT_MAX_BYTES: Final = 64 * 1024 * 1024
MAX_READ: Final = 100_000  # letters whose keys are held at once
LETTERS_HINT: Final = "name a file that --dead-letters wrote"
UNSUPPORTED: Final = "unsupported"  # code of what was refused by ourselves
CROSS_RULE: Final = "cross_rule"  # the same, because rules take some of a command's keys only
LOGGED_EACH: Final = 10  # letters of one code that are logged one by one
LOGGED_SECONDS: Final = 60.0  # between two lines about those that follow


class Letter(NamedTuple):
    """One refusal.

    Attributes:
        phase: ``snapshot`` or ``stream``.
        db: database; -1 when it is not known.
        key: b"" when the command has none.
        command: name of the command, or of the value's type.
        offset: byte offset in the snapshot, or replication offset in the stream; -1 when it is not known.
        reply: the target's error, or our reason, without values.
        source: database and name in the source, where they are others; None: they are the same, or not known.
    """

    phase: str
    db: int
    key: bytes
    command: str
    offset: int
    reply: str
    source: tuple[int, bytes] | None = None

    @property
    def code(self) -> str:
        """What it is counted under."""
        return code_of(self.reply)

    def line(self, code: str, now: float, *, redact: bool = False) -> bytes:
        """The letter as a line of JSON.

        A key that is not UTF-8 is told as ``{"base64": ...}``, none where it is to be redacted.

        Args:
            code: what it is counted under.
            now: unix time.
            redact: do not name the key.
        """
        key = f'{_quoted(REDACTED)},"redacted":true' if redact and self.key else _named(self.key)
        source = "" if self.source is None else f',"source_db":{self.source[0]}'
        if self.source is not None and not redact:
            source += f',"source_key":{_named(self.source[1])}'
        return (
            f'{{"time":{now:.3f},"phase":{_quoted(self.phase)},"db":{self.db},"key":{key}{source},'
            f'"command":{_quoted(self.command)},"offset":{self.offset},"code":{_quoted(code)},'
            f'"reply":{_quoted(self.reply)}}}\n'
        ).encode()


def _named(key: bytes) -> str:
    """A key as JSON."""
    try:
        return _quoted(key.decode())
    except UnicodeDecodeError:
        return f'{{"base64":"{base64.b64encode(key).decode()}"}}'


def unsupported(phase: str, command: str, found: DeadLetter | Refusal) -> Letter:
    """What the kernel found that cannot be written to this target: a value of the snapshot, a command of the stream."""
    source_db = getattr(found, "source_db", -1)
    source = (source_db, getattr(found, "source_key", b"")) if source_db >= 0 else None
    code = getattr(found, "code", UNSUPPORTED)
    return Letter(phase, found.db, found.key, command, found.offset, f"{code} {found.reason}", source)


def read_keys(path: Path) -> frozenset[tuple[int, bytes]]:
    """The keys, with their databases, that the letters of snapshots in a file name, as they are in the source.

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
                    key = letter.get("source_key", key)
                    name = base64.b64decode(key["base64"]) if isinstance(key, dict) else key.encode()
                    keys.add((letter.get("source_db", letter["db"]), name))
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
        origin: tells database and name in the source of those in the target; None: they are the same.

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
        origin: Callable[[int, bytes], tuple[int, bytes] | None] | None = None,
    ) -> None:
        self._origin = origin
        self.progress = progress
        self._path = path
        self._max_bytes = max_bytes
        self._stop = stop
        self._redact = redact
        self._file: FileIO | None = None
        self._size = 0
        self._logged_at: dict[str, float] = {}  # unix time of the last line about a code
        self.unwritten = 0  # letters that the file did not take
        if path is not None:
            try:
                self._file = path.open("ab", buffering=0)
                self._size = self._file.tell()
            except OSError as error:
                raise self._unwritable(error) from None

    @classmethod
    def of(cls, settings: Settings, progress: Progress, choice: Choice) -> Self:
        """As the settings say.

        Args:
            settings: of a link.
            progress: see above.
            choice: what its rules say of names.
        """
        return cls(
            progress,
            path=settings.dead_letters,
            stop=settings.on_refusal is OnRefusal.STOP,
            redact=settings.redact_keys,
            origin=choice.origin if choice.mapping is not None else None,
        )

    def add(self, letter: Letter) -> None:
        """Keeps a letter; see `add_all`."""
        self.add_all((letter,))

    def add_all(self, letters: Iterable[Letter]) -> None:
        """Keeps letters, with one write to the file.

        Raises:
            TargetRejected: the policy is to stop; the first one is kept.
            SpoolError: the file cannot be written.
        """
        lines: list[bytes] = []
        now = time.time()
        for each in letters:
            letter = self._with_source(each)
            code = letter.code
            self.progress.dead_letters[code] += 1
            self._log(letter, code, now)
            if self._path is not None:
                self._put(lines, letter.line(code, now, redact=self._redact))
            if self._stop:
                self._write(lines)
                raise self.refusal(letter)
        self._write(lines)

    def count(self, code: str, number: int) -> None:
        """Counts refusals that are not told one by one, for there are too many."""
        self.progress.dead_letters[code] += number
        self.unwritten += number

    @property
    def stops(self) -> bool:
        """The policy: the first letter ends the sync."""
        return self._stop

    def close(self) -> None:
        """Closes the file; idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def refusal(self, letter: Letter) -> TargetRejected:
        """The error with which a letter ends the sync."""
        key = f", key {self._shown(letter)}" if letter.key else ""
        key += "".join(f", {name} {value}" for name, value in self._shown_source(letter).items())
        return TargetRejected(
            f"the target refused {letter.command} (db {letter.db}{key}, {letter.phase} offset {letter.offset}): "
            f"{presentable(letter.reply)}",
            hint="with --on-refusal continue such commands are kept as dead letters and the sync goes on",
        )

    def _put(self, lines: list[bytes], line: bytes) -> None:
        """Adds a line to those that will be written, if the file takes it."""
        if self._file is None or self._size + len(line) > self._max_bytes:
            self.unwritten += 1
            return
        self._size += len(line)
        lines.append(line)

    def _write(self, lines: list[bytes]) -> None:
        rest = memoryview(b"".join(lines))
        try:
            while rest and self._file is not None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._unwritable(error) from None

    def _with_source(self, letter: Letter) -> Letter:
        """The letter with what its key is called in the source, where that is something else."""
        if self._origin is None or not letter.key:
            return letter
        source = letter.source or self._origin(letter.db, letter.key)
        return letter._replace(source=None if source == (letter.db, letter.key) else source)

    def _shown_source(self, letter: Letter) -> dict[str, object]:
        """For the log."""
        if letter.source is None:
            return {}
        db, key = letter.source
        return {"source_db": db, "source_key": REDACTED if self._redact else printable(key)}

    def _shown(self, letter: Letter) -> str:
        return REDACTED if self._redact and letter.key else printable(letter.key)

    def _log(self, letter: Letter, code: str, now: float) -> None:
        number = self.progress.dead_letters[code]
        if number > LOGGED_EACH and 0 <= now - self._logged_at.get(code, 0.0) < LOGGED_SECONDS:
            return
        self._logged_at[code] = now
        _log.warning(
            "refused by the target",
            phase=letter.phase,
            db=letter.db,
            key=self._shown(letter),
            **self._shown_source(letter),
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
