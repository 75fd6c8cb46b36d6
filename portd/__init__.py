"""portd: copies a live Redis or Valkey server into another one and keeps it there."""

from __future__ import annotations

__version__ = "0.1.0"

ENV_PREFIX = "PORTD_"  # of the variables that are settings
