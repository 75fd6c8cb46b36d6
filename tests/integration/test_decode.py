"""`portd decode` as operators use it: against the servers' own answers, filters, reports, and bad input."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import command, environment, run
from tests.datasets import fill_every_encoding
from tests.lines import read_lines, text
from tests.oracle.model import Entry, HashValue, Snapshot
from tests.oracle.rdbwrite import encode
from tests.reading import READERS
from tests.servers import PATIENCE_SECONDS, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis.client

    from tests.conftest import ServerFactory
    from tests.servers import Binary, Server

SOME = Snapshot(
    False,
    9,
    [
        Entry(0, b"user:1", 4, HashValue({b"name": b"ann", b"bin\xff": b"\x00\xff"})),
        Entry(0, b"user:2", 0, b"v" * 100),
        Entry(1, b"count", 0, b"12", expire_ms=4_000_000_000_000),
    ],
    aux=[(b"redis-ver", b"6.2.0")],
)


@pytest.fixture
def some(tmp_path: Path) -> Path:
    """A small file."""
    file = tmp_path / "some.rdb"
    file.write_bytes(encode(SOME, lzf=False))
    return file


def lines_of(*words: object) -> list[dict[str, Any]]:
    """What a command prints, line by line."""
    return [json.loads(line) for line in run(*words).out.splitlines()]


def test_lines_are_what_the_server_answers(binary: Binary, servers: ServerFactory) -> None:
    """Every element of every type and encoding, read from the live server's snapshot, is the server's own answer."""
    source = servers(binary)
    fill_every_encoding(source)
    told, _ = read_lines(run("decode", source.url).out)
    client = source.client()
    keys = 0
    for name, entry in client.info("keyspace").items():
        db = int(name[2:])
        keys += entry["keys"]
        with Wire(source, db) as wire:
            for key in [key for place, key in told if place == db]:
                kind = wire.call("TYPE", key)
                kind = (kind if isinstance(kind, str) else kind.decode()).removeprefix("+")
                assert as_answered(kind, told[db, key]) == READERS[kind](wire, key), (db, key)
    assert keys == len(told)


def as_answered(kind: str, values: list[Any]) -> Any:
    """Elements in the form of `tests.reading`."""
    if kind == "string":
        return values[0]
    if kind == "list":
        assert [index for index, _ in values] == list(range(len(values)))
        return [value for _, value in values]
    if kind == "set":
        return dict.fromkeys(values)
    if kind == "hash":
        return {name: value for name, value, _ in values}
    if kind == "zset":
        return dict(values)
    return [[b"%d-%d" % where, [part for pair in fields for part in pair]] for where, fields in values]


def test_the_documented_form(some: Path) -> None:
    """Fields, their order and the base64 marker stay as documented."""
    assert run("decode", some).out.decode().splitlines() == [
        '{"db":0,"type":"hash","key":"user:1","field":"name","value":"ann"}',
        '{"db":0,"type":"hash","key":"user:1","field":{"base64":"Ymlu/w=="},"value":{"base64":"AP8="}}',
        '{"db":0,"type":"string","key":"user:2","value":"' + "v" * 100 + '"}',
        '{"db":1,"type":"string","key":"count","expireat":4000000000000,"value":"12"}',
    ]
    rows = run("decode", some, "--format", "csv", "--db", 1).out.decode().splitlines()
    assert rows[1] == "1,string,count,,12,,,,4000000000000,,,"
    (line,) = lines_of("decode", some, "-f", "keys", "-m", "user:1")
    assert (line["type"], line["encoding"], line["elements"]) == ("hash", "hash", 2)


def test_filters_choose_keys(some: Path) -> None:
    """By type, glob, database and size; several of one kind mean any of them."""

    def keys(*words: str) -> list[str]:
        return [line["key"] for line in lines_of("decode", some, "-f", "keys", *words)]

    assert keys() == ["user:1", "user:2", "count"]
    assert keys("--type", "hash") == ["user:1"]
    assert keys("-m", "user:*") == ["user:1", "user:2"]
    assert keys("-m", "*:[2-9]", "-m", "c?unt") == ["user:2", "count"]
    assert keys("--db", "1") == ["count"]
    assert keys("--min-bytes", "50") == ["user:2"]
    assert keys("--max-bytes", "5") == ["count"]
    assert lines_of("decode", some, "--type", "aux")[0] == {"type": "aux", "key": "redis-ver", "value": "6.2.0"}


def test_reports_agree(some: Path, tmp_path: Path) -> None:
    """Text, JSON and HTML come from the same counts; the page needs nothing from elsewhere."""
    report = json.loads(run("decode", some, "-f", "stats", "--report", "json").out)
    counted = {name: report["total"][name] for name in ("keys", "elements", "expiring")}
    assert counted == {"keys": 3, "elements": 4, "expiring": 1}
    assert report["total"]["memory"] == sum(each["memory"] for each in report["biggest"]) > report["total"]["bytes"]
    assert {each["prefix"]: each["keys"] for each in report["prefixes"]} == {"user:": 2, "(no prefix)": 1}
    assert report["biggest"][0]["key"] == "user:2"
    assert "user:2" in run("decode", some, "-f", "stats").out.decode()
    page = tmp_path / "page.html"
    run("decode", some, "-f", "stats", "--report", "html", "-o", page)
    html = page.read_text()
    assert html.count("<progress") > 10
    assert "http" not in html.replace("http-equiv", "")
    assert "default-src &#x27;none&#x27;" in html


SHAPES: dict[str, Callable[[redis.client.Pipeline, str, int], object]] = {
    "string": lambda client, key, n: client.set(key, n if n % 3 == 0 else "x" * (n % 200), ex=None if n % 2 else 9999),
    "list": lambda client, key, n: client.rpush(key, *("y" * (n % 60) + str(i) for i in range(n + 1))),
    "set": lambda client, key, n: client.sadd(key, *(i * 7 if n % 2 else f"member {i}" for i in range(n + 1))),
    "zset": lambda client, key, n: client.zadd(key, {f"member {i}": i / 3 for i in range(n + 1)}),
    "hash": lambda client, key, n: client.hset(
        key, mapping={f"field {i}": f"{i}{'v' * (n % 70)}" for i in range(n + 1)}
    ),
    "stream": lambda client, key, n: [client.xadd(key, {"a": i, "text": "z" * (n % 50)}) for i in range(n + 1)],
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", SHAPES)
def test_memory_is_estimated(kind: str, binary: Binary, servers: ServerFactory) -> None:
    """By type, within a third of what the server has more than before, for keys small and large, packed and not."""
    source = servers(binary, rdbcompression="yes")
    client = source.client()
    before = client.info("memory")["used_memory"]
    with client.pipeline(transaction=False) as pipe:
        for number in range(4000):
            SHAPES[kind](pipe, f"{kind}:{number:06}", number // 20 if number % 20 == 0 else number % 20)
        pipe.execute()
    told = client.info("memory")["used_memory"] - before
    report = json.loads(run("decode", source.url, "-f", "stats", "--report", "json").out)
    estimated = report["types"][kind]["memory"]
    assert told / 1.33 < estimated < told * 1.33, (told, estimated, report["encodings"])
    assert report["total"]["memory"] == estimated == report["databases"]["0"]["memory"]


def test_compressed_files_and_pipes(some: Path, tmp_path: Path) -> None:
    """A .gz is decompressed; standard input is taken as it is."""
    packed = tmp_path / "some.rdb.gz"
    packed.write_bytes(gzip.compress(some.read_bytes()))
    plain = run("decode", some).out
    assert run("decode", packed).out == plain
    assert run("decode", "-", stdin=some).out == plain


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", os.EX_DATAERR, "empty"),
        (b"PK\x03\x04 a zip file", os.EX_DATAERR, "does not begin with REDIS"),
        (encode(SOME)[:-20], os.EX_DATAERR, "before its end mark"),
        (encode(SOME)[:-1] + b"\x00", os.EX_DATAERR, "CRC64"),
        (b"REDIS0099" + encode(SOME)[9:], os.EX_DATAERR, "not known"),
    ],
    ids=["empty", "foreign", "truncated", "checksum", "version"],
)
def test_bad_files_are_named(content: bytes, code: int, words: str, tmp_path: Path) -> None:
    """The exit code is 65, the message says what is wrong, and no output file appears."""
    file, output = tmp_path / "bad.rdb", tmp_path / "out.jsonl"
    file.write_bytes(content)
    ended = run("decode", file, "-o", output, expect=code)
    assert words in ended.err
    assert [each.name for each in tmp_path.iterdir()] == ["bad.rdb"]


def test_bad_places_are_named(some: Path, tmp_path: Path) -> None:
    """A directory, a missing file and a cut .gz have a message and an exit code of their own."""
    assert "is a directory" in run("decode", tmp_path, expect=os.EX_NOINPUT).err
    assert "cannot be opened" in run("decode", tmp_path / "none", expect=os.EX_NOINPUT).err
    packed = tmp_path / "cut.rdb.gz"
    packed.write_bytes(gzip.compress(some.read_bytes())[:-9])
    assert "is cut" in run("decode", packed, expect=os.EX_DATAERR).err
    assert "include_type: input should be" in run("decode", some, "-t", "tree", expect=os.EX_CONFIG).err


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    """`portd decode | head -1` ends with exit code 0 and no complaint."""
    file = tmp_path / "large.rdb"
    file.write_bytes(encode(Snapshot(False, 9, [Entry(0, b"k%d" % n, 0, b"v" * 1000) for n in range(2000)])))
    with subprocess.Popen(
        command("decode", file), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_SECONDS) == os.EX_OK


def test_sigterm_leaves_no_half_file(tmp_path: Path) -> None:
    """A decode that is ended while it waits for input removes what it has written."""
    output = tmp_path / "out.jsonl"
    with subprocess.Popen(
        command("decode", "-", "-o", output), stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        wait_for_sync(lambda: any(tmp_path.iterdir()), PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


ENDED = """
import os, signal, sys
from portd.files import outputs

