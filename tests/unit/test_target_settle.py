"""What replies mean: codes, commands inside buffers, keys that failed or must go again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from portd.errors import ConfigError, InternalError, SpoolError, TargetBusy, TargetError, TargetRefused, TargetRejected
from portd.kernel.replies import Note
from portd.kernel.requests import split
from portd.model import Progress
from portd.net.backoff import Backoff
from portd.net.replies import Verdict, abort_cause, already_applied, classify, error_of, presentable, sort_out
from portd.net.resp import request
from portd.target.connection import Disconnected
from portd.target.deadletter import DeadLetters, Letter, read_keys
from portd.target.judge import outcome, settle

if TYPE_CHECKING:
    from pathlib import Path

OOM = "OOM command not allowed when used memory > 'maxmemory'."
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (OOM, Verdict.RETRY),
        ("LOADING Redis is loading the dataset in memory", Verdict.RETRY),
        ("BUSY Redis is busy running a script.", Verdict.RETRY),
        ("READONLY You can't write against a read only replica.", Verdict.RETRY),
        ("BUSYKEY Target key name already exists.", Verdict.REJECTED),
        (WRONGTYPE, Verdict.REJECTED),
        ("ERR Bad data format", Verdict.REJECTED),
        ("NOPERM No permissions to access a key", Verdict.REJECTED),
        ("NOAUTH Authentication required.", Verdict.FATAL),
        ("MOVED 1 127.0.0.1:7000", Verdict.REROUTE),
        ("ASK 1 127.0.0.1:7000", Verdict.REROUTE),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Verdict.RETRY),
        ("CLUSTERDOWN The cluster is down", Verdict.RETRY),
    ],
)
def test_classifies_by_code(text: str, verdict: Verdict) -> None:
    """The first word of a reply decides, whatever the sentence behind it."""
    assert classify(text) is verdict


@pytest.mark.parametrize(
    ("text", "kind", "said", "hint"),
    [
        (OOM, TargetBusy, f"the target is not ready: {OOM}", ""),
        ("EXECABORT Transaction discarded because of: " + OOM, TargetBusy, f"the target is not ready: {OOM}", ""),
        ("MOVED 1 127.0.0.1:7000", TargetBusy, "the target is not ready: MOVED", ""),
        ("ASK 1 127.0.0.1:7000", TargetBusy, "the target is not ready: ASK", ""),
        ("NOAUTH Authentication required.", TargetRefused, "wants a password and got none (NOAUTH)", "password file"),
        ("NOPERM No permissions to access a key", TargetRefused, "the target refuses x: NOPERM", "docs/operations.md"),
        (WRONGTYPE, TargetError, "the target's key 'ours' is portd's own", "delete the key 'ours'"),
        ("ERR syntax error", TargetError, "the target refuses x: ERR syntax error", ""),
    ],
)
def test_a_reply_becomes_one_error(text: str, kind: type[TargetError], said: str, hint: str) -> None:
    """Whatever of ours was refused, the code says which error that is, and the message what to do."""
    error = error_of(text, "refuses x", key="ours")
    assert type(error) is kind
    assert said in str(error)
    assert hint in (error.hint or "")


def test_what_passes_is_the_loss_of_a_connection_where_that_is_made_anew() -> None:
    """A connection for data is given up; any other reply means what it always does."""
    lost = error_of("LOADING Redis is loading", "refuses x", busy=Disconnected)
    assert isinstance(lost, Disconnected)
    assert lost.reason == "loading"
    assert type(error_of("ERR other", "refuses x", busy=Disconnected)) is TargetError
    assert type(error_of("LOADING Redis is loading", "refuses us", login=True)) is TargetBusy
    assert "refused the credentials" in str(error_of("ERR invalid password", "refuses us", login=True))


def test_errors_of_a_group_are_sorted() -> None:
    """Each number is in one place; a cause that is about no command stops the group, and is no refusal."""
    errors = {1: WRONGTYPE, 4: OOM, 5: "MOVED 1 127.0.0.1:7000", 9: "LOADING"}
    found = sort_out(errors)
    assert (found.refused, found.passing) == ({1: WRONGTYPE}, {4: OOM, 9: "LOADING"})
    assert (found.fatal, found.trouble) == (errors[5], OOM)
    assert sort_out({1: WRONGTYPE}, OOM).trouble == OOM
    assert sort_out({}, "NOAUTH x").fatal == "NOAUTH x"
    assert sort_out({}, WRONGTYPE).refused == {}


def test_replies_are_shown_without_arguments() -> None:
    """What servers repeat of a command's arguments may hold values and is cut off."""
    text = "ERR unknown command 'FOO', with args beginning with: 'key' 'secret'"
    assert presentable(text) == "ERR unknown command 'FOO'"
    assert len(presentable("ERR " + "x" * 1000)) == 200


