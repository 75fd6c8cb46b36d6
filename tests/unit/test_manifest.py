"""The manifest of an append-only file: which files it names, in which order, however they are quoted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from portd.errors import DecodeError
from portd.files.aof import parts_of


def parts(folder: Path, text: bytes) -> list[bytes]:
    """The names that a manifest with this text names."""
    manifest = folder / "a.manifest"
    manifest.write_bytes(text)
    return [os.fsencode(Path(part).name) for part in parts_of(str(manifest))]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (b"plain.aof", b"plain.aof"),
        (b'"caf\\xc3\\xA9.aof"', "café.aof".encode()),
        (b'"\\xff\\x00.aof"', None),
        (b'"a b\\t\\"c\\\\d"', b'a b\t"c\\d'),
        (b"'it\\'s'", b"it's"),
        (b'"a\\x2fb"', None),
        (b'"open', None),
        (b'"a"b', None),
        (b'""', None),
    ],
)
def test_names_are_read_as_servers_write_them(written: bytes, name: bytes | None, tmp_path: Path) -> None:
    """Escapes of bytes, controls, quotes; a name that leads elsewhere or a quote without end is refused."""
    line = b"file " + written + b" seq 1 type i\n"
    if name is None:
        with pytest.raises(DecodeError, match="line 2"):
            parts(tmp_path, b"# comment\n" + line)
    else:
        assert parts(tmp_path, b"# comment\n\n" + line) == [name]


def test_the_order_is_base_then_sequence(tmp_path: Path) -> None:
    """Increments follow the base by their numbers, whatever their order in the file; history is left out."""
    text = b"file h seq 1 type h\r\nfile b2 seq 10 type i startoffset 5\r\nfile b1 seq 9 type i\r\nfile base seq 3 type b\r\n"
    assert parts(tmp_path, text) == [b"base", b"b1", b"b2"]
    for bad in (b"", b"file a seq 1 type b\nfile b seq 2 type b\n", b"file a seq x type i\n", b"\xff\xfe\n"):
        with pytest.raises(DecodeError):
            parts(tmp_path, bad)
