"""The measuring tools themselves: the line through the growth, the pictures, the counted jobs."""

from __future__ import annotations

import xml.dom.minidom
from typing import Any

import pytest

from tests.benchmarks.growth import judge, line
from tests.benchmarks.kernel_work import JOBS
from tests.benchmarks.picture import growth, ratios

MIB = 1 << 20


def _points(*seconds: float) -> list[dict[str, Any]]:
    sizes = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
    return [
        {"keys": keys, "wall": each, "cpu": each / 2, "rss": 80 * MIB}
        for keys, each in zip(sizes, seconds, strict=False)
    ]


def test_a_line_is_found_and_a_curve_is_told() -> None:
    """Growth that is linear passes; one that bends, or memory that grows, is complained about."""
    straight = _points(0.6, 0.8, 1.5, 3.5, 10.5)
    fitted = line(straight, "wall")
    assert fitted["base"] == pytest.approx(0.5)
    assert fitted["million"] == pytest.approx(1.0)
    assert fitted["off"] < 0.001
    found: dict[str, Any] = {"points": straight, "lines": {"wall": fitted}}
    assert judge(found) == []
    found["lines"] = {"wall": line(_points(0.6, 0.8, 2.5, 12, 105), "wall")}
    straight[-1]["rss"] = 200 * MIB
    assert [complaint.split()[0] for complaint in judge(found)] == ["wall", "the"]


def test_pictures_are_drawn_from_the_json() -> None:
    """Pictures are well-formed and carry the figures."""
    points = _points(0.6, 0.8, 1.5, 3.5, 10.5)
    lines = {name: line(points, name) for name in ("wall", "cpu")}
    drawn = growth({"points": points, "lines": lines})
    runs = {"portd": [{"wall": 3.0}, {"wall": 2.0}], "pipe": [{"wall": 2.0}, {"wall": 4.0}], "replicaof": []}
    compared = ratios({"strings": runs})
    for picture in (drawn, compared):
        xml.dom.minidom.parseString(picture)
    assert ">10.5<" in drawn
    assert ">1.00<" in compared  # the median of 1.5 and 0.5


def test_the_jobs_that_are_counted_run() -> None:
    """Every job of the instruction count takes its data."""
    from tests.benchmarks.instructions import JOBS as COUNTED

    assert set(COUNTED) == set(JOBS)
    for job in ("stream", "replies"):
        JOBS[job](COUNTED[job][1]()[0])
