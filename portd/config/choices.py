"""What a setting can be that has a few values only."""

from __future__ import annotations

from enum import StrEnum


class Existing(StrEnum):
    """What to do when the target holds data at the first sync."""

    REFUSE = "refuse"
    REPLACE = "replace"
    SKIP = "skip"
    FLUSH = "flush"


class Prune(StrEnum):
    """What becomes of keys in the target that a full sync does not bring."""

    AUTO = "auto"
    PRUNE = "prune"
    FLUSH = "flush"
    LEAVE = "leave"


class StopAfter(StrEnum):
    """When a sync is over."""

    NONE = "none"
    SNAPSHOT = "snapshot"
    CAUGHT_UP = "caught-up"


class OnRefusal(StrEnum):
    """What one refused command does to the sync."""

    CONTINUE = "continue"
    STOP = "stop"


class ExpiryGap(StrEnum):
    """What keeps keys alive whose renewal comes late."""

    AUTO = "auto"
    IMPORT_MODE = "import-mode"
    POSTPONE = "postpone"
    HOLD = "hold"
    OFF = "off"


class ReadFrom(StrEnum):
    """Which node of a source cluster's shard is read."""

    PRIMARY = "primary"
    REPLICA = "replica"
    PREFER_REPLICA = "prefer-replica"


class VerifyMethod(StrEnum):
    """How a verification reads the keys of an end."""

    AUTO = "auto"  # PSYNC, or SCAN where that is not allowed
    PSYNC = "psync"  # a snapshot, as a replica gets it
    SCAN = "scan"  # SCAN and DUMP of every key


class LogFormat(StrEnum):
    """How an event becomes a line."""

    AUTO = "auto"
    CONSOLE = "console"
    LOGFMT = "logfmt"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important event that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class KeyType(StrEnum):
    """What a value is, as TYPE names it."""

    STRING = "string"
    LIST = "list"
    SET = "set"
    ZSET = "zset"
    HASH = "hash"
    STREAM = "stream"
    MODULE = "module"  # of any module
    ARRAY = "array"
    OTHER = "other"  # of any other kind


class OnRulesChange(StrEnum):
    """What a start does whose rules are not those that the data in the target was made by."""

    REFUSE = "refuse"
    FULL_SYNC = "full-sync"
