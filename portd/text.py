"""Text that comes from elsewhere, as it may stand in front of people: on a terminal, in a log, in a message.

A name, a version or a reply of a server can hold anything. Control characters among it would speak to the terminal, and what
looks like the login of a URL may be one, wherever somebody put it by mistake.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

MASK: Final = "***"
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 but tab and line feed, DEL, C1
_ODD: Final = re.compile(
    r"[\x7f-\x9f\ud800-\udfff]"
)  # what JSON does not escape by itself: also bytes of a flag that are no text
# Greedy up to the last @ of the word: a password that was not percent-encoded may hold any character.
_URL_LOGIN: Final = re.compile(r"(?<=:/)(/?)[^\s/'\"][^\s'\"]*@|(?<=:/)(/?):[^\s'\"]*@")
_URL_PASSWORD: Final = re.compile(r"((?:\?|&)(?:sentinel_)?password=)[^&\s'\"]*")
_BARE_LOGIN: Final = re.compile(r"(?<![^\s'\"(=,])[^\s'\"/@:(=,]*:[^\s'\"]*@")  # somebody forgot the scheme


def plain(text: str) -> str:
    r"""The text without control characters, as ``\x1b`` for each; tabs and line feeds stay."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def dumps(value: Any, **options: Any) -> str:
    """JSON in which letters of all scripts are readable, and control characters are escaped."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def hide_logins(text: str, *, bare: bool = False) -> str:
    """The text without what may be user and password of URLs.

    Args:
        text: any.
        bare: of what looks like an address without a scheme, too. For command lines: names of keys look like it.
    """
    if "@" in text or "password=" in text:
        text = _URL_PASSWORD.sub(rf"\1{MASK}", _URL_LOGIN.sub(rf"\1\2{MASK}@", text))
    return _BARE_LOGIN.sub(f"{MASK}@", text) if bare and "@" in text else text
