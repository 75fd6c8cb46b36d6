"""The manifest of a dumped cluster: what is believed of it, and what is not."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from portd.errors import DecodeError, InputError
from portd.files.inputs import open_input
from portd.files.manifest import Shard, ShardFile, files_of, read_manifest, written

if TYPE_CHECKING:
    from pathlib import Path

SHARDS = (
    Shard("a.rdb", ((0, 5),), "h:1", "f" * 40, 7, 1, 3, "ab"),
    Shard("b.rdb", ((6, 9), (11, 11)), "h:2", "e" * 40, 8, 2, 4, "cd"),
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """One with its files."""
    (tmp_path / "a.rdb").write_bytes(b"abc")
    (tmp_path / "b.rdb").write_bytes(b"abcd")
    path = tmp_path / "backup.json"
    path.write_bytes(written(SHARDS, "redis+cluster://h:1", "2026-01-01T00:00:00+00:00"))
    return path


def test_what_is_written_is_read(manifest: Path) -> None:
    """The same shards, and their files beside it; another name is a file of its own."""
    assert read_manifest(str(manifest)) == SHARDS
    assert files_of(str(manifest)) == [str(manifest.parent / name) for name in ("a.rdb", "b.rdb")]
    assert files_of("some.rdb") == ["some.rdb"]


CHANGES: dict[str, Any] = {
    "format": lambda found: found.update(format="other"),
    "version": lambda found: found.update(version=2),
    "no shards": lambda found: found.update(shards=[]),
    "another directory": lambda found: found["shards"][0].update(file="../a.rdb"),
    "no slots": lambda found: found["shards"][0].update(slots=[]),
    "slots beyond": lambda found: found["shards"][0].update(slots=[[0, 16384]]),
    "slots backwards": lambda found: found["shards"][0].update(slots=[[5, 0]]),
    "slots of two files": lambda found: found["shards"][0].update(slots=[[0, 6]]),
    "text for a number": lambda found: found["shards"][0].update(bytes="many"),
    "nothing for a name": lambda found: found["shards"][0].pop("file"),
    "another size": lambda found: found["shards"][1].update(bytes=5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_something_else_is_refused(manifest: Path, change: str) -> None:
    """Whatever is not as `dump` writes it ends with exit code 65."""
    found = json.loads(manifest.read_bytes())
    CHANGES[change](found)
    manifest.write_text(json.dumps(found))
    with pytest.raises(DecodeError):
        read_manifest(str(manifest))


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"\xff", b"REDIS0011"], ids=str)
def test_no_json_is_refused(manifest: Path, text: bytes) -> None:
    """A file of another kind under such a name is told as that."""
    manifest.write_bytes(text)
    with pytest.raises(DecodeError, match="is no manifest"):
        read_manifest(str(manifest))


def test_missing_files_are_named(manifest: Path) -> None:
    """The manifest itself, and any that it names."""
    (manifest.parent / "b.rdb").unlink()
    with pytest.raises(InputError, match=r"b\.rdb"):
        read_manifest(str(manifest))
    with pytest.raises(InputError, match=r"no\.json"):
        read_manifest(str(manifest.parent / "no.json"))


def test_a_checksum_is_held_to(tmp_path: Path) -> None:
    """A file with other bytes of the same number is found out with its last one; the right one is read."""
    path = tmp_path / "a.rdb"
    file = ShardFile(path)
    file.write(b"abc" * 200_000)
    file.commit()
    assert not path.exists(), "the others may not be whole"
    file.keep()
    file.close()
    whole = path.read_bytes()
    assert read_all(path, file.sha256) == whole
    path.write_bytes(b"x" + whole[1:])
    with pytest.raises(DecodeError, match="not the file that the manifest names"):
        read_all(path, file.sha256)


def read_all(path: Path, sha256: str) -> bytes:
    """All of a file that has to have a checksum."""
    with closing(open_input(str(path), sha256)) as source:
        return b"".join(iter(lambda: bytes(source.read()), b""))
