"""What the site has beside this folder: the pages at the top of the repository, and the files to download.

Links stay as they are written, so that they lead somewhere in a clone as well.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
_SUFFIXES = {".json", ".yml", ".yaml", ".conf"}
_FOLDERS = (ROOT / "deploy", ROOT / "deploy/kubernetes", ROOT / "deploy/portd.service.d")
FILES = tuple(
    path.relative_to(ROOT).as_posix()
    for folder in _FOLDERS
    for path in sorted(folder.iterdir())
    if path.suffix in _SUFFIXES
)


def on_files(files: Files, config: Any) -> Files:
    """Adds them."""
    for name in (*PAGES, *FILES):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a clone become those of the site, which begins in docs/; to what it does not have, they become words."""
    if page.file.src_uri in PAGES:
        markdown = markdown.replace("](docs/design/)", "](docs/design/0001-the-path-of-a-byte.md)").replace(
            "](docs/", "]("
        )
    up = "(?:" + "|".join(re.escape(name) for name in (*PAGES, *FILES)) + ")"
    depth = page.file.src_uri.count("/")
    return re.sub(rf"\]\((?:\.\./){{{depth + 1}}}({up})", lambda found: "](" + "../" * depth + found[1], markdown)
