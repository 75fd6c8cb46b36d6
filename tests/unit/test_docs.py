"""Documents and deploy files say what the code does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperGroup

from portd import errors
from portd.cli.app import COMMANDS, build
from portd.cli.manual import commands_page
from portd.cli.reference import alerts_table, configuration_page, metrics_page, modules_page
from portd.config.load import load_links, load_settings
from portd.config.settings import SETTINGS, default
from portd.http.handlers import ENDPOINTS
from portd.memory.plan import plan_memory
from portd.verify.report import EXIT_DIFFERENT

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("index.md", "quickstart.md", "operations.md", "check.md", "verify.md", "dump.md", "restore.md", "decode.md")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
UNIT = (ROOT / "deploy/portd.service").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def unit_settings() -> dict[str, list[str]]:
    """The lines of the systemd unit by name."""
    found: dict[str, list[str]] = {}
    for line in UNIT.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def compose_service(name: str) -> str:
    """The lines of one service of the compose file."""
    found = re.search(rf"^  {name}:\n((?:    .*\n|\n)+)", COMPOSE, re.MULTILINE)
    assert found, name
    return found[1]


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("configuration.md", configuration_page),
        ("metrics.md", metrics_page),
        ("modules.md", modules_page),
        ("commands.md", commands_page),
    ],
    ids=["settings", "metrics", "modules", "commands"],
)
def test_generated_pages_are_up_to_date(name: str, page: object) -> None:
    """A changed setting, series or module changes its page: run `portd reference configuration|metrics|modules|commands`."""
    assert callable(page)
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page()


def test_the_table_of_alerts_is_up_to_date() -> None:
    """A changed alert changes what operators read about it: put what `portd reference alerts` prints between the marks."""
    begin = OPERATIONS.index("| alert |")
    assert OPERATIONS[begin : OPERATIONS.index("<!-- Up to here. -->")] == alerts_table()


def rooms() -> set[str]:
    """What stands directly in the package, and every room of a room, as docs/architecture.md names them."""
    package = ROOT / "portd"
    modules = {f"portd/{path.name}" for path in package.glob("*.py") if path.name != "__init__.py"}
    return modules | {f"{path.parent.relative_to(ROOT)}/" for path in package.rglob("*/__init__.py")} - {"portd/"}


def test_every_room_has_its_line() -> None:
    """The table "Where is what" names what there is, once, and nothing else."""
    table = ARCHITECTURE[ARCHITECTURE.index("## Where is what") : ARCHITECTURE.index("## The kernel")]
    named = re.findall(r"`(portd/[^`]*)`", "\n".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)))
    assert sorted(named) == sorted(rooms())


def test_every_module_says_what_it_is() -> None:
    """No line of docs/modules.md is empty: a module begins with a docstring, a declaration file with a comment."""
    lines = [line for line in modules_page().splitlines() if line.startswith("* ")]
    assert len(lines) > len(rooms())
    assert [line for line in lines if not re.match(r"\* `[^`]+`: \S.*[.?!)]$", line)] == []


def test_the_way_of_a_byte_names_what_there_is() -> None:
    """Each `Class.method` of the drawing is in the code, in one file."""
    begin = ARCHITECTURE.index("## The way of a byte")
    drawing = ARCHITECTURE[begin : ARCHITECTURE.index("## Words")]
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "portd").rglob("*.py*") if path.suffix != ".pyc"]
    named = set(re.findall(r"\b([A-Z]\w+)\.([a-z_]+)\b", drawing))
    assert len(named) > 15
    for owner, method in named:
        assert any(
            re.search(rf"^(?:cdef )?class {owner}\b", text, re.MULTILINE) and re.search(rf"\bdef {method}\(", text)
            for text in sources
        ), f"{owner}.{method}"


def test_the_readme_has_two_commands_to_begin_with() -> None:
    """One runs the demo, one passes the tests, and neither needs anything before it."""
    commands = re.findall(r"```sh\n(python3 -m venv .+)\n```", README)
    assert len(commands) == 2
    assert commands[0].endswith("portd demo")
    assert commands[1].endswith("pytest")
    assert all("pip install -e" in command for command in commands)


def test_links_between_documents_lead_somewhere() -> None:
    """A link to a file of the repository names one that is there."""
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_first_hour_names_what_there_is() -> None:
    """Files, stages and commands of CONTRIBUTING.md are there: nobody's first hour ends at a name of last year."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"(?<![\w.])((?:portd|tests|docs|\.ci)/[\w./-]*)", text))
    assert len(paths) > 25
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    stages = subprocess.run([ROOT / ".ci/run", "--list"], capture_output=True, text=True, check=True).stdout.split()
    named = {word for words in re.findall(r"^\.ci/run ([a-z ]+)$", text, re.MULTILINE) for word in words.split()}
    assert named
    assert named <= set(stages)


