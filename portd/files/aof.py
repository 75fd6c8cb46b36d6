"""Which files belong to an append-only file, and in which order (aof.c:aofLoadManifestFromFile).

Since Redis 7 an append-only file is a directory: a manifest names one base file (RDB or RESP) and any number of
incremental ones (RESP). A line of it is ``file appendonly.aof.1.base.rdb seq 1 type b``; type is ``b`` base, ``i``
incremental, ``h`` history, which is about to be deleted. Names with anything but printable ASCII in them are quoted
(sds.c:sdscatrepr writes them, sds.c:sdssplitargs reads them).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from portd.errors import DecodeError, InputError

SUFFIX: Final = ".manifest"
_KINDS: Final = {"b", "i", "h"}
_WORD: Final = re.compile(rb"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s"']+))(?=\s|$)""")
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))")
_CONTROLS: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def parts_of(path: str) -> list[str]:
    """The files to read for *path*, in order: those of a manifest, or the file itself.

    Raises:
        InputError: the manifest cannot be read.
        DecodeError: it is not one.
    """
    if not path.endswith(SUFFIX):
        return [path]
    manifest = Path(path)
    try:
        text = manifest.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    bases: list[str] = []
    increments: list[tuple[int, str]] = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip() or line.startswith(b"#"):
            continue
        name, sequence, kind = _entry(path, number, line)
        file = str(manifest.parent / name)
        if kind == "b":
            bases.append(file)
        elif kind == "i":
            increments.append((sequence, file))
    if len(bases) > 1 or not (bases or increments):
        raise DecodeError(f"{path} names {len(bases)} base files and {len(increments)} incremental ones")
    return bases + [file for _, file in sorted(increments)]


def _entry(path: str, number: int, line: bytes) -> tuple[str, int, str]:
    try:
        words = _words(line)
        fields = dict(zip(words[::2], words[1::2], strict=True))
        name, sequence, kind = os.fsdecode(fields[b"file"]), int(fields[b"seq"]), fields[b"type"].decode()
    except (ValueError, KeyError):
        raise DecodeError(f"line {number} of {path} is not a line of a manifest") from None
    if not name or "/" in name or "\0" in name or kind not in _KINDS:
        raise DecodeError(f"line {number} of {path} is not a line of a manifest")
    return name, sequence, kind


def _words(line: bytes) -> list[bytes]:
    """The words of a line, quoted or not.

    Raises:
        ValueError: a quote does not end, or something follows it.
    """
    words: list[bytes] = []
    at = 0
    line = line.rstrip()
    while at < len(line):
        found = _WORD.match(line, at)
        if found is None:
            raise ValueError("unbalanced quotes")
        double, single, plain = found.groups()
        if double is not None:
            words.append(_ESCAPE.sub(_unescaped, double))
        else:
            words.append(single.replace(b"\\'", b"'") if single is not None else plain)
        at = found.end()
    return words


def _unescaped(escape: re.Match[bytes]) -> bytes:
    digits, letter = escape.groups()
    return bytes.fromhex(digits.decode()) if digits is not None else _CONTROLS.get(letter, letter)
