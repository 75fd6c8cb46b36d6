"""The users that docs/operations.md says portd needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.servers import Server

PAGE = Path(__file__).parents[1] / "docs/operations.md"
ENDS_CONNECTIONS = ("+client|kill", "+client|list")


def documented() -> list[list[str]]:
    """The words of the ACL SETUSER lines, the source's first."""
    return [line.split() for line in re.findall(r"^(ACL SETUSER .+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)]


def least_user(server: Server) -> str:
    """Lets a user have what a target must permit and nothing more, so no end of connections; its login for URLs."""
    words = [word for word in documented()[1] if word not in ENDS_CONNECTIONS]
    client: Any = server.client()
    client.execute_command(*words)
    return "portd:secret@"