def test_replies_to_a_second_time() -> None:
    """Only the replies that say "that is there already" are fine for a command that is sent again."""
    assert already_applied("BUSYGROUP Consumer Group name already exists")
    assert already_applied("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    assert not already_applied("ERR no such key")
    assert abort_cause("EXECABORT Transaction discarded because of: " + OOM) == OOM
    assert not abort_cause("EXECABORT Transaction discarded because of previous errors.")


def test_splits_commands() -> None:
    """Name, key and extent of every command are found; one that is cut at the end is not told."""
    data = (
        request("set", "k", "v")
        + request("XGROUP", "CREATE", "s", "g", "0")
        + request("FUNCTION", "LOAD", "code")
        + request("EVAL", "return 1", "1", "zk", "m")
        + request("MSET", "a", "1", "b", "2")
    )
    commands = list(split(data + request("SET", "cut", "x" * 50)[:-5]))
    assert [(c.title, c.key, c.keys) for c in commands] == [
        ("SET", b"k", 1),
        ("XGROUP", b"s", 1),
        ("FUNCTION", b"", 0),
        ("EVAL", b"zk", 1),
        ("MSET", b"a", 2),
    ]
    assert b"".join(data[c.start : c.end] for c in commands) == data
    assert list(split(data[:7])) == []
    with pytest.raises(ValueError, match="RESP"):
        list(split(b"PING\r\n"))


def test_retry_takes_the_whole_key() -> None:
    """When one command of a key must go again, all of that key's go, in order, and nothing else."""
    data = b"".join(
        [
            request("SET", "a", "1"),
            request("UNLINK", "l"),
            request("RPUSH", "l", "x"),
            request("RPUSH", "l", "y"),
            request("SET", "b", "1"),
        ]
    )
    settled = settle(data, [Note(2, -1, OOM)], resent=False, skip_existing=False)
    assert settled.again == request("UNLINK", "l") + request("RPUSH", "l", "x") + request("RPUSH", "l", "y")
    assert (settled.again_replies, settled.trouble, settled.failed) == (3, OOM, 0)


def test_refusals_count_once_per_key() -> None:
    """Two refused commands of a key are one failed key; a key that goes again is not refused yet."""
    data = request("SADD", "s", "x") + request("SADD", "s", "y") + request("SET", "a", "1") + request("SET", "a", "2")
    notes = [Note(0, -1, WRONGTYPE), Note(1, -1, WRONGTYPE), Note(2, -1, "ERR no"), Note(3, -1, OOM)]
    settled = settle(data, notes, resent=False, skip_existing=False)
    assert [(command.key, text) for command, text in settled.refused] == [(b"s", WRONGTYPE)]
    assert (settled.failed, settled.again_replies) == (1, 2)


def test_refused_mset_goes_again_as_single_sets() -> None:
    """One key that may not be written does not take the other keys of its MSET down."""
    data = request("MSET", "a", "1", "b\r\n", "")
    settled = settle(data, [Note(0, -1, "NOPERM No permissions to access a key")], resent=False, skip_existing=False)
    assert settled.again == request("SET", "a", "1") + request("SET", "b\r\n", "")
    assert (settled.again_replies, settled.failed) == (2, 0)


def test_existing_keys_are_filtered_when_skipping() -> None:
    """BUSYKEY is a choice, not a failure, when existing keys are left alone."""
    note = Note(0, -1, "BUSYKEY Target key name already exists.")
    data = request("RESTORE", "k", 0, "payload")
    skipped = settle(data, [note], resent=False, skip_existing=True)
    refused = settle(data, [note], resent=False, skip_existing=False)
    assert (skipped.filtered, skipped.failed, refused.filtered, refused.failed) == (1, 0, 0, 1)


def test_second_time_is_no_failure() -> None:
    """XADD and XGROUP CREATE that were applied before the connection was lost are fine; the first time they are not."""
    data = request("XGROUP", "CREATE", "s", "g", "0")
    notes = [Note(0, -1, "BUSYGROUP Consumer Group name already exists")]
    assert settle(data, notes, resent=True, skip_existing=False).failed == 0
    assert settle(data, notes, resent=False, skip_existing=False).failed == 1


def test_more_errors_than_commands_is_a_bug() -> None:
    """An error that belongs to no command is never taken lightly."""
    with pytest.raises(InternalError):
        settle(request("SET", "a", "1"), [Note(1, -1, WRONGTYPE)], resent=False, skip_existing=False)


def test_reads_the_outcome_of_a_transaction() -> None:
    """Errors at queueing, an EXEC that refuses, one that finds a watched key touched, and errors of commands differ."""
    assert outcome([], 3).committed
    failed = outcome([Note(3, 1, WRONGTYPE), Note(3, 2, "ERR x")], 3)
    assert (failed.committed, failed.failed) == (True, {1: WRONGTYPE, 2: "ERR x"})
    aborted = outcome([Note(1, -1, OOM), Note(3, -1, "EXECABORT x")], 3)
    assert (aborted.committed, aborted.queued) == (False, {1: OOM})
    assert outcome([Note(3, -1, None)], 3).nil


def test_dead_letters_are_lines_of_json(tmp_path: Path) -> None:
    """The file says what and why; a key that is not UTF-8 is marked; a full file only counts."""
    progress = Progress()
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(progress, path=path, max_bytes=450)
    for key in (b"plain", b"\xff\x00", b"too much"):
        letters.add(Letter(phase="snapshot", db=3, key=key, command="RPUSH", offset=7, reply=WRONGTYPE))
    letters.close()
    letters.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["key"] for line in lines] == ["plain", {"base64": "/wA="}]
    assert {name: lines[0][name] for name in ("phase", "db", "command", "offset", "code")} == {
        "phase": "snapshot",
        "db": 3,
        "command": "RPUSH",
        "offset": 7,
        "code": "WRONGTYPE",
    }
    assert (progress.dead_letters["WRONGTYPE"], letters.unwritten) == (3, 1)