def ended(*words):
    descriptor = create(*words)
    os.kill(os.getpid(), signal.SIGTERM)
    return descriptor

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
create, os.open = os.open, ended
outputs.Output(sys.argv[1])
"""


def test_an_end_while_a_file_is_created_leaves_none(tmp_path: Path) -> None:
    """Nobody has it to be closed then."""
    done = subprocess.run([sys.executable, "-c", ENDED, tmp_path / "out"], check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_long_elements_take_no_more_memory(tmp_path: Path) -> None:
    """A value larger than what may be held passes through in parts, as base64, and comes out whole."""
    value = bytes(range(256)) * 80_000  # 20 MB
    file = tmp_path / "long.rdb"
    file.write_bytes(encode(Snapshot(False, 9, [Entry(0, b"long", 0, value)]), lzf=False))
    script = (
        "import resource, subprocess, sys\n"
        "code = subprocess.call(sys.argv[2:], stdout=open(sys.argv[1], 'wb'))\n"
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    out = tmp_path / "out"
    done = subprocess.run(
        [command()[0], "-c", script, out, *command("decode", file)],
        capture_output=True, timeout=PATIENCE_SECONDS, env=environment(), check=True,
    )  # fmt: skip
    code, peak = map(int, done.stdout.split())
    assert code == os.EX_OK
    assert peak < 80_000  # KiB
    assert text(json.loads(out.read_bytes())["value"]) == value


NASTY = "\x1b]0;title\x07\x9b31m\x7f\r"


@pytest.mark.parametrize("form", ["jsonl", "keys", "csv"])
def test_no_name_speaks_to_the_terminal(source: Server, form: str) -> None:
    """Whatever names and values hold, no control character but the ends of lines is written, and nothing is lost."""
    client = source.client()
    client.set(f"key{NASTY}", f"value{NASTY}")
    client.hset("hash", f"field{NASTY}", f"value{NASTY}")
    out = run("decode", source.url, "--format", form).out.decode()
    assert not [letter for letter in out if (ord(letter) < 0x20 and letter != "\n") or 0x7F <= ord(letter) < 0xA0], out
    if form == "csv":
        assert base64.b64encode(f"value{NASTY}".encode()).decode() in out
    else:
        assert f"key{NASTY}" in [json.loads(line).get("key") for line in out.splitlines()]


def test_no_cell_is_a_formula(source: Server) -> None:
    """What a spreadsheet would compute begins with an apostrophe, which is one to take away; numbers stay numbers."""
    names = ["=1+1", "+49", "-x", "@x", "\t=1", "'quoted", "-5", "-1.5e3", "plain", '=a,"b"', "a=b", "-"]
    source.client().sadd("set", *names)
    out = run("decode", source.url, "--format", "csv").out.decode()
    cells = [row["member"] for row in csv.DictReader(io.StringIO(out, newline=""))]
    assert sorted(cell.removeprefix("'") for cell in cells) == sorted(names)
    assert {cell for cell in cells if cell[0] in "=+-@\t"} == {"-5", "-1.5e3"}
