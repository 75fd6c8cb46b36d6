"""Is the process that serves these pages alive? For a container's health check, which knows what the container knows.

``python -m portd.cli.health`` asks ``/livez`` at the address in ``PORTD_HTTP``, or at the default one, and exits with 0 or 1.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

SECONDS = 2.0
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - where one listens is not where one asks


def main() -> int:
    """Asks; 0 when it is alive, or has no pages to ask."""
    address = os.environ.get("PORTD_HTTP") or _default()
    if address == "off":
        print("http is off: nobody can be asked")
        return 0
    host, _, port = address.rpartition(":")
    url = f"http://{EVERYWHERE.get(host, host)}:{port}/livez"
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            print(answer.read().decode(errors="replace").strip())
            return 0
    except (OSError, ValueError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


def _default() -> str:
    from portd.config.settings import default  # noqa: PLC0415 - seldom wanted, and takes long to load

    return str(default("http"))


if __name__ == "__main__":
    sys.exit(main())