def test_every_endpoint_is_documented() -> None:
    """The table of operations.md has exactly the routes there are."""
    table = OPERATIONS[: OPERATIONS.index("## What to watch")]
    assert set(re.findall(r"^\| `(/[^`]*)` \|", table, re.MULTILINE)) == set(ENDPOINTS)


def test_every_exit_code_is_documented_and_known_to_the_unit() -> None:
    """Codes of errors are in operations.md, and systemd does not restart what cannot work."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.PortdError)]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", OPERATIONS, re.MULTILINE)}
    assert {each.exit_code for each in classes} | {os.EX_OK, EXIT_DIFFERENT, os.EX_USAGE} == documented
    (line,) = unit_settings()["RestartPreventExitStatus"]
    hopeless = {os.EX_USAGE, os.EX_DATAERR, os.EX_NOPERM, os.EX_CONFIG}
    assert {int(code) for code in line.split()} == hopeless


def test_series_in_the_documents_exist() -> None:
    """An alert copied from the documents watches something."""
    known = set(re.findall(r"`(portd_\w+)`", metrics_page()))
    for path in (ROOT / "README.md", *(ROOT / "docs" / name for name in PAGES), *(ROOT / "docs/guides").glob("*.md")):
        assert set(re.findall(r"\b(portd_[a-z_]+)\b", path.read_text(encoding="utf-8"))) <= known, path


def test_commands_and_flags_in_the_guides_exist() -> None:
    """A line that somebody copies from a page is one that portd takes: each command, and each flag of it."""
    app = typer.main.get_command(build(COMMANDS))
    assert isinstance(app, TyperGroup)
    for path in (ROOT / "README.md", *(ROOT / "docs" / name for name in PAGES), *(ROOT / "docs/guides").glob("*.md")):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, words in re.findall(r"(?<![\w/.-])(?<!SETUSER )portd ([a-z]+)\b([^`\n#]*)", "\n".join(_code(text))):
            assert name in app.commands, f"{path.name}: portd {name}"
            flags = {"--help"} | {flag for each in app.commands[name].params for flag in each.opts}
            assert set(re.findall(r"(?<=\s)--[a-z-]+", words)) <= flags, f"{path.name}: portd {name}{words}"


def test_servers_are_primaries_and_replicas() -> None:
    """No text of ours has the old words; what servers themselves say and call things is quoted."""
    pages = [path.read_text(encoding="utf-8") for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]]
    for text in [*pages, OPERATIONS, (ROOT / "deploy/alerts.yml").read_text(encoding="utf-8")]:
        words = re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
        assert re.findall(r"\b(?:master|slave)s?\b.*", words, re.IGNORECASE) == []


def _code(text: str) -> list[str]:
    """What stands in backticks, and in blocks."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def test_the_example_of_several_links_can_be_read() -> None:
    """deploy/portd.toml is settings as they are, and its links fit into its budget."""
    links = load_links({}, ROOT / "deploy/portd.toml")
    assert [each.link for each in links] == ["eu", "us"]
    for each in links:
        plan_memory(each, None, len(links))


def test_the_unit_leaves_time_to_drain() -> None:
    """TimeoutStopSec is longer than drain_seconds, so that systemd does not kill what is being finished."""
    (stop,) = unit_settings()["TimeoutStopSec"]
    assert int(stop) >= default("drain_seconds") + 10


def test_the_unit_is_one_systemd_accepts(tmp_path: Path) -> None:
    """Type=notify with a watchdog, a memory limit and credentials; verified by systemd where it is installed."""
    settings = unit_settings()
    for name, value in {"Type": "notify", "MemoryMax": "128M", "DynamicUser": "yes", "NoNewPrivileges": "yes"}.items():
        assert settings[name] == [value]
    assert settings["WatchdogSec"]
    assert {line.split(":")[0] for line in settings["LoadCredential"]} >= {"source_password", "target_password"}
    if shutil.which("systemd-analyze"):
        for name in ("portd.service", "portd@.service"):
            copy = tmp_path / name.replace("@", "@eu")
            text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
            copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
            shown = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
            assert (shown.returncode, shown.stderr) == (0, ""), name


