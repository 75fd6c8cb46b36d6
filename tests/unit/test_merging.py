"""Which rules may make one name of two."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from portd.config.merging import merged
from portd.config.rules import choice_of
from portd.config.rulesettings import RuleSettings

MERGED: list[dict[str, Any]] = [
    {"rename_prefix": ("old:=new:",)},
    {"rename_prefix": ("old:=new:",), "exclude": ("new:x",)},
    {"rename_prefix": ("old:=new:",), "exclude": ("re:^new:",)},
    {"rename_prefix": ("a:=c:", "b:=c:"), "include": ("a:", "b:")},
    {"rename_prefix": ("a:=c:", "b:=c:x:"), "include": ("a:", "b:"), "add_prefix": "all:"},
    {"rename_prefix": ("a:=",)},
]
APART: list[dict[str, Any]] = [
    {},
    {"add_prefix": "x:"},
    {"rename_prefix": ("old:=new:",), "exclude": ("new:*",)},
    {"rename_prefix": ("old:=new:",), "include": ("old:",)},
    {"rename_prefix": ("a:=",), "include": ("a:",)},
    {"rename_prefix": ("a:=b:", "b:=a:")},
    {"rename_prefix": ("a:=a:b:",), "include": ("a:", "b:")},
    {"rename_prefix": ("a:=c:", "b:=d:"), "include": ("a:", "b:"), "add_prefix": "all:"},
]


def rules(**given: Any) -> RuleSettings:
    """Settings, checked."""
    settings = RuleSettings(**given)
    settings.check()
    return settings


@pytest.mark.parametrize("given", MERGED, ids=str)
def test_names_that_may_become_one_are_told(given: dict[str, Any]) -> None:
    """Both beginnings are, and lead to one name."""
    found = merged(rules(**given))
    assert found is not None
    one, other = (choice_of(rules(**given)).to_target(0, each + b"rest")[1] for each in found)
    assert one == other


@pytest.mark.parametrize("given", APART, ids=str)
def test_names_that_stay_apart(given: dict[str, Any]) -> None:
    """Rules that are seen to keep all names apart."""
    assert merged(rules(**given)) is None


def test_what_counts_as_apart_is_so() -> None:
    """Of rules of few letters: where nothing is told, no two names that are taken become one."""
    names = [bytes(each) for size in range(5) for each in itertools.product(b"abc", repeat=size)]
    chance = random.Random(7)
    told = 0
    for _ in range(300):
        words = ["", "a", "b", "c", "ab", "ba", "bc", "ca"]
        settings = rules(
            rename_prefix=tuple(f"{old}={chance.choice(words)}" for old in chance.sample(words[1:], 2)),
            include=tuple(chance.sample(words[1:], chance.randrange(3))),
            exclude=tuple(chance.sample([*words[1:], "a*", "*b"], chance.randrange(3))),
            add_prefix=chance.choice(["", "a"]),
        )
        if merged(settings) is not None:
            told += 1
            continue
        choice = choice_of(settings)
        taken = [name for name in names if choice.rules is None or choice.rules.takes(name, 0)]
        assert len({choice.to_target(0, name) for name in taken}) == len(taken), settings
    assert 30 < told < 270
