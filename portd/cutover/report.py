"""What a cut-over did: for people, and as JSON that carries a digest of itself.

``digest`` is the SHA-256 of the JSON without ``digest`` and ``signature``, keys sorted, no spaces, in UTF-8; ``signature``
is the HMAC-SHA-256 of the same under a key of the operator's. So a report that is kept for years can be shown to be the one that
was written.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from portd import __version__
from portd.units import human_count, human_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portd.cutover.proof import Result
    from portd.cutover.shard import Told
    from portd.preflight.findings import Finding

OUTSIDE: Final = ("digest", "signature")  # of what is digested


@dataclass(slots=True)
class Report:
    """Everything that is told.

    Attributes:
        link: its name.
        source: URL without credentials.
        target: likewise.
        rehearsal: nothing was stopped.
        outcome: ``done``, ``rolled back``, ``rehearsed``, ``not begun`` or ``interrupted``.
        doubt: why it was not done; "" where it was.
        hint: what to do about it.
        servers: who both ends are.
        checks: what was looked at before.
        times: unix seconds of each step.
        seconds: how long each took for which writes stood still.
        offsets: of the source's history, where there is one.
        shards: of a cluster as source: where each was written to, and the offsets of its history, by link.
        keys: in both ends when writes stood still, and in no more than that.
        removals: what the server removed by itself behind the last write (with a fence that lets it).
        dead_letters: of the sync, by code.
        proof: what was compared.
        stopped_by: how writes were stopped.
        left: what holds from now on, at either end.
        notes: what else somebody should know.
        exit_code: of the command.
    """

    link: str
    source: str
    target: str
    rehearsal: bool
    outcome: str = "not begun"
    doubt: str = ""
    hint: str = ""
    servers: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: list[Finding] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    offsets: dict[str, int | str] = field(default_factory=dict)
    shards: dict[str, Told] = field(default_factory=dict)
    keys: dict[str, dict[str, int]] = field(default_factory=dict)
    removals: int = 0
    dead_letters: dict[str, int] = field(default_factory=dict)
    proof: Result | None = None
    stopped_by: str = ""
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    exit_code: int = 0

    def note_time(self, name: str) -> None:
        """Something happens now."""
        self.times[name] = round(time.time(), 3)

    @property
    def standstill(self) -> float | None:
        """Seconds for which writes stood still; None where they never did."""
        begun, ended = self.times.get("stopped"), self.times.get("settled", self.times.get("freed"))
        return None if begun is None or ended is None else round(ended - begun, 3)

    def shown(self, key: bytes | None = None) -> dict[str, Any]:
        """As JSON, with its digest.

        Args:
            key: that it is signed with.
        """
        found: dict[str, Any] = {
            "kind": "portd cutover",
            "portd": __version__,
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "doubt": self.doubt,
            "hint": self.hint,
            "rehearsal": self.rehearsal,
            "link": self.link,
            "source": {"url": self.source, **self.servers.get("source", {})},
            "target": {"url": self.target, **self.servers.get("target", {})},
            "standstill_seconds": self.standstill,
            "seconds": self.seconds,
            "times": self.times,
            "offsets": self.offsets,
            **({"shards": {name: asdict(each) for name, each in self.shards.items()}} if self.shards else {}),
            "keys": self.keys,
            "removals_behind_the_last_write": self.removals,
            "dead_letters": self.dead_letters,
            "proof": asdict(self.proof) if self.proof else None,
            "stopped_by": self.stopped_by,
            "left": self.left,
            "notes": self.notes,
            "checks": [each.shown() for each in self.checks],
        }
        told = canonical(found)
        found["digest"] = "sha256:" + hashlib.sha256(told).hexdigest()
        if key is not None:
            found["signature"] = "hmac-sha256:" + hmac.new(key, told, hashlib.sha256).hexdigest()
        return found

    def text(self, key: bytes | None = None) -> str:
        """For people."""
        lines = [f"{self._title()}: {self.link}, {self.source} -> {self.target}"]
        lines += [
            f"  {each.level.value:<8} {each.subject:<20} {each.what}" + (f"; {each.why}" if each.why else "")
            for each in self.checks
        ]
        if self.proof is not None:
            lines += self._proof_lines(self.proof)
        if self.offsets:
            lines.append("offsets   " + _pairs(self.offsets))
        lines += [f"shard     {name} at {each.node}: {_pairs(each.offsets)}" for name, each in self.shards.items()]
        for end, counts in self.keys.items():
            lines.append(
                f"keys      {end} " + (", ".join(f"{db} {human_count(n)}" for db, n in counts.items()) or "none")
            )
        if self.dead_letters:
            lines.append("letters   " + ", ".join(f"{code} {n}" for code, n in sorted(self.dead_letters.items())))
        if self.standstill is not None:
            parts = ", ".join(f"{name} {human_seconds(value)}" for name, value in self.seconds.items())
            lines.append(f"writes    stood still for {self.standstill:.3f} s" + (f" ({parts})" if parts else ""))
        lines += [f"left      {each}" for each in self.left]
        lines += [f"note      {each}" for each in self.notes]
        if self.doubt:
            lines += [f"why       {self.doubt}", *([f"HINT: {self.hint}"] if self.hint else [])]
        shown = self.shown(key)
        lines += [shown[name] for name in OUTSIDE if name in shown]
        return "\n".join(lines)

    def _title(self) -> str:
        return {
            "done": "CUT OVER",
            "rehearsed": "REHEARSED, nothing was stopped",
            "rolled back": "ROLLED BACK, writes go on at the source",
            "interrupted": "INTERRUPTED, writes go on at the source",
            "not begun": "NOT BEGUN, nothing was stopped",
        }.get(self.outcome, self.outcome.upper())

    @staticmethod
    def _proof_lines(proof: Result) -> list[str]:
        lines = []
        if proof.method:
            lines.append(
                f"compared  {human_count(proof.equal + proof.differed)} keys equal (by {proof.method}), {human_count(proof.differed)} of them "
                "when they were read again"
            )
        lines.append(
            f"since     {human_count(proof.changed)} changes read again, the last {human_count(proof.last)} keys at the end; "
            f"what others write to the target is {proof.foreign}"
        )
        if proof.source_digest:
            same = "the same" if proof.source_digest == proof.target_digest else "NOT THE SAME"
            lines.append(f"digests   {proof.source_digest[:16]} and {proof.target_digest[:16]} of these, {same}")
        lines += [f"not compared: {each}" for each in proof.not_compared]
        return lines


def _pairs(offsets: Mapping[str, int | str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in offsets.items())


def canonical(report: dict[str, Any]) -> bytes:
    """What is digested and signed."""
    inside = {name: value for name, value in report.items() if name not in OUTSIDE}
    return json.dumps(inside, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