def test_the_unit_of_a_standby_differs_in_what_its_drop_in_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets what portd reads, and nothing that the unit does not have."""
    text = (ROOT / "deploy/portd.service.d/standby.conf").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "[Service]"
    assert {line.split("=")[0] for line in lines[1:]} <= unit_settings().keys()
    (variable,) = [line.removeprefix("Environment=") for line in lines if line.startswith("Environment=")]
    monkeypatch.setenv(*variable.split("="))
    assert load_settings({"source": "redis://a", "target": "redis://b"}, None).standby


def test_the_unit_of_a_link_differs_in_names_alone() -> None:
    """What hardens and limits one process does so for each of several, and none shares a directory with another."""
    of_link = (ROOT / "deploy/portd@.service").read_text(encoding="utf-8")
    parts: dict[str, dict[str, list[str]]] = {UNIT: {}, of_link: {}}
    for text, found in parts.items():
        for line in text.splitlines():
            if "=" in line and not line.startswith("#"):
                found.setdefault(line.partition("=")[0], []).append(line.partition("=")[2])
    one, many = parts.values()
    differ = {name for name in one.keys() | many.keys() if one.get(name) != many.get(name)}
    assert differ == {"Description", "ExecStart", "LoadCredential", "StateDirectory", "RuntimeDirectory"}
    for name in differ:
        assert all("%i" in value for value in many[name]), name


def test_a_reload_reads_the_file_that_was_changed() -> None:
    """The file of --config is no copy that systemd made at the start: SIGHUP would read the old one for ever."""
    for name in ("portd.service", "portd@.service"):
        text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
        assert "ExecReload=/bin/kill -HUP $MAINPID" in text
        (file,) = re.findall(r"^ExecStart=.* --config (\S+)", text, re.MULTILINE)
        assert file.startswith("/etc/portd/")
        assert f":{file}" not in text


def test_compose_starts_all_five() -> None:
    """Source, target, portd with a memory limit, Prometheus and Grafana that show it; only loopback is published."""
    names = re.findall(r"^  (\w+):$", COMPOSE.split("\nvolumes:")[0], re.MULTILINE)
    assert names == ["source", "target", "portd", "prometheus", "grafana"]
    portd = compose_service("portd")
    assert "PORTD_SOURCE: redis://source:6379" in portd
    assert "PORTD_TARGET: redis://target:6379" in portd
    assert "mem_limit: 128m" in portd
    assert portd.count("condition: service_healthy") == 2
    for port in re.findall(r'- "([\d.:]+)"', COMPOSE):
        assert port.startswith("127.0.0.1:")
    assert '"portd:8899"' in (ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8")
    for variable in re.findall(r"PORTD_(\w+)", COMPOSE + (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")):
        assert variable.lower() in SETTINGS


def test_compose_mounts_what_is_there() -> None:
    """Each file that a container is given is in the repository, and stands where the file that names it looks for it."""
    services = yaml.safe_load(COMPOSE)["services"]
    mounted: dict[str, str] = {}
    for service in ("prometheus", "grafana"):
        for line in services[service]["volumes"]:
            here, there, mode = line.split(":")
            assert (ROOT / here).is_file(), here
            assert mode == "ro"
            mounted[there] = here
    (rules,) = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8"))["rule_files"]
    assert mounted[rules] == "./deploy/alerts.yml"
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/dashboards.yml").read_text(encoding="utf-8"))["providers"]
    assert mounted[f"{provider['options']['path']}/portd.json"] == "./deploy/grafana.json"
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/datasource.yml").read_text(encoding="utf-8"))["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")


def test_yaml_has_no_tabs_and_even_indents() -> None:
    """What YAML forbids, or editors break silently, is not in our files."""
    for path in (ROOT / "docker-compose.yml", *(ROOT / "deploy").rglob("*.y*ml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert "\t" not in line
            assert (len(line) - len(line.lstrip(" "))) % 2 == 0
