"""The documents as a site: made as CI makes it, and what is wrong in them is not passed over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import PATIENCE_SECONDS

pytest.importorskip("mkdocs", reason="needs mkdocs-material")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the site is made of."""
    for name in ("docs", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def build(tree: Path) -> subprocess.CompletedProcess[str]:
    """As the stage does."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tree / "site"],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_the_site_has_the_pages_and_the_files_to_download(tree: Path) -> None:
    """Guides, reference, changes, and alerts and dashboard beside them, where the pages say."""
    shown = build(tree)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for page in ("index.html", "guides/cut-over/index.html", "metrics/index.html", "CHANGELOG/index.html"):
        assert (tree / "site" / page).is_file(), page
    operations = (tree / "site/operations/index.html").read_text(encoding="utf-8")
    for name in ("deploy/alerts.yml", "deploy/grafana.json"):
        assert (tree / "site" / name).is_file()
        assert f'href="../{name}"' in operations
    guide = (tree / "site/guides/watch/index.html").read_text(encoding="utf-8")
    assert 'href="../../deploy/alerts.yml"' in guide
    assert "fonts.googleapis" not in guide


@pytest.mark.parametrize(
    "text",
    ["[gone](nowhere.md)", "[gone](operations.md#no-such-chapter)", "[gone](../deploy/no-such-file.yml)"],
    ids=["page", "chapter", "file"],
)
def test_a_link_that_leads_nowhere_fails(tree: Path, text: str) -> None:
    """A page, a chapter or a file that is not there ends the stage."""
    with (tree / "docs/quickstart.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{text}\n")
    assert build(tree).returncode != 0


def test_a_page_that_nobody_finds_fails(tree: Path) -> None:
    """Each page stands in the list of pages."""
    (tree / "docs/guides/lost.md").write_text("# Lost\n")
    assert build(tree).returncode != 0
