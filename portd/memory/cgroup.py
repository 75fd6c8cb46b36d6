"""The memory limit and use of the cgroup this process runs in, versions 1 and 2 (Linux Documentation/admin-guide).

Only what a limit needs is read: the tightest of the limits from the process's own group up to the mounted root.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from portd.watch.readings import CgroupReading

_NO_LIMIT = 1 << 60  # version 1 writes "none" as a huge number that depends on the page size
_CURRENT = {1: "memory.usage_in_bytes", 2: "memory.current"}
_PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A group found once, to be read many times.

    Attributes:
        version: 1 or 2.
        directory: the group's directory.
        root: the directory the hierarchy is mounted on; limits are looked for from *directory* up to here.
    """

    version: int
    directory: Path
    root: Path

    def limit(self) -> int | None:
        """The tightest limit in effect, in bytes; None without one."""
        names = ("memory.max", "memory.high") if self.version == 2 else ("memory.limit_in_bytes",)
        levels = [self.directory, *(level for level in self.directory.parents if level.is_relative_to(self.root))]
        found = [_number(level / name) for level in levels for name in names]
        return min((limit for limit in found if limit is not None), default=None)

    def current(self) -> int | None:
        """Bytes charged to the group now; None when it is not told."""
        return _number(self.directory / _CURRENT[self.version])

    def read(self) -> CgroupReading:
        """Use and limit now."""
        peak = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        return CgroupReading(self.version, self.current(), self.limit(), _number(self.directory / peak))


def find_cgroup(proc: Path = _PROC) -> Cgroup | None:
    """The memory cgroup of a process.

    Args:
        proc: the process's directory under /proc.

    Returns:
        The group whose memory controller counts us, or None where there is none that we can see.
    """
    try:
        groups = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:
        return None  # no /proc: nothing can be known, and nothing is limited by what cannot be seen
    for _, controllers, path in groups:  # version 1 owns a controller wherever both versions are mounted
        if "memory" in controllers.split(","):
            return _locate(1, path, mounts)
    for number, controllers, path in groups:
        if number == "0" and not controllers:
            return _locate(2, path, mounts)
    return None


def _locate(version: int, path: str, mounts: list[list[str]]) -> Cgroup | None:
    """Where *path* of /proc/self/cgroup is in the file system: proc(5), mountinfo."""
    for fields in mounts:
        dash = fields.index("-")
        kind, options = fields[dash + 1], fields[-1].split(",")
        if kind != ("cgroup2" if version == 2 else "cgroup") or (version == 1 and "memory" not in options):
            continue
        mounted, root = fields[3], Path(fields[4])
        # In a container the group may lie outside of what is mounted; then the mounted root is what we are told of.
        inside = Path(path).is_relative_to(mounted)
        directory = root / Path(path).relative_to(mounted) if inside else root
        if _number(directory / _CURRENT[version]) is not None:
            return Cgroup(version, directory, root)
    return None


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None  # the root group has no such file, old kernels lack some
    return int(text) if text.isdecimal() and int(text) < _NO_LIMIT else None
