"""Benchmarks; see docs/performance.md. A benchmark that is told to end takes its servers with it."""

import os
import signal
import sys

if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that atexit and `with` run
if not sys.stdout.isatty():
    os.environ.setdefault("COLUMNS", "140")  # tables in files are not folded
