"""What was found of each node of an end becomes one report: what all nodes have in common is said once, others are named."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from portd.preflight.findings import Level

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.preflight.findings import Finding

NAMED: Final = 4  # nodes, or groups of them, in one finding


@dataclass(slots=True)
class ByNode:
    """Collects findings of the nodes of an end.

    Args:
        total: how many nodes there are; of one alone nothing is said of nodes.
    """

    total: int
    _found: dict[Finding, list[str]] = field(default_factory=dict)

    def add(self, where: str, findings: Iterable[Finding]) -> None:
        """Takes those of one node."""
        for each in findings:
            self._found.setdefault(each, []).append(where)

    def told(self) -> list[Finding]:
        """One finding for each subject and level that is fine or worth knowing, one for each cause of the others."""
        merged: dict[tuple[str, Level], list[tuple[Finding, list[str]]]] = {}
        for each, nodes in self._found.items():
            merged.setdefault((each.subject, each.level), []).append((each, nodes))
        return [told for group in merged.values() for told in self._tell(group)]

    def _tell(self, group: list[tuple[Finding, list[str]]]) -> list[Finding]:
        if self.total == 1:
            return [each for each, _ in group]
        if len(group) == 1 and len(group[0][1]) == self.total:
            return [replace(group[0][0], what=f"all {self.total} nodes: {group[0][0].what}")]
        causes: dict[tuple[str, str, int], list[tuple[Finding, list[str]]]] = {}
        for each, nodes in group:
            causes.setdefault(
                (each.why, each.action if each.level.rank > Level.INFO.rank else "", each.exit_code), []
            ).append((each, nodes))
        return [self._joined(those) for those in causes.values()]

    def _joined(self, those: list[tuple[Finding, list[str]]]) -> Finding:
        """Findings that differ in what was found alone."""
        parts = [f"{named(nodes)}: {each.what}" for each, nodes in those[:NAMED]]
        if len(those) > NAMED:
            parts.append(f"and {len(those) - NAMED} more")
        nodes = [name for _, names in those for name in names]
        return replace(those[0][0], what="; ".join(parts), nodes=tuple(nodes) if len(nodes) < self.total else ())


def named(nodes: list[str]) -> str:
    """Some nodes, for people."""
    return ", ".join(nodes[:NAMED]) + (f" and {len(nodes) - NAMED} more nodes" if len(nodes) > NAMED else "")
