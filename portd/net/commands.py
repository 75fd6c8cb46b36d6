"""What a server tells of its commands: the rows of COMMAND's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SUBCOMMANDS: Final = 9  # column, from 7.0
_SPECS: Final = 8
_MODES: Final = ("RO", "RW", "OW", "RM", "not_key")
_USES: Final = ("access", "update", "insert", "delete")


def writes(row: Sequence[Any]) -> bool:
    """Whether a command is flagged as writing in its row, or one of its subcommands is (7.0)."""
    return b"write" in row[2] or any(writes(each) for each in _subcommands(row))


def key_specs(rows: Sequence[Sequence[Any]]) -> dict[bytes, str]:
    """Where the keys of commands stand, as `portd.kernel.keyspecs` reads it.

    Args:
        rows: of COMMAND's answer, from any version.

    Returns:
        By name in upper case. Subcommands stand by themselves, behind a bar, where at least one of them has keys. What a
        server does not tell exactly (its own code finds the keys, or those of a module) is not in it.
    """
    return {name: text for row in rows for name, text in _told(row)}


def _told(row: Sequence[Any]) -> Iterator[tuple[bytes, str]]:
    subcommands = [(each[0].upper(), _text(each)) for each in _subcommands(row)]
    if any(text != "none" for _, text in subcommands):
        yield from ((name, text) for name, text in subcommands if text is not None)
    elif (text := _text(row)) is not None:
        yield row[0].upper(), text


def _subcommands(row: Sequence[Any]) -> Sequence[Sequence[Any]]:
    return row[_SUBCOMMANDS] if len(row) > _SUBCOMMANDS else ()


def _text(row: Sequence[Any]) -> str | None:
    """Where a row says that keys stand; None when it does not tell all, or in a form that no server is known to use."""
    try:
        return _read(row)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def _read(row: Sequence[Any]) -> str | None:
    if len(row) > _SPECS:
        places = [_place(_pairs(spec)) for spec in row[_SPECS]]
        if b"movablekeys" in row[2] and not places:
            return None
    elif b"movablekeys" in row[2]:
        return None
    else:
        places = [_range(row)] if row[3] else []
    if any(place is None for place in places):
        return None
    return "; ".join(place for place in places if place) or "none"


def _range(row: Sequence[Any]) -> str:
    """A row of a server before 7.0, which tells no more of a command than whether it writes."""
    first, last, step = row[3:6]
    return _where(first, last if last < 0 else last - first, step) + (
        " RW access update" if b"write" in row[2] else " RO access"
    )


def _place(spec: dict[str, Any]) -> str | None:
    """One key spec; None when it is of a kind that cannot be written."""
    begin, find = _pairs(spec["begin_search"]), _pairs(spec["find_keys"])
    flags = [flag.decode() for flag in spec["flags"]]
    if "incomplete" in flags or not {begin["type"], find["type"]} <= {b"index", b"keyword", b"range", b"keynum"}:
        return None
    where, how = _pairs(begin["spec"]), _pairs(find["spec"])
    word = ""
    if begin["type"] == b"keyword":
        if where["startfrom"] < 1:
            return None
        word = f"{where['keyword'].decode().upper()}@"
    first = where["startfrom"] if word else where["index"]
    if find["type"] == b"range":
        text = _where(first, how["lastkey"], how["keystep"]) + (f"%{how['limit']}" if how["limit"] > 1 else "")
    elif how["firstkey"] != how["keynumidx"] + 1 or (word and how["keynumidx"]):
        return None
    else:
        text = f"{first + how['keynumidx']}#" + (f"/{how['keystep']}" if how["keystep"] > 1 else "")
    mode = [flag for flag in _MODES if flag in flags] or ["RW"]
    return " ".join([word + text, *mode, *(flag for flag in _USES if flag in flags)])


def _where(first: int, last: int, step: int) -> str:
    return str(first) if not last else f"{first}:{last}" + (f"/{step}" if step > 1 else "")


def _pairs(flat: Sequence[Any]) -> dict[str, Any]:
    """A map as RESP2 has it."""
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
