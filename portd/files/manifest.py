"""The manifest of a dumped cluster: which file holds which slots, from where in which history, and what proves that it is whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from portd.errors import DecodeError, InputError
from portd.files.outputs import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

SUFFIX: Final = ".json"
FORMAT: Final = "portd-cluster-dump"
VERSION: Final = 1
MOST_BYTES: Final = 8 << 20  # of a manifest that is believed
SLOTS: Final = 16384


@dataclass(frozen=True, slots=True)
class Shard:
    """One file.

    Attributes:
        file: its name, beside the manifest.
        slots: ranges whose keys it holds, ends included.
        node: the address of the node that it is of.
        replid: of that node's history.
        offset: in it: of the moment of the snapshot.
        keys: in it.
        bytes: its size.
        sha256: of its bytes, hexadecimal.
    """

    file: str
    slots: tuple[tuple[int, int], ...]
    node: str
    replid: str
    offset: int
    keys: int
    bytes: int
    sha256: str


class ShardFile:
    """A file of a shard that is being written; it gets its name by `keep`, when all others are whole as well.

    Args:
        path: where it is to be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._output = Output(str(path))
        self._hash = hashlib.sha256()

    @property
    def written(self) -> int:
        """Bytes."""
        return self._output.written

    @property
    def sha256(self) -> str:
        """Of all of them, hexadecimal."""
        return self._hash.hexdigest()

    def write(self, data: Buffer) -> None:
        """See `Output.write`."""
        self._output.write(data)
        self._hash.update(data)

    def commit(self) -> None:
        """It is whole; the others may not be."""

    def keep(self) -> None:
        """See `Output.commit`."""
        self._output.commit()

    def close(self) -> None:
        """See `Output.close`."""
        self._output.close()


def is_manifest(path: str) -> bool:
    """Whether a path is that of a manifest, as its name says."""
    return path.endswith(SUFFIX)


def written(shards: Sequence[Shard], source: str, made_at: str) -> bytes:
    """The text of a manifest.

    Args:
        shards: by their lowest slot.
        source: URL without credentials.
        made_at: UTC, ISO 8601.
    """
    found = {"format": FORMAT, "version": VERSION, "made_at": made_at, "source": source}
    return json.dumps(found | {"shards": [asdict(each) for each in shards]}, indent=2).encode() + b"\n"


def read_manifest(path: str) -> tuple[Shard, ...]:
    """The shards of a manifest; every slot has one file, and all files are there with the size they had.

    Raises:
        InputError: it, or a file that it names, cannot be read.
        DecodeError: it is no manifest, or a file has another size.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    try:
        shards = _parse(json.loads(text))
    except (ValueError, KeyError, TypeError):
        raise DecodeError(
            f"{path} is no manifest of a dumped cluster", hint="portd dump of redis+cluster:// makes one"
        ) from None
    seen: set[int] = set()
    for each in shards:
        place = Path(path).parent / each.file
        try:
            size = place.stat().st_size
        except OSError as error:
            raise InputError(f"{place} cannot be read: {(error.strerror or str(error)).lower()}") from None
        if size != each.bytes:
            raise DecodeError(
                f"{place} has {size} bytes, and {path} says {each.bytes}", hint="take the file of that dump"
            )
        slots = {slot for first, last in each.slots for slot in range(first, last + 1)}
        if slots & seen:
            raise DecodeError(f"{path} gives slots to two files, {each.file} is one of them")
        seen |= slots
    return shards


def files_of(path: str) -> list[str]:
    """The files to read for *path*: those of a manifest, or the file itself. Raises what `read_manifest` does."""
    if not is_manifest(path):
        return [path]
    return [str(Path(path).with_name(each.file)) for each in read_manifest(path)]


def _parse(found: Any) -> tuple[Shard, ...]:
    """Raises: ValueError, KeyError, TypeError: it is something else."""
    if found["format"] != FORMAT or found["version"] != VERSION or not found["shards"]:
        raise ValueError
    return tuple(_shard(each) for each in found["shards"])


def _shard(found: Any) -> Shard:
    slots = tuple((int(first), int(last)) for first, last in found["slots"])
    file = str(found["file"])
    if not slots or not all(0 <= first <= last < SLOTS for first, last in slots) or Path(file).name != file:
        raise ValueError
    node, replid, sha256 = (str(found[name]) for name in ("node", "replid", "sha256"))
    offset, keys, size = (int(found[name]) for name in ("offset", "keys", "bytes"))
    return Shard(file, slots, node, replid, offset, keys, size, sha256)
