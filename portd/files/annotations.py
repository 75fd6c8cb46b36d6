"""Leaves out the timestamps of append-only files (``aof-timestamp-enabled``): lines such as ``#TS:1617181920`` between commands.

They may stand between commands only, so commands have to be walked over to find them; the same bytes in a value are data.
"""

from __future__ import annotations

from portd.errors import DecodeError

LINE_BYTES = 64 * 1024  # longest annotation or header believed
COPY_BYTES = 256 * 1024


class AnnotationFilter:
    """Feed it bytes; it gives them back without annotations, up to the last place that it understands."""

    def __init__(self) -> None:
        self._kept = b""  # a line that is not whole yet
        self._arguments = 0  # of the command in progress, still to come
        self._payload = 0  # bytes of the argument in progress, its CRLF included, still to come
        self._offset = 0  # bytes looked at

    def feed(self, data: memoryview | bytes) -> bytes:
        """What of *data* are commands.

        Raises:
            DecodeError: it is neither a command nor an annotation.
        """
        text = self._kept + bytes(data)
        out: list[bytes] = []
        at = begin = 0
        while at < len(text):
            if self._payload:
                step = min(self._payload, len(text) - at)
                self._payload -= step
                at += step
                continue
            end = text.find(b"\n", at, at + LINE_BYTES)
            if end < 0:
                if len(text) - at >= LINE_BYTES:
                    raise self._bad(at)
                break
            if text[at] == ord("#") and not self._arguments:
                out.append(text[begin:at])
                at = begin = end + 1
                continue
            self._header(text[at:end], at)
            at = end + 1
        out.append(text[begin:at])
        self._kept = text[at:]
        self._offset += at
        return b"".join(out)

    def rest(self) -> bytes:
        """At the end of the file: a line that was not whole."""
        rest, self._kept = self._kept, b""
        return rest

    def _header(self, line: bytes, at: int) -> None:
        wanted, digits = (b"$", line[1:].rstrip(b"\r")) if self._arguments else (b"*", line[1:].rstrip(b"\r"))
        if line[:1] != wanted or not digits.isdigit():
            raise self._bad(at)
        if self._arguments:
            self._arguments -= 1
            self._payload = int(digits) + 2
        else:
            self._arguments = int(digits)

    def _bad(self, at: int) -> DecodeError:
        return DecodeError("neither a command nor an annotation", offset=self._offset + at)
