"""Findings of many nodes in one report."""

from __future__ import annotations

from portd.preflight.findings import Finding, error, fine, warning
from portd.preflight.merging import ByNode


def told(total: int, *found: tuple[str, Finding]) -> list[Finding]:
    """What is told of nodes."""
    nodes = ByNode(total)
    for where, each in found:
        nodes.add(where, [each])
    return nodes.told()


def test_one_server_is_told_as_it_is() -> None:
    """Nothing is said of nodes where there is one."""
    assert told(1, ("", fine("a", "x"))) == [fine("a", "x")]


def test_what_all_have_in_common_is_said_once() -> None:
    """With their number, and without their names."""
    (found,) = told(3, *((name, fine("a", "x")) for name in ("h:1", "h:2", "h:3")))
    assert (found.what, found.nodes) == ("all 3 nodes: x", ())


def test_what_one_has_is_named() -> None:
    """A warning names its node; what is fine elsewhere is one finding of its own."""
    found = told(3, ("h:1", fine("a", "x")), ("h:2", warning("a", "bad", "why", "do")), ("h:3", fine("a", "x")))
    assert [(each.level.value, each.what, each.nodes) for each in found] == [
        ("ok", "h:1, h:3: x", ("h:1", "h:3")),
        ("warning", "h:2: bad", ("h:2",)),
    ]
    assert found[1].shown()["nodes"] == ["h:2"]


def test_other_causes_are_other_findings() -> None:
    """Warnings with another advice stay apart; figures that differ alone stand side by side, the first few of many."""
    found = told(2, ("h:1", error("a", "x", "why", "do")), ("h:2", error("a", "y", "why", "do other")))
    assert [each.what for each in found] == ["h:1: x", "h:2: y"]
    (found_,) = told(6, *((f"h:{number}", fine("a", f"{number} MB")) for number in range(6)))
    assert found_.what == "h:0: 0 MB; h:1: 1 MB; h:2: 2 MB; h:3: 3 MB; and 2 more"
    (many,) = told(7, *((f"h:{number}", warning("a", "x", "why", "do")) for number in range(6)))
    assert many.what == "h:0, h:1, h:2, h:3 and 2 more nodes: x"
