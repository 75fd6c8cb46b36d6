"""Settings of rules: what is refused, what they mean, what a digest and an image say of them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portd.config.choices import KeyType
from portd.config.load import load_settings
from portd.config.rules import EVERYTHING, Image, changed, choice_of
from portd.config.rulesettings import RuleSettings
from portd.errors import ConfigError
from portd.kernel.slots import key_slot

ENDS = {"source": "redis://a", "target": "redis://b"}
NAME = st.lists(st.sampled_from([b"a", b"b", b"old:", b"new:", b":"]), max_size=4).map(b"".join)


def made(**values: Any) -> RuleSettings:
    """Settings that were looked at."""
    settings = RuleSettings(**values)
    settings.check()
    return settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"include": ("",)}, "include has an empty pattern"),
        ({"include_db": (-1,)}, "-1 is not a database"),
        ({"min_bytes": 9, "max_bytes": 8}, "min_bytes is larger than max_bytes"),
        ({"exclude_command": ("SET x",)}, "is not the name of a command"),
        ({"include_slots": ("5-4",)}, "is not a range of slots"),
        ({"include_slots": ("16384",)}, "there are 16384"),
        ({"map_db": ("0=x",)}, "is not a pair of databases"),
        ({"map_db": ("0=1", "0=2")}, "puts database 0 into two"),
        ({"map_db": ("0=3", "1=3")}, "puts the databases 0 and 1 into 3"),
        ({"map_db": ("0=3",), "all_dbs_to": 3}, "map_db and all_dbs_to are both set"),
        ({"map_db": ("0=" + "9" * 5000,)}, "is not a pair of databases"),
        ({"include_slots": ("9" * 5000,)}, "is not a range of slots"),
        ({"include_slots": ("5-",)}, "is not a range of slots"),
        ({"include_slots": ("\N{ARABIC-INDIC DIGIT THREE}",)}, "is not a range of slots"),
        ({"exclude_command": ("select",)}, "exclude_command: select cannot be left out"),
        ({"exclude_command": ("INCR", "MULTI")}, "exclude_command: MULTI cannot be left out"),
        ({"rename_prefix": ("=x",)}, "is not a pair of prefixes"),
        ({"rename_prefix": ("a=b", "a=c")}, "gives 'a' two names"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], words: str) -> None:
    """A rule that cannot be understood, or contradicts another one, says so."""
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        made(**values)


def test_lists_come_from_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Flags are repeated, a variable has white space, a file a list; commas only where they cannot be part of a value."""
    monkeypatch.setenv("PORTD_EXCLUDE", "a:* b,c:")
    file = tmp_path / "portd.toml"
    file.write_text('include_db = [0, 3]\nmap_db = "0=1,1=0"\nadd_prefix = "x y"\n')
    settings = load_settings({**ENDS, "include": ["user x:", "b"]}, file)
    assert settings.include == ("user x:", "b")
    assert settings.exclude == ("a:*", "b,c:")
    assert (settings.include_db, settings.databases(), settings.add_prefix) == ((0, 3), {0: 1, 1: 0}, "x y")
    with pytest.raises(ConfigError, match="cannot be kept in a stream"):
        load_settings({**ENDS, "include_type": "hash"})
    kept = load_settings({**ENDS, "include_type": "hash,set", "stop_after": "snapshot"})
    assert kept.include_type == (KeyType.HASH, KeyType.SET)
    with pytest.raises(ConfigError, match="prune is flush"):
        load_settings({**ENDS, "include": ["a"], "prune": "flush"})


def test_times_are_bounded() -> None:
    """What no clock can count is a value that makes no sense, not a crash behind the start."""
    for name in ("min_ttl", "max_ttl"):
        for value in ("inf", "1e300", "nan"):
            with pytest.raises(ConfigError, match=name):
                load_settings({**ENDS, name: value, "stop_after": "snapshot"})
        assert load_settings({**ENDS, name: "1e9", "stop_after": "snapshot"})


def test_commas_and_white_space_go_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A flag, a variable and a line of the file that say the same mean the same."""
    file = tmp_path / "portd.toml"
    file.write_text('include_db = "0, 1"\n')
    monkeypatch.setenv("PORTD_MAP_DB", "0=1, 1=0")
    settings = load_settings(dict(ENDS), file)
    assert (settings.include_db, settings.databases()) == ((0, 1), {0: 1, 1: 0})
    monkeypatch.delenv("PORTD_MAP_DB")
    assert load_settings({**ENDS, "include_db": ["0, 1"], "map_db": ["0=1, 1=0"]}) == settings


def test_a_regular_expression_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, and with one that cannot be read, it is an error of the settings that says what to do."""
    with pytest.raises(ConfigError, match="cannot be read"):
        choice_of(made(include=("re:(",)))
    monkeypatch.delitem(sys.modules, "re2", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ConfigError, match=r"not installed[^$]*portd\[regex\]"):
        choice_of(made(include=("re:a",)))


