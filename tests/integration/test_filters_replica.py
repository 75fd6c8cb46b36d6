"""Rules against the obvious way: a plain replica, and a filter behind it, under random commands."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.commands import run
from tests.integration.replica_filter import FilteredReplica, Traffic, read_letters
from tests.process import Portd, streaming

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.replica_filter import Key
    from tests.servers import Server

ROUNDS: Final = 3
COMMANDS: Final = 400  # of a round


def renamed(db: int, name: bytes) -> Key | None:
    """Of the rules of the same name."""
    if not name.startswith(b"in:") or name.startswith(b"in:xs") or db == 9:
        return None
    return 9 if db == 3 else db, (b"new:" + name[4:] if name.startswith(b"in:x") else b"to:" + name[3:])


def globs(db: int, name: bytes) -> Key | None:
    """Of the rules of the same name."""
    taken = db in {0, 3} and (name[:1] in b"im" and name[-1:] in b"01") and not name.startswith(b"in:xt")
    return (db, b"copy:" + name) if taken else None


def swapped(db: int, name: bytes) -> Key | None:
    """Of the rules of the same name."""
    return None if name.startswith(b"out:") or db == 1 else ({0: 3, 3: 0}.get(db, db), name)


def found(db: int, name: bytes) -> Key | None:
    """Of the rules of the same name."""
    return (db, b"re:" + name[3:] if name.startswith(b"in:") else name) if name[-1:] in b"02" else None


RULES: Final[dict[str, tuple[Any, dict[str, object]]]] = {
    "renamed": (renamed, {"include": "in:", "exclude": "in:xs", "rename_prefix": ["in:=to:", "in:x=new:"], "map_db": "3=9"}),
    "globs": (globs, {"include": ["[im]*[0-1]"], "exclude": "in:xt*", "include_db": [0, 3], "add_prefix": "copy:"}),
    "swapped": (swapped, {"exclude": "out:", "exclude_db": 1, "map_db": ["0=3", "3=0"]}),
    "found": (found, {"include": "re:[02]$", "rename_prefix": "in:=re:"}),
}  # fmt: skip


@pytest.mark.parametrize("rules", RULES)
def test_random_commands_are_a_filter_behind_a_replica(
    rules: str, source: Server, target: Server, tmp_path: Path
) -> None:
    """Snapshot and stream, without a dead letter; a repair under the same rules finds nothing to do."""
    place, options = RULES[rules]
    if rules == "found" and importlib.util.find_spec("re2") is None:
        pytest.skip("no google-re2 here")
    letters = tmp_path / "letters"
    traffic = Traffic(source, sum(rules.encode()), ("in:", "in:x", "mid:", "out:"), (0, 1, 3))
    traffic.run(COMMANDS)
    with FilteredReplica(source, place) as behind:
        with Portd(source, target, dead_letters=letters, **options) as portd:
            portd.until(streaming)
            for _ in range(ROUNDS):
                assert behind.differences(target) == []
                traffic.run(COMMANDS)
                portd.until_applied(source)
                stream = portd.until(lambda status: status["stream"]["keys_owed"] == 0)["stream"]
                assert stream["commands_read"] == sum(
                    stream[f"commands_{word}"] for word in ("applied", "filtered", "failed")
                )
            assert (stream["commands_failed"], read_letters(letters)) == (0, [])
            assert stream["keys_copied"] > ROUNDS
            assert behind.differences(target) == []
        flags = [word for name, value in options.items() for each in listed(value) for word in (flag(name), str(each))]
        ends = ("--source", source.url, "--target", target.url)
        run("verify", *ends, "--repair", "--settle-seconds", 0.1, *flags, expect=None)
        assert (
            behind.differences_from(source, target) == []
        )  # a replica lacks consumers that a repair finds at the source


def listed(value: object) -> list[object]:
    """What a flag is given, once or several times."""
    return value if isinstance(value, list) else [value]


def flag(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"
