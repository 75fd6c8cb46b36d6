"""What a process with several links has in common, without a server behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from portd.config.settings import Settings
from portd.controlsocket import Refusal
from portd.errors import SpoolError
from portd.process import Service

if TYPE_CHECKING:
    from pathlib import Path


def settings(spool: Path, link: str, **others: Any) -> Settings:
    """Of a link whose ends nobody asks."""
    return Settings(source="redis://source", target=f"redis://{link}", link=link, http="off", spool_dir=spool, **others)


async def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A mistake in the last link is found before any runs, and the spools of those before it are gone."""
    spool = tmp_path / "spool"
    spool.mkdir()
    with pytest.raises(SpoolError, match="dead letters"):
        Service(settings(spool, "eu"), settings(spool, "us", dead_letters=tmp_path / "no" / "such"))
    assert list(spool.iterdir()) == []


async def test_a_change_is_for_the_link_that_it_names(tmp_path: Path) -> None:
    """A limit of one link leaves the other's; without a name it is that of the only one."""
    service = Service(settings(tmp_path, "eu"), settings(tmp_path, "us", max_target_ops=5))
    service.change("eu", "max_target_ops", 7)
    assert [view.progress.limit.ops_per_second for view in service.views()] == [7, 5]
    alone = Service(settings(tmp_path, "eu"))
    alone.change("", "max_target_ops", 9)
    assert [view.progress.limit.ops_per_second for view in alone.views()] == [9]


async def test_a_word_needs_a_name_where_there_are_several(tmp_path: Path) -> None:
    """`accept` for nobody in particular, or for a link of another process, is refused with the names there are."""
    service = Service(settings(tmp_path, "eu"), settings(tmp_path, "us"))
    accept = service.orders.commands()["accept"].run
    for name in ("accept", "full-sync"):  # their word is about data: for no link that nobody has named
        with pytest.raises(Refusal, match="several links: eu, us"):
            await service.orders.commands()[name].run({})
    with pytest.raises(Refusal, match="no link named"):
        await accept({"link": "asia"})
    answer = await accept({"link": "eu"})
    assert not answer["ok"]
    assert "nothing is held" in answer["error"]
    assert [each["link"] for each in answer["links"]] == ["eu"]
    assert [standing.ready for standing in service.standings().values()] == [False, False]
    assert service.status()["reason"].startswith("link eu: starting")
