"""The pieces of the pages: what is escaped, what a plot draws, what is coloured."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import portd.http
from portd.config.load import load_settings
from portd.http import cards
from portd.http.markup import Html, esc, fill, join, moment, table
from portd.http.pages import status_page
from portd.http.plot import LAG_PLOT, MEMORY_PLOT, RATE_PLOT, SPOOL_PLOT, plot
from portd.http.status import describe
from portd.memory.accounting import Accounting
from portd.model import ERROR_LENGTH, MOST_ERRORS, Errors, LoopState, Progress
from portd.offline.report import render_html
from portd.offline.stats import Stats
from portd.units import MIB
from portd.watch.history import DAY_ROWS, MINUTES_ROWS, ROWS_PER_DAY_ROW, History, HistoryReading, Span
from portd.watch.readings import PipelineReading, SpoolReading
from portd.watch.track import LAG
from portd.watch.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

EVIL = "<b onclick='x'>&\""


def test_text_is_escaped_by_its_type() -> None:
    """Whatever is no markup becomes text, wherever it is put; markup stays what it is."""
    safe = "&lt;b onclick=&#x27;x&#x27;&gt;&amp;&quot;"
    assert fill("<p>{}</p>", EVIL) == f"<p>{safe}</p>"
    assert fill("<p>{}</p>", fill("<i>{}</i>", EVIL)) == f"<p><i>{safe}</i></p>"
    assert join([EVIL, Html("<br>")]) == f"{safe}<br>"
    assert esc(esc(EVIL)) == safe
    assert esc("\x00\x1b[31m") == "\\x00\\x1b[31m"
    rows = table(["#a", EVIL], [(EVIL, EVIL)])
    assert "<b" not in rows
    assert rows.count(safe) == 3


def markup_calls() -> Iterator[tuple[str, ast.Call]]:
    """Calls of `Html` and `fill` in the pages, and where they are."""
    for path in sorted(
        [*Path(portd.http.__file__).parent.glob("*.py"), Path(portd.__file__).parent / "offline/report.py"]
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Html", "fill"}:
                yield path.name, node


def test_markup_is_made_of_literals() -> None:
    """Nothing that comes from elsewhere becomes markup: templates are literals, outside of the module that escapes."""
    found = list(markup_calls())
    assert len(found) > 20
    for where, call in found:
        if where != "markup.py" and call.args:
            assert isinstance(call.args[0], (ast.Constant, ast.IfExp)), ast.unparse(call)


def reading(**columns: list[float]) -> HistoryReading:
    """A history, a second between two rows."""
    return HistoryReading([float(second) for second in range(len(next(iter(columns.values()))))], dict(columns))


def paths(drawn: str) -> list[str]:
    """The lines of a plot."""
    return re.findall(r'<path class="line\d" d="([^"]*)"', drawn)


def test_a_plot_has_a_gap_where_nothing_is_known() -> None:
    """And a dot for what is known alone."""
    (line,) = paths(plot(LAG_PLOT, reading(lag=[1, 1, -1, 1, -1])))
    assert [part for part in re.split("(?=M)", line) if part] == ["M0.0,50.0L150.0,50.0", "M450.0,50.0h0"]
    drawn = plot(LAG_PLOT, reading(lag=[-1, -1]))
    assert paths(drawn) == [""]
    assert "behind the source now not known" in drawn


def test_a_plot_says_its_figures_in_words() -> None:
    """For the pointer, for who hears the page, and as an axis."""
    drawn = plot(RATE_PLOT, reading(received=[0, 3 * MIB, MIB], sent=[-1, MIB, MIB]), limit=2 * MIB)
    points = re.search(r'data-points="([^"]*)"', drawn)
    assert points is not None
    assert [each.split("|")[0] for each in points[1].split(";")] == ["0.0000", "0.5000", "1.0000"]
    assert points[1].split(";")[1].endswith("|3.00 MiB/s|1.00 MiB/s")
    assert points[1].split(";")[0].endswith("|0 B/s|?")
    assert "from the source now 1.00 MiB/s, at the most 3.00 MiB/s at " in drawn
    assert "<span>4.00 MiB/s</span><span>2.00 MiB/s</span><span>0</span>" in drawn
    assert '<line class="limit"' in drawn


def test_a_far_limit_is_told_and_not_drawn() -> None:
    """It would press the figures flat."""
    drawn = plot(SPOOL_PLOT, reading(spool_disk=[0, MIB], spool_memory=[0, 0]), limit=1024 * MIB)
    assert '<line class="limit"' not in drawn
    assert "limit 1.00 GiB" in drawn


def test_a_plot_begins_with_its_second_sample() -> None:
    """One point is no line."""
    assert "begins with the second sample" in plot(MEMORY_PLOT, reading(rss=[1], owned=[1]))


def test_a_day_is_kept_in_its_highs() -> None:
    """A row for two minutes, which are there before they are over; and no more than a day of them."""
    history = History((LAG,), "f")
    for second in range(ROWS_PER_DAY_ROW + 5):
        history.append(float(second), (50.0 if second == 7 else 2.0 if second > ROWS_PER_DAY_ROW else -1.0,))
    assert history.read(Span.DAY).columns[LAG] == [50.0, 2.0]
    for second in range(ROWS_PER_DAY_ROW * (DAY_ROWS + 3)):
        history.append(float(second), (1.0,))
    assert history.read(Span.DAY, points=10_000).at[0] > ROWS_PER_DAY_ROW
    assert len(history.read(Span.DAY, points=10_000).at) == DAY_ROWS + 1  # what is not over yet
    assert history.held_bytes() == (MINUTES_ROWS + DAY_ROWS) * 12


def test_errors_are_bounded_and_counted() -> None:
    """The newest twenty, each once, cut where they are long; the newest is the last."""
    errors = Errors()
    for number in range(MOST_ERRORS + 5):
        errors.note(f"{number} {'x' * 2 * ERROR_LENGTH}")
    errors.note("again")
    errors.note("other")
    errors.note("again")
    assert len(errors.found) == MOST_ERRORS
    assert errors.last == "again"
    assert errors.found["again"].count == 2
    assert max(map(len, errors.found)) == ERROR_LENGTH


def shown(progress: Progress, spool: SpoolReading | None = None, **sampled: float) -> tuple[dict[str, Any], str]:
    """Status and page of a link that was sampled twice."""
    view = View.of(progress, "default")
    for at in (1000.0, 1000.0 + sampled.get("seconds", 1)):
        view.track.sample(at)
    status = describe(view, load_settings({"source": "redis://one", "target": "redis://two"}), LoopState())
    accounting = Accounting()
    accounting.pipelines = lambda: {"default": PipelineReading(spool=spool or SpoolReading())}
    return status, status_page(status, accounting.report(), view.track.history.read(), Span.MINUTES)


def test_colours_follow_the_alerts() -> None:
    """What has lasted is bad where its alert is critical; what may pass waits; what is fine has no colour."""
    progress = Progress()
    progress.outlook.seconds_left, progress.outlook.asked_at = 200.0, 1.0
    status, page = shown(progress)
    assert cards.mood(status["warnings"], "PortdOutputBuffer") == "wait"
    assert cards.mood(status["warnings"], "PortdLagHigh", "PortdHeld") == ""
    assert '<span class="badge soft">pending</span>' in page
    status, page = shown(progress, seconds=31)
    assert cards.mood(status["warnings"], "PortdOutputBuffer") == "bad"
    assert '<span class="badge bad">critical</span>' in page
    assert '<span class="bad">3 min 20 s</span>' in page


def test_a_page_tells_what_is_asked_of_it() -> None:
    """Errors with their times, forecasts, the last comparison, pruned keys, limits beside values."""
    progress = Progress()
    progress.errors.note(EVIL)
    progress.keys_pruned = 1204
    progress.verify.result, progress.verify.started_at, progress.verify.finished_at = "different", 1.0, 86_400.0 * 366
    progress.outlook.asked_at, progress.outlook.output_hard_bytes = 1.0, 256 * MIB
    progress.pulse.memory_bytes, progress.pulse.memory_limit_bytes = 3 * MIB, 4 * MIB
    progress.dead_letters["ERR"] += 1
    status, page = shown(progress, SpoolReading(disk_limit_bytes=64 * MIB))
    text = re.sub("<[^>]+>", " ", page)
    assert f"at {moment(status['errors'][0]['last_at'])}" in text
    assert EVIL not in page
    for words in (
        *("1\u202f204", "keys pruned from the target", "different", "256 MiB", "no end"),
        *("spooled, of 64.0 MiB", "the target uses 3.00 MiB of 4.00 MiB", "dead letters: ERR", "PortdDeadLetters"),
    ):
        assert words in text, words
    assert moment(86_400.0 * 366).startswith("1971-01-0")


def test_a_comparison_that_was_never_made_is_not_shown_as_one() -> None:
    """Nor is a source that tells nothing shown as one in no danger."""
    _, page = shown(Progress())
    assert "not compared: verify_every" in page
    assert "the source has told nothing yet" in page


@pytest.mark.parametrize(
    "name", [b"<script>alert(1)</script>", b"\xff\x00" * 10, b"x" * 5000, "\u202e\U0001f469".encode()]
)
def test_a_report_shows_any_name(name: bytes) -> None:
    """Keys, prefixes and the file's own name are text in it."""
    counts = [1, 2, 3, 0, 4]
    key = {
        "db": 0,
        "key": name,
        "type": "hash",
        "encoding": "hash",
        "bytes": 2,
        "memory": 4,
        "elements": 3,
        "expireat": None,
    }
    found = {
        "total": counts, "types": {"hash": counts}, "encodings": {"hash": counts}, "databases": {0: counts},
        "prefixes": {name + b":": counts, b"": counts, None: counts}, "expiries": [counts] * 9,
        "biggest": [key], "longest": [key], "functions": 0,
    }  # fmt: skip
    page = render_html(Stats(EVIL, found, {"valkey-ver": EVIL}, 100, 1, 1e9))
    assert "<script" not in page
    assert EVIL not in page
    assert "no prefix" in page
    assert not set(page) & set(map(chr, (*range(10), *range(11, 32), 127)))
