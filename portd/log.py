"""Logs: one line an event, a lower-case event name and key=value pairs, on standard error.

Parts take a logger with `get_logger("sync")` and say what happened: `log.info("source lost", reason=..., offset=...)`.
Secrets do not belong in events; what looks like one is masked all the same. `configure` is called once, by the command.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from portd.text import MASK, hide_logins, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from typing import TextIO

    from structlog.typing import FilteringBoundLogger, Processor


@contextmanager
def _absent(*names: str) -> Iterator[None]:
    """Makes imports of optional packages fail for a moment, unless they are loaded already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how the import system says "absent"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# structlog loads rich and pygments for tracebacks that we do not print: 5 MB of a daemon's memory.
with _absent("rich", "better_exceptions", "colorama"):
    import structlog
    import structlog.dev

_SECRET_KEY = re.compile(r"pass(word|wd)?$|secret|auth$|token|credential", re.IGNORECASE)
_SYSLOG_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # sd-daemon(3)


def get_logger(part: str) -> FilteringBoundLogger:
    """A logger whose events carry `part=...`; may be called before `configure`."""
    return cast("FilteringBoundLogger", structlog.get_logger(part=part))


def configure(style: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Decides how events are written from now on; also for libraries that use the standard `logging`.

    Args:
        style: `console`, `logfmt`, `json`, or `auto`: console on a terminal, logfmt elsewhere.
        level: least important level that is written.
        stream: where to write; None is standard error as it is at each event.
    """
    out = stream or sys.stderr
    if style == "auto":
        style = "console" if out.isatty() else "logfmt"
    journal = stream is None and _is_journal()
    processors: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level]
    if not journal:  # the journal keeps the time itself
        local = style == "console"
        processors.append(structlog.processors.TimeStamper(fmt="%H:%M:%S" if local else "iso", utc=not local, key="ts"))
    renderer = _renderer(style, colors=out.isatty())
    processors += [
        structlog.processors.format_exc_info,
        mask_secrets,
        _with_priority(renderer) if journal else renderer,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: LineLogger(stream),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forwarder()], level=logging.WARNING, force=True)


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces values whose name says secret, logins inside URLs, and control characters, which a server may have said."""
    for name, value in event.items():
        if _SECRET_KEY.search(name):
            event[name] = MASK
        elif isinstance(value, str):
            event[name] = plain(hide_logins(value))
    return event


class LineLogger:
    """Writes finished lines; a reader that went away does not end the sync.

    Args:
        stream: None is `sys.stderr` at the time of each line, which a progress bar may have replaced.

    Attributes:
        lost: lines that could not be written, in this process.
    """

    lost = 0

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        """Writes one line."""
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):  # broken pipe, full disk, closed stream: there is nobody left to tell
            LineLogger.lost += 1

    log = debug = info = warning = warn = error = critical = exception = fatal = failure = err = msg


class _Forwarder(logging.Handler):
    """Hands records of the standard `logging` (aiohttp, asyncio) to our own."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min((record.levelno // 10) * 10, logging.CRITICAL)
        logger = get_logger(record.name)
        logger.log(level, record.getMessage(), **({"exc_info": record.exc_info} if record.exc_info else {}))


def _renderer(style: str, *, colors: bool) -> Processor:
    if style == "json":
        return structlog.processors.JSONRenderer(default=str)
    if style == "logfmt":
        order = ["ts", "level", "part", "event"]
        return structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True, bool_as_flag=False)
    return structlog.dev.ConsoleRenderer(
        colors=colors,
        timestamp_key="ts",
        exception_formatter=structlog.dev.plain_traceback,
        pad_event_to=0,
        sort_keys=False,
    )


def _with_priority(renderer: Processor) -> Processor:
    """Puts the syslog level in front of the line, which the journal takes for the priority: sd-daemon(3)."""

    def render(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        level = _SYSLOG_LEVELS.get(event.get("level", ""), _SYSLOG_LEVELS["info"])
        return f"<{level}>{renderer(logger, method, event)!s}"

    return render


def _is_journal() -> bool:
    """Whether standard error goes to journald: systemd.exec(5), $JOURNAL_STREAM."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False  # no file behind it, as under a test runner
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