@given(st.lists(NAME, max_size=8), st.sampled_from([{}, {"add_prefix": "eu:"}, {"map_db": ("0=2", "2=0")}, {"all_dbs_to": 4}]),
       st.sampled_from([{}, {"rename_prefix": ("old:=new:", "a=bb")}]), st.sampled_from([{}, {"include": ("old:", "b*")}, {"exclude": ("a",)}]),
       st.sampled_from([{}, {"include_db": (0, 1)}, {"exclude_db": (2,)}]))  # fmt: skip
def test_the_way_back(names: list[bytes], where: Any, renamed: Any, chosen: Any, databases: Any) -> None:
    """Of every key that is taken, the name in the target leads back to one that is taken and becomes that name; the image has it."""
    choice = choice_of(made(**where, **renamed, **chosen, **databases))
    for db in range(4):
        for name in names:
            if choice.rules is not None and not choice.rules.takes(name, db):
                continue
            there = choice.to_target(db, name)
            back = choice.origin(*there)
            assert back is not None
            assert choice.to_target(max(back[0], db), back[1])[1] == there[1]
            assert all(choice.to_target(*each) == there for each in choice.origins(*there, (db,)))
            assert choice.covers(*there)
            assert choice.image.databases is None or there[0] in choice.image.databases
            assert any(there[1].startswith(prefix) for prefix in choice.image.prefixes)


def test_digests_tell_what_changed_in_kind() -> None:
    """The order of a list is no change; every kind is named when it is added, gone or another."""
    one = choice_of(made(include=("a", "b"), map_db=("0=1",))).digest
    assert one == choice_of(made(include=("b", "a"), map_db=("0=1",))).digest
    assert one == choice_of(made(include=("b", "a", "b"), map_db=("0=1",))).digest
    commands = choice_of(made(exclude_command=("incr", "GET"))).digest
    assert commands == choice_of(made(exclude_command=("get", "INCR"))).digest
    assert commands != choice_of(made(exclude_command=("get",))).digest
    assert changed(one, one) == []
    assert changed("", one) == ["include and exclude added", "map_db, all_dbs_to and map_db_many added"]
    other = choice_of(made(include=("a",), min_ttl=5)).digest
    assert changed(one, other) == [
        "include and exclude changed",
        "min_ttl and max_ttl added",
        "map_db, all_dbs_to and map_db_many gone",
    ]
    assert changed("future=1", "") == ["rules of a kind that this build does not know (future) gone"]
    assert not choice_of(made(share_image=True)).digest
    shared, moved = ({"map_db": ("0=3",)}, {"map_db": ("0=3", "3=0", "4=0")})
    assert choice_of(made(**shared, map_db_many=True)).digest != choice_of(made(**shared)).digest
    swapped = choice_of(made(map_db=("0=3", "3=0")))
    assert choice_of(made(map_db=("0=3", "3=0"), map_db_many=True)).digest == swapped.digest, "it takes nothing more"
    assert choice_of(made(**moved, map_db_many=True)).digest != swapped.digest
    assert not choice_of(made(map_db_many=True)).digest


@pytest.mark.parametrize(
    ("one", "other", "meets"),
    [
        ({}, {"add_prefix": "eu:"}, True),
        ({"add_prefix": "eu:"}, {"add_prefix": "us:"}, False),
        ({"add_prefix": "eu:"}, {"add_prefix": "eu:us:"}, True),
        ({"all_dbs_to": 1}, {"all_dbs_to": 2}, False),
        ({"include": ("a:*",)}, {"include": ("b:", "c[x]")}, False),
        ({"include": ("a:*",)}, {"include": ("re:^b:",)}, True),
        ({"include": ("a:",), "rename_prefix": ("a:=b:",)}, {"include": ("b:",)}, True),
        ({"include": ("a:",), "rename_prefix": ("a:=b:",)}, {"include": ("a:",)}, False),
        ({"include_db": (0,), "map_db": ("0=3",)}, {"include_db": (0,)}, False),
        ({"include_slots": ("0-5", "9")}, {"include_slots": ("6-8", "10-99")}, False),
        ({"include_slots": ("0-5", "9")}, {"include_slots": ("7-9",)}, True),
        ({"include_slots": ("0-5",)}, {}, True),
        ({"include_slots": ("0-5",), "add_prefix": "a"}, {"include_slots": ("6-9",)}, True),
    ],
)
def test_images_meet(one: dict[str, Any], other: dict[str, Any], meets: bool) -> None:  # noqa: FBT001 - a row
    """Two links meet when a key can be of both; an image survives being written, and one that cannot be read is everything."""
    first, second = (choice_of(made(**each)).image for each in (one, other))
    assert first.meets(second) == second.meets(first) == meets
    assert Image.parse(first.text()) == first
    assert Image.parse("x zz") == EVERYTHING


def test_slots_of_ranges() -> None:
    """Numbers and ranges, with commas or repeated."""
    rules = choice_of(load_settings({**ENDS, "include_slots": "0-99,5000"})).rules
    assert rules is not None
    for number in range(500):
        name = b"key%d" % number
        assert rules.takes(name) == (key_slot(name) < 100 or key_slot(name) == 5000)
