"""The command line: one file per command, `app` puts them together.

`options` makes flags of settings, `runner` runs a service until it ends or is told to, `failures` turns what ended it
into words and an exit code, `display` and `notify` tell the terminal and systemd how far it is.
"""

from __future__ import annotations
