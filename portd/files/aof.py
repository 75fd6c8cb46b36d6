"""Which files belong to an append-only file, and in which order (aof.c:aofLoadManifestFromFile).

Since Redis 7 an append-only file is a directory: a manifest names one base file (RDB or RESP) and any number of
incremental ones (RESP). A line of it is ``file appendonly.aof.1.base.rdb seq 1 type b``; type is ``b`` base, ``i``
incremental, ``h`` history, which is about to be deleted.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from portd.errors import DecodeError, InputError

SUFFIX: Final = ".manifest"
_KINDS: Final = {"b", "i", "h"}


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
        text = manifest.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DecodeError(f"{path} is not a manifest of an append-only file: it is not text") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    bases: list[str] = []
    increments: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
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


def _entry(path: str, number: int, line: str) -> tuple[str, int, str]:
    try:
        words = shlex.split(line)
        fields = dict(zip(words[::2], words[1::2], strict=True))
        name, sequence, kind = fields["file"], int(fields["seq"]), fields["type"]
    except (ValueError, KeyError):
        raise DecodeError(f"line {number} of {path} is not a line of a manifest") from None
    if "/" in name or kind not in _KINDS:
        raise DecodeError(f"line {number} of {path} is not a line of a manifest")
    return name, sequence, kind