def test_dead_letter_can_stop_the_sync(tmp_path: Path) -> None:
    """With the policy stop the first letter is kept and ends the sync, without the value in its message."""
    letters = DeadLetters(Progress(), path=tmp_path / "dead.jsonl", stop=True)
    with pytest.raises(TargetRejected, match=r"SET \(db 0, key 'k', stream offset 9\): ERR unknown command 'SET'\n"):
        letters.add(
            Letter(
                phase="stream", db=0, key=b"k", command="SET", offset=9, reply="ERR unknown command 'SET', with args x"
            )
        )
    letters.close()
    assert (tmp_path / "dead.jsonl").read_text().count("\n") == 1


def test_dead_letters_can_be_redacted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No key in the file, the log and the error; a letter without a key looks as ever."""
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(Progress(), path=path, redact=True)
    for key in (b"secret", b"\xffsecret", b""):
        letters.add(Letter(phase="snapshot", db=3, key=key, command="RPUSH", offset=7, reply=WRONGTYPE))
    letters.close()
    text = path.read_text()
    assert [json.loads(line)["key"] for line in text.splitlines()] == ["(redacted)", "(redacted)", ""]
    stopping = DeadLetters(Progress(), stop=True, redact=True)
    with pytest.raises(TargetRejected, match=r"key \(redacted\), stream") as caught:
        stopping.add(Letter(phase="stream", db=0, key=b"secret", command="SET", offset=9, reply=WRONGTYPE))
    said = capsys.readouterr()
    assert "secret" not in text + str(caught.value) + said.out + said.err
    with pytest.raises(ConfigError, match=r"line 1 does not name its key: .*redact_keys\nHINT"):
        read_keys(path)


def test_dead_letter_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A path that cannot be written is told at the start, with what to do."""
    with pytest.raises(SpoolError, match="HINT"):
        DeadLetters(Progress(), path=tmp_path)


def test_backoff_grows_to_its_limit() -> None:
    """Waits double up to the limit, with jitter below, and begin again after a success."""
    backoff = Backoff(1.0, 4.0)
    waits = [backoff.next_wait() for _ in range(5)]
    for wait, step in zip(waits, [1.0, 2.0, 4.0, 4.0, 4.0], strict=True):
        assert step / 2 <= wait <= step
    backoff.reset()
    assert backoff.next_wait() <= 1.0
