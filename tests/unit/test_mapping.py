"""Names and databases in the target, against an obvious oracle."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portd.kernel.mapping import Mapping

WORD: Final = st.lists(st.sampled_from([b"a", b"b", b"\x00", b"\xff"]), max_size=5).map(b"".join)
SWAPS: Final = st.dictionaries(WORD, WORD, max_size=8)
OWN: Final = b"portd:checkpoint:"


def swapped(key: bytes, swaps: dict[bytes, bytes], added: bytes = b"") -> bytes:
    """A key's name in the target: the longest swap that fits, and what is put in front."""
    fitting = [old for old in swaps if key.startswith(old)]
    old = max(fitting, key=len, default=b"")
    return added + swaps.get(old, b"") + key[len(old) :]


@given(SWAPS, WORD, WORD)
def test_the_longest_swap_that_fits_counts(swaps: dict[bytes, bytes], added: bytes, key: bytes) -> None:
    """A key's longest beginning is swapped, and what is added stands in front of all."""
    assert Mapping(swaps, added=added).renamed(key) == swapped(key, swaps, added)


@given(SWAPS, WORD, WORD)
def test_the_way_back_is_that_of_all_keys_there(swaps: dict[bytes, bytes], added: bytes, key: bytes) -> None:
    """Every name of the source that becomes one is found from there, and no other one; None where there are two."""
    mapping = Mapping(swaps, added=added)
    name = mapping.renamed(key)
    origins = mapping.origins(name)
    assert key in origins
    assert len(set(origins)) == len(origins)
    assert all(mapping.renamed(each) == name for each in origins)
    assert mapping.origin(name) == (key if len(origins) == 1 else None)


@given(SWAPS, WORD)
def test_the_way_back_is_complete(swaps: dict[bytes, bytes], name: bytes) -> None:
    """No short name of the source is missing among those that become one of the target."""
    mapping = Mapping(swaps)
    letters = [b"a", b"b", b"\x00", b"\xff"]
    keys = [b"", *letters, *[one + two for one in letters for two in letters]]
    assert {each for each in keys if mapping.renamed(each) == name} == {
        each for each in mapping.origins(name) if each in keys
    }


def test_many_swaps_are_told_apart() -> None:
    """Among swaps with common beginnings, the right one is found wherever it stands."""
    swaps = {b"p%d:" % i: b"q%d:" % (i * 7 % 300) for i in range(300)} | {b"p": b"r", b"p1": b"s"}
    mapping = Mapping(swaps)
    for i in range(300):
        assert mapping.renamed(b"p%d:key" % i) == b"q%d:key" % (i * 7 % 300)
    assert mapping.renamed(b"p1x") == b"sx"
    assert mapping.renamed(b"p") == b"r"
    assert mapping.renamed(b"x") == b"x"
    assert mapping.origins(b"q14:key") == [b"q14:key", b"p2:key"]


def test_without_swaps_nothing_changes() -> None:
    """An empty mapping, or one of things to themselves, says so."""
    for mapping in (Mapping(), Mapping({b"a": b"a"}, databases={1: 1})):
        assert not mapping.names
        assert not mapping.databases
        assert mapping.renamed(b"abc") == b"abc"
        assert mapping.database_of(7) == 7
    assert Mapping({b"a": b""}).names
    assert Mapping(added=b"x").names


def test_databases_have_other_numbers() -> None:
    """Named ones move, others stay; the way back knows both."""
    mapping = Mapping(databases={0: 3, 3: 0, 5: 1})
    assert [mapping.database_of(db) for db in (-1, 0, 1, 3, 5)] == [-1, 3, 1, 0, 1]
    assert mapping.databases_to(3) == (0,)
    assert mapping.databases_to(5) == ()
    assert mapping.databases_to(1) == (1, 5)
    assert mapping.shared() == {1: (1, 5)}


def test_all_databases_may_go_to_one() -> None:
    """Whatever number one has."""
    mapping = Mapping(all_to=2)
    assert mapping.databases
    assert [mapping.database_of(db) for db in (-1, 0, 2, 15)] == [-1, 2, 2, 2]
    assert mapping.databases_to(2) is None
    assert mapping.databases_to(0) == ()
    assert mapping.shared() == {}


@pytest.mark.parametrize("new", [OWN, OWN + b"x", b"portd:", b"p"])
def test_a_mapping_that_could_make_names_of_ours_is_refused(new: bytes) -> None:
    """A name that begins so, or whose rest could complete it, is reserved."""
    with pytest.raises(ValueError, match="portd's own"):
        Mapping({b"x:": new}, own=OWN)
    with pytest.raises(ValueError, match="portd's own"):
        Mapping(added=new, own=OWN)


def test_a_beginning_that_is_taken_away_may_leave_a_name_of_ours() -> None:
    """That is told for the key: all others lose it as they should."""
    mapping = Mapping({b"x:": b""}, own=OWN)
    assert mapping.reserved(b"x:" + OWN + b"1")
    assert mapping.reserved(OWN + b"1")
    assert not mapping.reserved(b"x:y")
    assert not mapping.reserved(b"x:" + OWN[:-1])
    assert not Mapping({b"x:": b""}).reserved(b"x:" + OWN)
    assert not Mapping(added=b"a:", own=OWN).reserved(OWN + b"1")


def test_databases_that_cannot_be_are_refused() -> None:
    """Numbers below 0 or above what servers take, and two ways at once."""
    for bad in ({-1: 0}, {0: -1}, {0: 1 << 31}):
        with pytest.raises(ValueError, match="no number of a database"):
            Mapping(databases=bad)
    with pytest.raises(ValueError, match="not both"):
        Mapping(databases={0: 1}, all_to=1)


def test_an_image_is_all_names_that_can_arise() -> None:
    """What is put in front of everything, with the new beginnings behind it; all names where something stays as it is."""
    assert Mapping(added=b"t:").image() == (b"t:",)
    assert Mapping({b"a": b"b"}, added=b"t:").image() == (b"t:", b"t:b")
    assert Mapping({b"a": b"b"}).image() == (b"",)
    assert Mapping({b"": b"n:", b"a": b""}).image() == (b"",)
