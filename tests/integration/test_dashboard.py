"""deploy/grafana.json against portd as it runs: what a panel asks for is there."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.process import Links
from tests.prometheus import DEPLOY, Prometheus, needs_prometheus
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import ServerFactory

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
VARIABLES = {"$instance": ".*", "$link": "eu", "$__rate_interval": "1m"}
BY_PROMETHEUS = {"job", "instance"}  # labels that a scrape adds
OWN = re.compile(r"\b((?:portd|process)_\w+)(?:\{([^}]*)\})?")


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        panel: its title.
        text: as it stands in the file.
        legend: what a line is called, with labels in braces.
    """

    panel: str
    text: str
    legend: str

    @property
    def asked(self) -> str:
        """With a value for each variable."""
        text = self.text
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        assert "$" not in text, self
        return text

    def labels(self) -> set[str]:
        """Every label that it names."""
        text = self.text
        selected = {name for _, selector in OWN.findall(text) for name in re.findall(r"(\w+)(?:=~|!=|!~|=)", selector)}
        grouped = {
            name
            for names in re.findall(r"\b(?:by|without|on|ignoring) \(([^)]*)\)", text)
            for name in names.split(", ")
        }
        return selected | grouped | set(re.findall(r"{{(\w+)}}", self.legend))


def queries() -> list[Query]:
    """All queries of all panels."""
    found = []
    for panel in DASHBOARD["panels"]:
        found += [
            Query(panel["title"], each["expr"], each.get("legendFormat", "")) for each in panel.get("targets", ())
        ]
    return found


@pytest.fixture
def portd(servers: ServerFactory) -> Iterator[Links]:
    """A process with two links that stream."""
    sources = [servers(), servers()]
    tables = {name: {"source": source, "target": servers()} for name, source in zip(("eu", "us"), sources, strict=True)}
    for source in sources:
        source.client().set("k", "v")
    with Links(tables) as portd:
        for name, source in zip(tables, sources, strict=True):
            portd.until_link(name, lambda status: status["phase"] == "streaming")
            source.client().incr("n")
            portd.until_link_applied(name, source)
            portd.until_link(name, lambda status: status["source"]["outlook"] is not None)
        wait_for_sync(lambda: "portd_target_memory_bytes{" in portd.get("metrics"))
        yield portd


def test_every_query_names_series_and_labels_that_are_there(portd: Links) -> None:
    """A renamed series or label is not a panel that stays empty without a word."""
    there: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(portd.get("metrics")):
        for sample in family.samples:
            there.setdefault(sample.name, set()).update(sample.labels)
    assert len(queries()) > 60
    for query in queries():
        names = {name for name, _ in OWN.findall(query.asked.replace('"portd"', '""'))}
        assert names, query
        assert names <= set(there), query
        labels = set.union(*(there[name] for name in names)) | BY_PROMETHEUS
        assert query.labels() <= labels, query


def test_the_dashboard_shows_all_links_and_one() -> None:
    """Its variables are asked for from series that have them, each panel has an id and a place of its own."""
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "link"]
    assert "portd_info" in variables["link"]["definition"]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    squares = [
        (column, row)
        for panel in panels
        for place in [panel["gridPos"]]
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(squares)) == len(squares)
    assert max(column for column, _ in squares) < 24
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows[0] == "All links"
    assert all("$link" in title for title in rows[1:-1])


@needs_prometheus
def test_every_query_is_answered_by_a_real_prometheus(portd: Links) -> None:
    """Each is one that Prometheus understands, and gives something unless it shows only what is out of order."""
    with Prometheus(portd) as prometheus:
        wait_for_sync(lambda: prometheus.query("count_over_time(portd_ready[1m]) > 5"))
        for query in queries():
            found = prometheus.query(query.asked)
            assert found or re.search(r" (> 0|< \+Inf)\b", query.asked), query
