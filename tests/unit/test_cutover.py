"""What a cut-over looks at before, and what it reports."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from portd.config.settings import Settings
from portd.cutover.checks import Facts, check
from portd.cutover.doubt import Doubt
from portd.cutover.everywhere import Everywhere
from portd.cutover.fences import Fence
from portd.cutover.options import Options, Proof
from portd.cutover.proof import Proof as Making
from portd.cutover.proof import Result
from portd.cutover.report import Report
from portd.cutover.shard import Told
from portd.net.endpoint import Endpoint
from portd.preflight.findings import Level, fine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.verify.live import NamedKey

TARGET = {
    "role": "master",
    "used_memory": "900",
    "maxmemory": "0",
    "rdb_last_bgsave_status": "ok",
    "maxmemory_policy": "noeviction",
}


def sync(**changed: Any) -> dict[str, Any]:
    """What a sync says that is ready."""
    return {
        "held": None,
        "paused": None,
        "ready": True,
        "phase": "streaming",
        "reason": "",
        "stream": {"lag_seconds": 0.01, "lag_bytes": 100},
        "refusals": {"now": []},
        "expiries_to_correct": False,
        "dead_letters": {},
        "verify": {"result": "equal", "finished_at": time.time() - 100},
        **changed,
    }


def errors(options: Options | None = None, target: dict[str, str] | None = None, **changed: Any) -> list[str]:
    """What stands in the way."""
    facts = Facts(
        {"default": sync(**changed)}, {"a": {"maxmemory_policy": "noeviction"}}, {"b": TARGET | (target or {})}, {}
    )
    return [each.subject for each in check(facts, options or Options()) if each.level is Level.ERROR]


def test_a_pair_that_is_ready() -> None:
    """Nothing stands in its way."""
    assert errors() == []


@pytest.mark.parametrize(
    ("changed", "subject"),
    [
        ({"held": {"words": "empty"}}, "sync.held"),
        ({"paused": {"since": 1.0}}, "sync.paused"),
        ({"ready": False, "phase": "snapshot"}, "sync.phase"),
        ({"phase": "draining"}, "sync.phase"),
        ({"stream": {"lag_seconds": 1.5, "lag_bytes": 1}}, "sync.lag"),
        ({"stream": {"lag_seconds": None, "lag_bytes": None}}, "sync.lag"),
        ({"refusals": {"now": [{"side": "target", "code": "OOM"}]}}, "sync.refused"),
        ({"expiries_to_correct": True}, "sync.expiries"),
        ({"dead_letters": {"WRONGTYPE": 1}}, "sync.dead-letters"),
    ],
)
def test_doubts_about_the_sync(changed: dict[str, Any], subject: str) -> None:
    """Each of them alone keeps writes from being stopped."""
    assert errors(**changed) == [subject]


@pytest.mark.parametrize(
    ("target", "subject"),
    [
        ({"role": "slave"}, "target.role"),
        ({"loading": "1"}, "target.loading"),
        ({"rdb_last_bgsave_status": "err"}, "target.persistence"),
        ({"aof_last_write_status": "err"}, "target.persistence"),
        ({"maxmemory": "950"}, "target.memory"),
    ],
)
def test_doubts_about_the_target(target: dict[str, str], subject: str) -> None:
    """A target that cannot take over."""
    assert errors(target=target) == [subject]


def test_what_an_operator_may_accept() -> None:
    """Dead letters that are known, a larger lag, memory that is enough."""
    assert errors(Options(accept_letters=True), dead_letters={"WRONGTYPE": 1}) == []
    assert errors(Options(lag_seconds=2.0), stream={"lag_seconds": 1.5, "lag_bytes": 1}) == []
    assert errors(target={"maxmemory": "2000"}) == []


@pytest.mark.parametrize(
    ("result", "age", "wrong"),
    [
        ("equal", 100, []),
        ("equal", 10_000, ["sync.verified"]),
        ("different", 0, ["sync.verified"]),
        ("", math.inf, ["sync.verified"]),
    ],
)
def test_a_comparison_of_before(result: str, age: float, wrong: list[str]) -> None:
    """Where only what changes is compared, one that is equal and fresh speaks for the rest."""
    verify = {"result": result, "finished_at": max(time.time() - age, 0.0)}
    assert errors(Options(proof=Proof.CHANGES, verified_seconds=5000), verify=verify) == wrong
    assert errors(verify=verify) == []


def test_several_links_and_nodes_are_named_where_something_is_wrong() -> None:
    """What is well is said once, however many there are; what is not, by name."""
    links = {f"default.{number}": sync() for number in (0, 5461, 10922)}
    links["default.5461"] = sync(stream={"lag_seconds": 7.0, "lag_bytes": 100})
    nodes = {f"redis://node:{port}": dict(TARGET) for port in (1, 2)}
    nodes["redis://node:2"]["rdb_last_bgsave_status"] = "err"
    found = check(Facts(links, {"redis://a": {"maxmemory_policy": "allkeys-lru"}}, nodes, {}), Options())
    told = [(each.level, each.subject, each.what) for each in found]
    assert (Level.OK, "sync.phase", "streaming") in told
    assert [what for level, _, what in told if level is Level.ERROR] == [
        "default.5461: 7.000 s, 100 B",
        "redis://node:2: failed: rdb_last_bgsave_status",
    ]
    assert told.count((Level.OK, "target.memory", "900 B, no limit")) == 1
    assert {what for level, _, what in told if level is Level.WARNING} == {
        f"{node}: maxmemory-policy noeviction, the source's is allkeys-lru" for node in nodes
    }


class Marked(Fence):
    """A fence that notes what is done to it.

    Attributes:
        done: that, in order.
    """

    absolute = True

    def __init__(self, port: int, *, wrong: str = "") -> None:
        super().__init__(Endpoint.parse(f"redis://node:{port}"))
        self.done: list[str] = []
        self._wrong = wrong

    def _note(self, what: str) -> None:
        self.done.append(what)
        if what == self._wrong:
            raise Doubt(f"{self.where} does not {what}", hint="see there")

    async def prepare(self) -> str:
        """See `Fence`."""
        self._note("prepare")
        return "a mark"

    async def _stop(self) -> None:
        await asyncio.sleep(0)  # another one may fail meanwhile
        self._note("stop")

    async def _free(self) -> None:
        self._note("free")

    async def stay(self, seconds: float) -> str:
        """See `Fence`."""
        self._note("stay")
        return f"for {seconds:g} s"

    def by_hand(self) -> str:
        """See `Fence`."""
        return "take it away"


def everywhere(*fences: Fence, replicas: Sequence[Fence] = ()) -> Everywhere:
    """Of a cluster."""
    return Everywhere(Endpoint.parse("redis+cluster://node:1"), fences, replicas)


async def test_one_primary_that_cannot_be_stopped_frees_all() -> None:
    """It is named; none is cancelled half way, and each is undone, also the one that may have been stopped all the same."""
    fences = Marked(1), Marked(2, wrong="stop"), Marked(3)
    all_of_them = everywhere(*fences)
    assert await all_of_them.prepare() == "a mark, at 3 primaries"
    with pytest.raises(Doubt, match="redis://node:2 does not stop"):
        await all_of_them.stop()
    assert all_of_them.by_hand() == "take it away (redis://node:1, redis://node:2, redis://node:3)"
    assert await all_of_them.free()
    assert all_of_them.by_hand() == ""
    assert [each.done for each in fences] == [["prepare", "stop", "free"]] * 3


async def test_a_replica_that_cannot_be_fenced_is_told() -> None:
    """It holds nobody up; one that may have been stopped is undone with all others."""
    primary, unprepared, unstopped, well = Marked(1), Marked(2, wrong="prepare"), Marked(3, wrong="stop"), Marked(4)
    all_of_them = everywhere(primary, replicas=[unprepared, unstopped, well])
    assert await all_of_them.prepare() == "a mark, at 1 primaries and 2 replicas"
    await all_of_them.stop()
    told = await all_of_them.stay(5)
    assert told.startswith(
        "for 5 s; should redis://node:2 be promoted, it is not fenced: redis://node:2 does not prepare"
    )
    assert "redis://node:3 be promoted" in told
    assert "node:4" not in told
    assert await all_of_them.free()
    assert [each.done for each in (unprepared, unstopped, well)] == [
        ["prepare"],
        ["prepare", "stop", "free"],
        ["prepare", "stop", "free"],
    ]


async def test_a_rehearsal_blames_nothing_that_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that clients write all the while differs at every look, and is none of those that nobody writes."""
    monkeypatch.setattr("portd.cutover.proof.LOOK_SECONDS", (0.0, 0.0))
    taken = iter([{b"quiet", b"busy"}, {b"busy"}, {b"other"}])
    told = {"everything": False, "lost": False, "unknown": set()}
    touched = SimpleNamespace(**told, take=lambda: {bytes(4) + name for name in next(taken)})
    written = SimpleNamespace(**told, watching=True, take=set, flush=lambda: asyncio.sleep(0))
    settings = Settings(source="redis://a", target="redis://b")
    watched: Any = [SimpleNamespace(touched=touched)], [written]
    proof = Making(settings, Options(), *watched)
    reader: Any = SimpleNamespace(databases=[0])
    monkeypatch.setattr(Making, "_both", lambda _: (reader, reader))

    async def differ(_: Making, keys: set[NamedKey], *_more: object) -> set[NamedKey]:
        return keys

    monkeypatch.setattr(Making, "_read", differ)
    assert await proof.touch() == {(0, b"quiet")}


