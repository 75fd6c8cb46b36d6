"""Who holds which bytes: owners and their peaks, the process, its cgroup, and how a budget is split.

`plan` derives sizes before anything is allocated, `ledger` counts while it runs, `process` and `cgroup` ask the
kernel, `history` keeps the last minutes, `accounting` puts them into one report. A heap profile in pprof format is to
stand beside these as `profile`.
"""

from __future__ import annotations
