"""RESP requests: how a command looks on the wire (networking.c:processMultibulkBuffer)."""

from __future__ import annotations


def request(*words: bytes | str | int) -> bytes:
    """One command."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogateescape")
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)
