"""Globs of filters, against what KEYS of servers finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import given
from hypothesis import strategies as st

from portd.kernel.rules import Patterns
from tests.oracle.strategies import effort
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Binary

LETTERS: Final = [b"a", b"b", b"c", b"-", b"]", b"[", b"\\", b"*", b"?", b"^", b"\n"]
GLOB: Final = st.tuples(
    st.lists(st.sampled_from(LETTERS), max_size=6).map(b"".join),
    st.sampled_from([b"*", b"?", b"[ab]", b"[^a-b", b"["]),
    st.lists(st.sampled_from(LETTERS), max_size=3).map(b"".join),
).map(b"".join)


def test_globs_are_those_of_servers(binary: Binary, servers: ServerFactory) -> None:
    """KEYS with a glob answers the keys that it fits here: classes, ranges, escapes, and what is not closed."""
    names = [first + second + third for first in LETTERS for second in [b"", *LETTERS] for third in (b"", b"a", b"]")]
    with Wire(servers(binary)) as wire:
        wire.many([("SET", name, "v") for name in names])

        @given(st.lists(GLOB, min_size=5, max_size=5))
        @effort(60)
        def one(globs: list[bytes]) -> None:
            answers = wire.many([("KEYS", pattern) for pattern in globs])
            for pattern, found in zip(globs, answers, strict=True):
                one = Patterns([pattern])
                assert sorted(found) == sorted({name for name in names if one.matches(name)}), pattern

        one()
