"""What can go wrong with a file, with the exit codes that sysexits.h has for it."""

from __future__ import annotations

import os

from portd.errors import PortdError


class InputError(PortdError):
    """An input file is not there, not readable, or no file."""

    exit_code = os.EX_NOINPUT


class OutputError(PortdError):
    """Output cannot be written: the disk is full, the directory is missing."""

    exit_code = os.EX_IOERR


class OutputClosed(PortdError):
    """Whoever read our output has gone, as ``head`` does: nobody wants the rest. A dump, though, must not be cut."""

    exit_code = os.EX_IOERR


class Interrupted(PortdError):
    """A command was told to stop before its work was whole; it can be run again."""

    exit_code = os.EX_TEMPFAIL
