"""A real Prometheus on loopback, with the shipped alerts or others, and the files of `deploy/` that it reads.

It comes from Debian's package `prometheus`; tests that need it are skipped where it is missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import yaml

from tests.servers import PATIENCE_SECONDS, free_port, reap, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.process import Portd

DEPLOY = Path(__file__).parents[1] / "deploy"
ALERTS = DEPLOY / "alerts.yml"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)"
)


def shipped_rules() -> list[dict[str, Any]]:
    """The rules of deploy/alerts.yml, in their order."""
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def impatient_rules() -> list[dict[str, Any]]:
    """The same expressions, which need not hold for as long."""
    return [{**rule, "for": "1s"} if "for" in rule else rule for rule in shipped_rules()]


class Prometheus:
    """One Prometheus that watches some portds; a context manager that leaves no process behind.

    Args:
        watched: they are asked once a second, and have that long to answer.
        rules: alerts.
    """

    def __init__(self, *watched: Portd, rules: Iterable[Mapping[str, Any]] = ()) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="prometheus-test-")
        here = Path(self._directory.name)
        self._log = here / "log"
        self.address = f"127.0.0.1:{free_port()}"
        (here / "rules.yml").write_text(
            json.dumps({"groups": [{"name": "test", "interval": "250ms", "rules": [*rules]}]})
        )
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "rule_files": [str(here / "rules.yml")],
            "scrape_configs": [
                {"job_name": "portd", "static_configs": [{"targets": [each.http for each in watched]}]},
            ],
        }
        (here / "prometheus.yml").write_text(json.dumps(config))
        self._command = [
            "prometheus",
            f"--config.file={here / 'prometheus.yml'}",
            f"--storage.tsdb.path={here / 'data'}",
            f"--web.listen-address={self.address}",
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for_sync(self._ready, dump=self._said)
        wait_for_sync(lambda: self.query("up"), dump=self._said)  # it begins to ask some seconds behind its start
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.terminate()
            reap(self._process)
        self._directory.cleanup()

    def _said(self) -> str:
        return self._log.read_text(errors="replace")

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._said()
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=PATIENCE_SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **words: str) -> Any:
        """The data of an answer of its API."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now."""
        result: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return result

    def firing(self) -> dict[str, dict[str, Any]]:
        """The alerts that fire, by name; one of each."""
        alerts = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}

    def until_firing(self, *names: str) -> dict[str, dict[str, Any]]:
        """Waits until each of these alerts has been seen firing, by a call before where it is over; each as it was then."""
        seen = self._seen

        def looked() -> bool:
            seen.update(self.firing())
            return set(names) <= set(seen)

        wait_for_sync(looked, dump=lambda: f"missing: {set(names) - set(seen)}; {self.ask('alerts')}\n{self._said()}")
        return seen
