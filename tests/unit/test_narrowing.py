"""Which rules take nothing that others do not, and what keeps them from being seen so."""

from __future__ import annotations

import random
from typing import Any

import pytest

from portd.config.narrowing import widened
from portd.config.rules import choice_of
from portd.config.rulesettings import RuleSettings


def rules(**given: Any) -> RuleSettings:
    """Settings, checked."""
    settings = RuleSettings(**given)
    settings.check()
    return settings


NARROWER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"exclude": ("tmp:",)}),
    ({}, {"include": ("user:",)}),
    ({}, {"include": ("re:^a+$",)}),
    ({}, {"exclude_command": ("INCR",)}),
    ({}, {"include_db": (3,)}),
    ({}, {"exclude_db": (3,)}),
    ({}, {"include_slots": ("0-100",)}),
    ({"include": ("a:", "b:")}, {"include": ("b:",)}),
    ({"include": ("a:", "b:")}, {"include": ("b:", "a:")}),
    ({"include": ("user:",)}, {"include": ("user:1", "user:2*", "user:[ab]?")}),
    ({"include": ("user:*",)}, {"include": ("user:",)}),
    ({"include": ("*",)}, {}),
    ({"include": ("*",)}, {"include": ("re:x",)}),
    ({"include": ("x[ab]*", "re:q")}, {"include": ("re:q", "x[ab]*")}),
    ({"include": ("a:",)}, {"include": ("a:",), "exclude": ("a:b",)}),
    ({"exclude": ("tmp:1", "tmp:[2]")}, {"exclude": ("tmp:",)}),
    ({"exclude": ("tmp:",)}, {"exclude": ("tmp*",)}),
    ({"exclude_command": ("incr",)}, {"exclude_command": ("INCR", "DECR")}),
    ({"include_db": (0, 1, 2)}, {"include_db": (0, 2)}),
    ({"include_db": (0, 1, 2)}, {"include_db": (0, 1, 2), "exclude_db": (1,)}),
    ({"exclude_db": (4,)}, {"exclude_db": (4, 5)}),
    ({"exclude_db": (4,)}, {"include_db": (1,)}),
    ({"include_slots": ("0-100",)}, {"include_slots": ("5", "7-9")}),
    ({"map_db": ("0=3", "1=4")}, {"map_db": ("1=4", "0=3"), "exclude": ("x",)}),
    (
        {"rename_prefix": ("a:=b:",), "add_prefix": "eu:"},
        {"rename_prefix": ("a:=b:",), "add_prefix": "eu:", "include": ("a:",)},
    ),
]
WIDER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"exclude": ("tmp:",)}, {}, "exclude 'tmp:' is gone"),
    ({"exclude": ("tmp:",)}, {"exclude": ("tmp:1",)}, "exclude 'tmp:' is gone"),
    ({"exclude": ("tmp*",)}, {"exclude": ("re:^tmp",)}, "exclude 'tmp*' is gone"),
    ({"include": ("a:",)}, {}, "every name is taken"),
    ({"include": ("a:",)}, {"include": ("a:", "b:")}, "include 'b:' is within none"),
    ({"include": ("a:b",)}, {"include": ("a:",)}, "include 'a:' is within none"),
    ({"include": ("a:",)}, {"include": ("*a:",)}, "within none"),
    ({"include": ("a:",)}, {"include": ("[a]:",)}, "within none"),
    ({"include": ("a:",)}, {"include": ("re:^a:",)}, "within none"),
    ({"include": ("a?c*",)}, {"include": ("abc",)}, "within none"),
    ({"include": ("a\\*",)}, {"include": ("ab",)}, "within none"),
    ({"exclude_command": ("INCR", "DECR")}, {"exclude_command": ("DECR",)}, "exclude_command INCR is gone"),
    ({"include_db": (0,)}, {}, "every database is taken"),
    ({"include_db": (0,)}, {"include_db": (0, 5)}, "database 5 is taken"),
    ({"include_db": (0,)}, {"exclude_db": (5,)}, "every database is taken"),
    ({"exclude_db": (4, 5)}, {"exclude_db": (5,)}, "exclude_db 4 is gone"),
    ({"exclude_db": (4,)}, {"include_db": (4,)}, "database 4 is taken"),
    ({"include_db": (1, 2), "exclude_db": (1,)}, {"include_db": (1,)}, "database 1 is taken"),
    ({"include_slots": ("0-100",)}, {}, "include_slots is gone"),
    ({"include_slots": ("0-100",)}, {"include_slots": ("0-101",)}, "more slots"),
    ({}, {"map_db": ("0=3",)}, "map_db maps otherwise"),
    ({"map_db": ("0=3",)}, {}, "map_db maps otherwise"),
    ({}, {"add_prefix": "eu:"}, "add_prefix maps otherwise"),
    ({"rename_prefix": ("a:=b:",)}, {"rename_prefix": ("a:=c:",)}, "rename_prefix maps otherwise"),
    ({}, {"all_dbs_to": 0}, "all_dbs_to maps otherwise"),
    ({"all_dbs_to": 0}, {"all_dbs_to": 0, "include_db": (1,)}, "share a place"),
    ({}, {"max_bytes": 5}, "max_bytes is for snapshots"),
    ({}, {"include_type": ("hash",)}, "include_type is for snapshots"),
    ({"exclude": ("x",)}, {"include": ("y",)}, "exclude 'x' is gone"),
]


@pytest.mark.parametrize(("old", "new"), NARROWER, ids=str)
def test_what_is_narrower(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Each way in which less, or the same, may be taken."""
    assert widened(rules(**old), rules(**new)) == []


@pytest.mark.parametrize(("old", "new", "words"), WIDER, ids=str)
def test_what_is_not(old: dict[str, Any], new: dict[str, Any], words: str) -> None:
    """Each way in which more may be taken, or something else, is named."""
    found = widened(rules(**old), rules(**new))
    assert any(words in each for each in found), found


def test_no_narrower_rules_take_a_key_that_the_wider_ones_leave_out() -> None:
    """Whatever rules are thrown together: where they are said to be narrower, the kernel takes no name or database more."""
    chance = random.Random(11)
    patterns = ("a", "a*", "ab", "ab*", "a?", "[ab]", "[ab]*", "*", "b", "a\\*", "\\ab", "?b*", "*b", "re:b$", "re:^a")
    names = [b"a", b"b", b"ab", b"abc", b"a*", b"ba", b"bb", b"c", b"", b"\\ab", b"aab"]

    def some() -> RuleSettings:
        return rules(
            include=tuple(chance.sample(patterns, chance.randrange(3))),
            exclude=tuple(chance.sample(patterns, chance.randrange(3))),
            include_db=tuple(chance.sample(range(3), chance.randrange(3))),
            exclude_db=tuple(chance.sample(range(3), chance.randrange(2))),
        )

    narrower = 0
    for _ in range(20_000):
        old, new = some(), some()
        if widened(old, new):
            continue
        narrower += 1
        before, now = choice_of(old), choice_of(new)
        for db in range(4):
            for name in names:
                if now.rules is None or now.rules.takes(name, db):
                    assert before.rules is None or before.rules.takes(name, db), (old, new, name, db)
    assert narrower > 500
