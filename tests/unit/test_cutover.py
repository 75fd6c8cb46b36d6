"""What a cut-over looks at before, and what it reports."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import pytest

from portd.cutover.checks import Facts, check
from portd.cutover.options import Options, Proof
from portd.cutover.proof import Result
from portd.cutover.report import Report
from portd.preflight.findings import Level, fine

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
    ("verify", "wrong"),
    [
        ({"result": "equal", "finished_at": time.time() - 100}, []),
        ({"result": "equal", "finished_at": time.time() - 1000}, ["sync.verified"]),
        ({"result": "different", "finished_at": time.time()}, ["sync.verified"]),
        ({"result": "", "finished_at": 0.0}, ["sync.verified"]),
    ],
)
def test_a_comparison_of_before(verify: dict[str, Any], wrong: list[str]) -> None:
    """Where only what changes is compared, one that is equal and fresh speaks for the rest."""
    assert errors(Options(proof=Proof.CHANGES, verified_seconds=500), verify=verify) == wrong
    assert errors(verify=verify) == []


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
