"""Settings: where they come from, what they refuse, and that no secret leaks."""

from __future__ import annotations

import os
import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from portd.config.choices import Existing
from portd.config.load import load_links, load_settings
from portd.config.settings import MAX_CHUNK_BYTES, SETTINGS
from portd.config.variables import check_variables
from portd.errors import ConfigError
from portd.units import GIB, KIB, MIB, human_bytes, human_seconds, parse_size, show_size
from tests import commands

ENDS = {"source": "redis://one:6379", "target": "redis://two:6379"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine decides a test."""
    for name in [*os.environ]:
        if name.startswith("PORTD_") or name in {"CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY"}:
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64k", 64 * KIB),
        ("64 KiB", 64 * KIB),
        ("16mib", 16 * MIB),
        ("1.5GiB", 3 * GIB // 2),
        ("2GB", 2_000_000_000),
        ("7b", 7),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    """A size is a number of bytes, or one with a binary or decimal unit."""
    assert size == parse_size(text)


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.2.3", "5 parsecs", "0x10", "1e6", "٣x"])
def test_nonsense_is_no_size(text: str) -> None:
    """What is not a size is refused, never guessed."""
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize("size", [0, 1, 1023, KIB, 1536, MIB, 3 * GIB, GIB + 1])
def test_a_shown_size_reads_back(size: int) -> None:
    """`show_size` loses nothing."""
    assert size == parse_size(show_size(size))


def test_human_units_have_three_digits() -> None:
    """Figures for people are short: three digits and a unit."""
    assert [human_bytes(size) for size in (0, 1023, 1024, 100_000, 1_000_000, 5_000_000)] == [
        "0 B",
        "1023 B",
        "1.00 KiB",
        "97.7 KiB",
        "977 KiB",
        "4.77 MiB",
    ]
    assert [human_seconds(seconds) for seconds in (0.005, 1.5, 245, 7800, 273_600)] == [
        "5 ms",
        "1.5 s",
        "4 min 05 s",
        "2 h 10 min",
        "3 d 4 h",
    ]


def test_flags_win_over_variables_over_credentials_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The four places a setting can come from have an order."""
    toml = tmp_path / "portd.toml"
    toml.write_text('source = "redis://toml"\ntarget = "redis://toml-target"\nwriters = 9\nlink = "toml"\n')
    (tmp_path / "source").write_text("redis://credential\n")
    assert load_settings({}, toml).source_endpoint().display == "redis://toml:6379"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_settings({}, toml).source_endpoint().display == "redis://credential:6379"
    monkeypatch.setenv("PORTD_SOURCE", "redis://variable")
    monkeypatch.setenv("PORTD_WRITERS", "5")
    assert load_settings({}, toml).source_endpoint().display == "redis://variable:6379"
    settings = load_settings({"source": "redis://flag"}, toml)
    assert (settings.source_endpoint().display, settings.writers, settings.link) == ("redis://flag:6379", 5, "toml")


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass empty variables for what is left out."""
    monkeypatch.setenv("PORTD_WRITERS", "")
    assert load_settings(ENDS).writers == 4


def test_toml_takes_names_as_flags_are_written(tmp_path: Path) -> None:
    """A name with dashes is the same setting, and sizes may be text."""
    toml = tmp_path / "portd.toml"
    toml.write_text('chunk-bytes = "2MiB"\nspool-dir = "off"\nexisting = "flush"\n')
    settings = load_settings(ENDS, toml)
    assert (settings.chunk_bytes, settings.spool_dir, settings.existing) == (2 * MIB, "off", Existing.FLUSH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("writers 4", "is not TOML"),
        ("writer = 4", "did you mean writers"),
        ("\x00", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A file that cannot be read as settings says why."""
    toml = tmp_path / "portd.toml"
    toml.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings(ENDS, toml)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """--config of a file that is not there is an error, not an empty file."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(ENDS, tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"source": "redis://one:6379", "target": "redis://one"}, "same server"),
        ({**ENDS, "source": "http://one"}, "source: .*scheme"),
        ({**ENDS, "target": "redis://two:99999"}, "target: "),
        ({**ENDS, "writers": "0"}, "writers: "),
        ({**ENDS, "writers": "many"}, "writers: "),
        ({**ENDS, "chunk_bytes": "1KiB"}, "chunk_bytes: "),
        ({**ENDS, "chunk_bytes": MAX_CHUNK_BYTES + 1}, "chunk_bytes: "),
        ({**ENDS, "command_bytes": "128KiB", "chunk_bytes": "64KiB"}, "command_bytes .* is larger than chunk_bytes"),
        ({**ENDS, "spool_dir": "off", "spool_max_bytes": "1GiB"}, "spool_dir is off"),
        ({**ENDS, "http": "8899"}, "not an address"),
        ({**ENDS, "http": "localhost:70000"}, "not an address"),
        ({**ENDS, "existing": "delete"}, "existing: "),
        ({**ENDS, "link": "a b"}, "link: "),
        ({**ENDS, "psync_command": "PSYNC 1"}, "psync_command: "),
        ({**ENDS, "silence_seconds": "0"}, "silence_seconds: "),
        ({**ENDS, "source_tls_ca": "/ca.pem"}, "source: .*TLS"),
        ({**ENDS, "source": "rediss://one", "source_tls_key": "/key.pem"}, "source_tls_cert is not"),
        ({**ENDS, "source_password": "x", "source_password_file": "/p"}, "both set"),
        ({**ENDS, "target_password_file": "/nowhere/p"}, "target_password_file cannot be read"),
        ({**ENDS, "bogus": "1"}, "bogus is not a setting"),
    ],
)
def test_contradictions_are_refused_with_a_hint(flags: dict[str, object], message: str) -> None:
    """A setting that cannot work is refused at the start, with what to do about it."""
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(flags)
    assert caught.value.hint
    assert caught.value.exit_code == 78


def test_all_problems_are_told_at_once() -> None:
    """Nobody has to start portd once per mistake."""
    with pytest.raises(ConfigError) as caught:
        load_settings({"writers": "x", "chunk_bytes": "y"})
    for name in ("source", "target", "writers", "chunk_bytes"):
        assert name in str(caught.value)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Passwords appear in no repr, no shown setting and no message, wherever they came from."""
    (tmp_path / "password").write_text("hunter-file\nsecond line\n")
    settings = load_settings(
        {
            "source": "redis://user:hunter-url@one",
            "target": "redis://two",
            "target_password_file": tmp_path / "password",
        }
    )
    assert settings.target_endpoint().password == "hunter-file"
    assert "hunter" not in repr(settings) + str(settings) + str(settings.shown()) + repr(settings.target_endpoint())
    with pytest.raises(ConfigError) as caught:
        load_settings({"source": "redis://u:hunter@one:port", "target_password": "hunter", "writers": "0"})
    assert "hunter" not in str(caught.value)


def test_passwords_come_from_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential of systemd is named like its setting, with underscores or dashes."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "source_password").write_text("one\n")
    (tmp_path / "target-password").write_text("two")
    settings = load_settings(ENDS)
    assert (settings.source_endpoint().password, settings.target_endpoint().password) == ("one", "two")


def test_the_spool_goes_where_systemd_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit's state directory is used unless a setting says otherwise."""
    assert load_settings(ENDS).spool_directory() is not None
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/portd")
    assert Path("/var/cache/portd") == load_settings(ENDS).spool_directory()
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/portd:/var/lib/other")
    assert Path("/var/lib/portd") == load_settings(ENDS).spool_directory()
    assert Path("/data") == load_settings({**ENDS, "spool_dir": "/data"}).spool_directory()
    assert load_settings({**ENDS, "spool_dir": "off"}).spool_directory() is None


@pytest.mark.parametrize(
    ("text", "address"),
    [("off", None), ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8899", ("::1", 8899)), ("localhost:0", ("localhost", 0))],
)
def test_http_addresses(text: str, address: tuple[str, int] | None) -> None:
    """host:port, IPv6 in brackets, or off."""
    assert address == load_settings({**ENDS, "http": text}).http_address()


def test_every_setting_is_described() -> None:
    """Flags, reference and file share one text for each setting, so each has one."""
    for name, setting in SETTINGS.items():
        assert setting.metadata["description"].endswith("."), name
        assert setting.metadata["group"], name


def test_misspelt_variables_are_refused() -> None:
    """A PORTD_ variable that nothing reads is an error with the likely name; what a cluster or our tests set is none."""
    theirs = (
        "PORTD_SERVICE_HOST",
        "PORTD_SERVICE_PORT_HTTP",
        "PORTD_PORT",
        "PORTD_PORT_8899_TCP",
        "PORTD_TEST_SERVERS",
    )
    check_variables({"PORTD_WRITERS": "4", "PORTD_CONFIG": "x", "HOME": "/"} | dict.fromkeys(theirs, "x"))
    with pytest.raises(ConfigError, match=r"PORTD_WRITER is set .*\nHINT: did you mean PORTD_WRITERS"):
        check_variables({"PORTD_WRITER": "4"})
    for name in ("portd_writers", "Portd_Writer"):
        with pytest.raises(ConfigError, match=rf"{name} is set .*\nHINT: did you mean PORTD_WRITERS"):
            check_variables({name: "4"})
    with pytest.raises(ConfigError, match="PORTD_QQQQ, PORTD_ZZZZ"):
        check_variables({"PORTD_ZZZZ": "4", "PORTD_QQQQ": "secret"})


@pytest.mark.parametrize(
    "words",
    [
        ("sync", "--source", "redis://127.0.0.1:1", "--target", "redis://127.0.0.1:2"),
        ("check", "--source", "redis://127.0.0.1:1", "--target", "redis://127.0.0.1:2"),
        ("verify", "--source", "redis://127.0.0.1:1", "--target", "redis://127.0.0.1:2"),
        ("status", "--target", "redis://127.0.0.1:1"),
        ("restore", "file.rdb", "--target", "redis://127.0.0.1:1"),
        ("dump", "--source", "redis://127.0.0.1:1", "--output", "file.rdb"),
        ("decode", "redis://127.0.0.1:1"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_them(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """78, and what was meant, before anything is asked of a server."""
    monkeypatch.setattr(commands, "environment", lambda: {**os.environ, "PORTD_SOURCE_PASWORD": "hunter2"})
    ended = commands.run(*words, expect=os.EX_CONFIG)
    assert "did you mean PORTD_SOURCE_PASSWORD?" in ended.err
    assert "hunter2" not in ended.err


def test_settings_do_not_change() -> None:
    """A part cannot change what another one reads."""
    settings = load_settings(ENDS)
    with pytest.raises(FrozenInstanceError):
        settings.writers = 5  # type: ignore[misc]


def test_settings_can_be_handed_over() -> None:
    """What one program has read another one can run, secrets included."""
    settings = load_settings({**ENDS, "target_password": "hunter", "spool_dir": "/data", "existing": "skip"})
    assert pickle.loads(pickle.dumps(settings)) == settings


# ---------------------------------------------------------------- several links

TWO = """\
memory_budget = "20MiB"

[[link]]
name = "eu"
source = "redis://one"
target = "redis://two"
checkpoint_key = "cp:"
writers = 2

[[link]]
name = "us"
source = "redis://three"
target = "redis://two"
"""


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A file of two links."""
    file = tmp_path / "portd.toml"
    file.write_text(TWO)
    return file


def test_tables_make_links(tables: Path) -> None:
    """Each table is a link with what is set in it; what is outside is everybody's."""
    eu, us = load_links({"log_level": "debug"}, tables)
    assert (eu.link, eu.writers, eu.checkpoint_name()) == ("eu", 2, "cp:eu")
    assert (us.link, us.writers, us.source) == ("us", 4, "redis://three")
    assert eu.memory_budget == us.memory_budget == 20 * MIB
    assert eu.log_level == us.log_level == "debug"


def test_without_tables_there_is_one_link() -> None:
    """Nothing changes for who has one, whatever its name is."""
    assert [each.link for each in load_links(ENDS)] == ["default"]
    assert [each.link for each in load_links({**ENDS, "link": "eu"})] == ["eu"]


def test_one_of_several_links_can_be_named(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are about one link take its name; without it they say which there are."""
    assert load_settings({"link": "us"}, tables).source == "redis://three"
    assert [each.link for each in load_links({"link": "us"}, tables)] == ["us"]
    with pytest.raises(ConfigError, match="several links: eu, us"):
        load_settings({}, tables)
    with pytest.raises(ConfigError, match="no link named asia"):
        load_links({"link": "asia"}, tables)
    monkeypatch.setenv("PORTD_LINK", "eu")
    assert load_settings({}, tables).writers == 2
    assert load_settings({}, tables, {"source": "unix:///none"}).source == "unix:///none"


@pytest.mark.parametrize("place", ["flag", "variable", "credential"])
def test_what_is_set_for_nobody_in_particular_is_refused(
    place: str, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag, variable or credential of a link is no link's where there are tables."""
    flags = {"source_password": "hunter"} if place == "flag" else {}
    if place == "variable":
        monkeypatch.setenv("PORTD_SOURCE_PASSWORD", "hunter")
    if place == "credential":
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        (tmp_path / "source-password").write_text("hunter")
    with pytest.raises(ConfigError, match="belongs to a link") as caught:
        load_links(flags, tables)
    assert "hunter" not in str(caught.value)


def test_a_credential_can_be_a_links(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the link stands before that of the setting."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "us.target-password").write_text("hunter\n")
    (tmp_path / "source_password").write_text("")  # none: what the unit loads where none is needed
    eu, us = load_links({}, tables)
    assert (eu.target_password, us.target_password) == (None, "hunter")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("writers = 2", "link = 'x'", "number 1 .* sets link"),
        ('name = "us"\n', "", "number 2 .* has no name"),
        ('name = "us"', 'name = "eu"', "two links named eu"),
        ('name = "us"', 'name = "a b"', "link a b: link: string should match"),
        ("writers = 2", "writer = 2", "number 1 .* sets writer, which is not a setting"),
        ("writers = 2", "http = 'off'", "sets http, which belongs to the process"),
        ("writers = 2", "writers = 2000", "link eu: writers: "),
        ("memory_budget", "writers = 3\nmemory_budget", "sets writers outside of its .* tables"),
        ("[[link]]", "[link]", "two brackets|is not TOML"),
        (TWO, "link = []", "no link"),
        (TWO, '[link]\nname = "eu"\n', "two brackets"),
        ('"redis://three"', '"redis://two"', "link us: source and target are the same"),
        ('name = "us"\nsource = "redis://three"', 'name = "u"\nsource = "redis://a"\nexisting = "flush"', "u flushes"),
        (
            'source = "redis://three"\ntarget = "redis://two"',
            'source = "redis://two"\ntarget = "redis://one"',
            "copy in a circle",
        ),
        (TWO, TWO.replace("target =", "dead_letters = '/l'\ntarget ="), "one file for dead letters"),
    ],
)
def test_links_that_cannot_be_are_refused(tables: Path, before: str, after: str, message: str) -> None:
    """A wrong place, a name twice, or two links that would undo one another: said before anything is asked."""
    tables.write_text(TWO.replace(before, after))
    with pytest.raises(ConfigError, match=f"(?s){message}") as caught:
        load_links({}, tables)
    assert caught.value.hint


def test_one_checkpoint_is_one_links(tables: Path) -> None:
    """Two prefixes and two names can be one key: in one target that is an error, in two it is none."""
    text = TWO.replace('name = "us"', 'name = "u"\ncheckpoint_key = "cp:e"')
    tables.write_text(text)
    with pytest.raises(ConfigError, match="keep one checkpoint, 'cp:eu', in one target"):
        load_links({}, tables)
    tables.write_text(
        text.replace(
            'source = "redis://three"\ntarget = "redis://two"', 'source = "redis://three"\ntarget = "redis://4"'
        )
    )
    assert len(load_links({}, tables)) == 2
