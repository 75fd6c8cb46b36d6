"""Which keys are taken: prefixes and globs, against an obvious oracle."""

from __future__ import annotations

import re
import sys
import time
from types import SimpleNamespace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portd.errors import ConfigError
from portd.kernel.rules import Patterns, Rules
from portd.kernel.snapshot import SnapshotDecoder
from portd.kernel.stream import StreamSplitter
from tests.oracle.dialects import VALKEY_9
from tests.oracle.model import Entry, Snapshot
from tests.oracle.rdbwrite import encode
from tests.oracle.resp import pack

LETTERS: Final = [b"a", b"b", b"-", b"]", b"[", b"\\", b"*", b"?", b"^", b"\n", b"\xff", b"\x00"]
PATTERN: Final = st.lists(st.sampled_from(LETTERS), max_size=9).map(b"".join)
KEY: Final = st.lists(st.sampled_from(LETTERS), max_size=9).map(b"".join)


def translated(pattern: bytes) -> bytes:
    """A glob as a regular expression."""
    parts, at = [], 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        if byte == b"*":
            parts.append(b".*")
        elif byte == b"?":
            parts.append(b".")
        elif byte == b"[":
            members, at, inverse = members_of(pattern, at + 1)
            wanted = set(range(256)) - members if inverse else members
            parts.append(b"[" + b"".join(b"\\x%02x" % each for each in sorted(wanted)) + b"]" if wanted else b"(?!)")
        else:
            at += byte == b"\\" and at + 1 < len(pattern)
            parts.append(re.escape(pattern[at : at + 1]))
        at += 1
    return b"".join(parts)


def members_of(pattern: bytes, at: int) -> tuple[set[int], int, bool]:
    """The bytes of a class that begins at *at*, where its end stands, and whether it is turned round."""
    inverse = pattern[at : at + 1] == b"^"
    at += inverse
    members: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            members.add(pattern[at + 1])
            at += 2
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            ends = pattern[at], pattern[at + 2]
            members |= set(range(min(ends), max(ends) + 1))
            at += 3
        else:
            members.add(pattern[at])
            at += 1
    return members, at, inverse


def fits(pattern: bytes, key: bytes) -> bool:
    """Whether a pattern fits a key."""
    if not any(byte in pattern for byte in (b"*", b"?", b"[")):
        return key.startswith(pattern)
    return re.fullmatch(translated(pattern), key, re.DOTALL) is not None


@given(PATTERN, st.lists(KEY, min_size=1, max_size=30))
def test_one_pattern(pattern: bytes, keys: list[bytes]) -> None:
    """A prefix, or a glob with classes, ranges and escapes, fits what an obvious reading says."""
    one = Patterns([pattern])
    assert [one.matches(key) for key in keys] == [fits(pattern, key) for key in keys]


@given(st.lists(PATTERN, max_size=12), st.lists(PATTERN, max_size=4), st.lists(KEY, min_size=1, max_size=30))
def test_many_patterns(taken: list[bytes], left: list[bytes], keys: list[bytes]) -> None:
    """Any one takes a key, none given takes all, and what is left out wins."""
    rules = Rules(taken, left)
    for key in keys:
        wanted = not taken or any(fits(pattern, key) for pattern in taken)
        assert rules.takes(key) == (wanted and not any(fits(pattern, key) for pattern in left)), key


@given(st.lists(st.text("ab", max_size=6).map(str.encode), max_size=20), st.text("ab", max_size=8).map(str.encode))
def test_prefixes_that_begin_one_another(prefixes: list[bytes], key: bytes) -> None:
    """However they nest, a key is taken when one of them begins it."""
    assert Patterns(prefixes).matches(key) == any(key.startswith(each) for each in prefixes)


def test_hostile_patterns_are_not_expensive() -> None:
    """Fifty stars over a key of equal letters take at most key times pattern; a reader that goes back takes years."""
    one = Patterns([b"*a" * 50 + b"b"])
    begun = time.thread_time()
    assert not one.matches(b"a" * 20_000)
    assert one.matches(b"a" * 20_000 + b"b")
    assert time.thread_time() - begun < 5


# Each stands alone, and has to mean the same beside others: quotations that do not end, names of groups, flags, alternatives.
EXPRESSIONS: Final = [
    rb"a\Q.b",
    b"a\\Q\\",
    rb"\Q",
    rb"(?P<n>c)d",
    rb"(?P<n>e)f",
    rb"(?i)G",
    rb"h|i",
    rb"\\Q",
    rb"\Qj\Ek+",
    rb"^l$",
]
NAMES: Final = [
    b"",
    b"a.b",
    b"axb",
    b"a\\",
    b"cd",
    b"ef",
    b"g",
    b"h",
    b"\\Q",
    b"jkk",
    b"l",
    b"ll",
    b"l\n",
    b"z",
    b"\xff\x00",
]


@pytest.mark.parametrize("first", EXPRESSIONS)
def test_regular_expressions_leave_one_another_alone(first: bytes) -> None:
    """What one of several finds is what it finds alone."""
    pytest.importorskip("re2")
    alone = {each: Patterns([b"re:" + each]) for each in EXPRESSIONS}
    for second in EXPRESSIONS:
        both = Patterns([b"re:" + first, b"re:" + second])
        for name in NAMES:
            assert both.matches(name) == (alone[first].matches(name) or alone[second].matches(name)), (second, name)


def test_regular_expressions_that_are_too_large_are_told() -> None:
    """Each is small enough, and all together are not: a mistake of the settings, and no error of a library."""
    pytest.importorskip("re2")
    with pytest.raises(ConfigError, match="too large together"):
        Patterns([b"re:%d(a{1,999}b{1,999}c{1,999})" % number for number in range(300)])


def test_an_error_of_the_library_is_never_a_key_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at a name raises it, in a snapshot as in a stream; nothing is handed out behind it."""

    def search(name: bytes) -> None:
        if name == b"bad":
            raise MemoryError("no room for a name")

    fake = SimpleNamespace(
        Options=lambda: SimpleNamespace(encoding=None, log_errors=None, dot_nl=None),
        compile=lambda *_: SimpleNamespace(search=search),
        error=ValueError,
    )
    fake.Options.Encoding = SimpleNamespace(LATIN1=1)
    monkeypatch.setitem(sys.modules, "re2", fake)
    rules = Rules(left=[b"re:x"])
    splitter = StreamSplitter(0, 0, rules=rules)
    data = pack([b"SET", b"good", b"1"]) + pack([b"DEL", b"good", b"bad"]) + pack([b"SET", b"good", b"2"])
    assert splitter.feed(data, 0) == len(data)
    with pytest.raises(MemoryError, match="no room"):
        splitter.next_piece(1 << 20, 1 << 20)
    decoder = SnapshotDecoder(VALKEY_9.dialect())
    decoder.choose(rules, None)
    decoder.feed(encode(Snapshot(False, 9, [Entry(0, b"bad", 0, b"1")])))
    with pytest.raises(MemoryError, match="no room"):
        decoder.next_batch()