def report() -> Report:
    """One that was done."""
    found = Report("default", "redis://old", "redis://new", rehearsal=False, outcome="done")
    found.checks = [fine("sync.phase", "streaming")]
    found.times = {"begun": 1.0, "stopped": 100.0, "settled": 100.25, "ended": 200.0}
    found.seconds = {"drain": 0.01}
    found.offsets = {"source": 7, "last_write": 5}
    found.dead_letters = {"WRONGTYPE": 2}
    found.proof = Result("all", method="PSYNC", equal=10, source_digest="ab" * 32, target_digest="ab" * 32)
    found.left = ["clients wait"]
    return found


def test_the_digest_and_the_signature_are_of_the_contents() -> None:
    """Whoever changes a report changes its digest, and needs the key to sign it."""
    shown = report().shown(b"key")
    inside = {
        name: value for name, value in json.loads(json.dumps(shown)).items() if name not in {"digest", "signature"}
    }
    told = json.dumps(inside, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert shown["digest"] == f"sha256:{hashlib.sha256(told).hexdigest()}"
    assert shown["signature"] == f"hmac-sha256:{hmac.new(b'key', told, hashlib.sha256).hexdigest()}"
    assert "signature" not in report().shown()
    other = report()
    other.offsets["source"] = 8
    assert other.shown()["digest"] != shown["digest"]


def test_the_time_for_which_writes_stood_still() -> None:
    """From the stop to when the target may be written, or to when writes went on; none where they never stood still."""
    found = report()
    assert found.standstill == 0.25
    assert found.shown()["standstill_seconds"] == 0.25
    del found.times["settled"]
    found.times["freed"] = 102.0
    assert found.standstill == 2.0
    del found.times["stopped"]
    assert found.standstill is None


def test_the_report_for_people() -> None:
    """The outcome comes first; all that counts is in it."""
    text = report().text()
    assert text.startswith("CUT OVER: default")
    for words in (
        "stood still for 0.250 s",
        "offsets   source 7",
        "WRONGTYPE 2",
        "10 keys equal",
        "clients wait",
        "sha256:",
    ):
        assert words in text
    found = report()
    found.outcome, found.doubt, found.hint = "rolled back", "a key differs", "look at it"
    text = found.text()
    assert text.startswith("ROLLED BACK, writes go on at the source")
    assert "why       a key differs\nHINT: look at it" in text


def test_the_report_of_a_cluster() -> None:
    """Each shard has its node and its offsets; without any the field is left out, and the digest is what it always was."""
    found = report()
    assert "shards" not in found.shown()
    found.shards = {"default.5461": Told("redis://node:2", {"source": 7, "last_write": 5})}
    assert found.shown()["shards"] == {
        "default.5461": {"node": "redis://node:2", "offsets": {"source": 7, "last_write": 5}}
    }
    assert "shard     default.5461 at redis://node:2: source 7, last_write 5" in found.text()
