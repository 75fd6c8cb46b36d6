"""Writes ``portd/kernel/keytable.py``: where the keys of commands stand, as the servers at hand tell it.

``python -m tests.keytable`` says whether the table is what they tell, ``--write`` makes it so. What none of the servers at
hand knows stays as it is: it came from another one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portd.kernel.keytable import TABLE
from portd.net.commands import key_specs
from tests.servers import Server, binaries
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.servers import Binary

PATH: Final = Path(__file__).parents[1] / "portd/kernel/keytable.py"
WIDTH: Final = 120

# What servers do not tell, or not all of them alike. Everything else in the table is theirs.
BY_HAND: Final = {
    # they find the keys by code; the rules of keyspecs.pyx say what this leaves open
    "SORT": "1 RO access",
    "MIGRATE": "3 RW access delete",
    # BY and GET name patterns of keys, no keys
    "SORT_RO": "1 RO access",
    # of 6.x only, and found by code there
    "STRALGO": "KEYS@2:1 RO access",
    # no keys, but what they do depends on the database
    **dict.fromkeys(("FLUSHDB", "DBSIZE", "KEYS", "SCAN", "RANDOMKEY"), "database"),
    # no key, yet it goes by the slot of its channel, and no database is needed
    "SPUBLISH": "channel",
    # 7.0 says that it keeps what the destination held
    "SINTERSTORE": "1 OW update; 2:-1 RO access",
    # Valkey 9.0 forgets that it changes expiry times, Redis that it adds fields
    "HGETEX": "1 RW access update",
    "HSETEX": "1 RW update insert",
    # newer than any server that this was made from (Redis 8.4 to 8.8, src/commands/*.json)
    **dict.fromkeys(("ARSET", "ARMSET", "ARINSERT", "ARRING", "ARSEEK", "XCFGSET", "XIDMPRECORD"), "1 RW update"),
    **dict.fromkeys(("ARDEL", "ARDELRANGE", "DELEX"), "1 RW delete"),
    "TRIMSLOTS": "none",
    # of a module that many use
    "JSON.MSET": "1:-1/3 OW update",
}


def told(server: Server) -> dict[str, str]:
    """What one server tells of its commands."""
    with Wire(server) as wire:
        rows = wire.call("COMMAND")
    return {name.decode(): text for name, text in key_specs(rows).items()}


def tells_uses(binary: Binary) -> bool:
    """Its COMMAND has key specs."""
    return binary.at_least(redis=(7, 0), valkey=(7, 2))


def contained(name: str, known: Mapping[str, str]) -> bool:
    """A command whose subcommands stand by themselves; older servers tell of it as a whole."""
    return any(other.startswith(name + "|") for other in known)


def merged(servers: Sequence[tuple[Binary, Mapping[str, str]]]) -> dict[str, str]:
    """What servers tell, and the table that is there, in one; the first that knows a command decides.

    Servers before 7.0 come last: they do not tell what becomes of keys.
    """
    telling = [table for binary, table in servers if tells_uses(binary)]
    older = [table for binary, table in servers if not tells_uses(binary)]
    found: dict[str, str] = {}
    for table in (BY_HAND, *telling, read(), *older):
        for name, text in table.items():
            if not contained(name, found):
                found.setdefault(name, text)
    return found


def read() -> dict[str, str]:
    """The table that is there."""
    return {name: text for text, names in TABLE.items() for name in names.split()}


def written(table: Mapping[str, str]) -> str:
    """The file that holds a table."""
    lines = [
        '"""Where the keys of commands stand. Written by ``python -m tests.keytable --write``: do not edit."""',
        "",
    ]
    lines += ["from __future__ import annotations", "", "from typing import TYPE_CHECKING, Final", ""]
    lines += ["if TYPE_CHECKING:", "    from collections.abc import Mapping", ""]
    lines += ["# Names by what `portd.kernel.keyspecs` reads.", "TABLE: Final[Mapping[str, str]] = {"]
    for text in sorted(set(table.values())):
        rows = _wrapped(sorted(name for name, its in table.items() if its == text))
        if len(rows) == 1 and len(text) + len(rows[0]) + 1 < WIDTH:
            lines.append(f'    "{text}": {rows[0].strip()},')
        else:
            lines += [f'    "{text}": (', *rows, "    ),"]
    return "\n".join([*lines, "}", ""])


def _wrapped(names: list[str]) -> list[str]:
    rows = [""]
    for name in names:
        if len(rows[-1]) + len(name) + 12 > WIDTH:
            rows.append("")
        rows[-1] += name + " "
    rows[-1] = rows[-1].rstrip()
    return [f'        "{row}"' for row in rows]


def ask(binary: Binary) -> dict[str, str]:
    """Starts a server and asks it."""
    with Server(binary) as server:
        return told(server)


def main() -> int:
    """Compares or writes."""
    parser = argparse.ArgumentParser(prog="python -m tests.keytable", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table")
    wanted = written(merged([(binary, ask(binary)) for binary in binaries()]))
    if parser.parse_args().write:
        PATH.write_text(wanted, encoding="utf-8")
    elif wanted != PATH.read_text(encoding="utf-8"):
        print("the table is not what the servers at hand tell\nHINT: --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
