"""Gathers the pages of the website and its navigation: ``python docs/website.py FOLDER``, or ``make site``.

Pages lie where they lie in a checkout, so that their links lead to the same places. The order of the
navigation is that of the index, docs/README.md.
"""

import re
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]

_FENCE = re.compile(r"^```(\w+) [^\n]*$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#\s]+\.md)\)")
_BEHIND = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_SHOWN = {".md", ".png", ".8", ".sh", ".json"}


def gather(folder: Path) -> None:
    """Write pages, pictures, and what pages link to into a folder, with a configuration for mkdocs."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    linked = [
        *ROOT.glob("*.md"),
        ROOT / "LICENSE",
        *(path for path in ROOT.glob("etc/**/*") if path.is_file()),
    ]
    for path in (*linked, *(path for path in ROOT.glob("docs/**/*") if path.suffix in _SHOWN)):
        copy = pages / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":  # words behind a block's language are for the tests, and unknown to mkdocs
            copy.write_text(_FENCE.sub(r"```\1", path.read_text()))
        else:
            shutil.copyfile(path, copy)
    settings = {
        "INHERIT": str(ROOT / "mkdocs.yml"),
        "docs_dir": str(pages),
        "site_dir": str(folder / "html"),
        "nav": navigation(),
    }
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False))


def navigation() -> list[object]:
    """Return the pages in the order of the index: the README, the others, the decisions."""
    index = ROOT / "docs" / "README.md"
    names = dict.fromkeys(_LINK.findall(index.read_text()))
    paths = [(index.parent / name).resolve() for name in names]
    front, decisions = ROOT / "README.md", index.with_name("adr")
    shown = [path for path in paths if path != front and path.parent != decisions]
    return [
        _entry(front),
        _entry(index),
        *(_entry(path) for path in shown),
        {"Decisions": [_entry(path) for path in paths if path.parent == decisions]},
        *(_entry(ROOT / name) for name in _BEHIND),
    ]


def _entry(page: Path) -> dict[str, str]:
    title = page.read_text().partition("\n")[0].removeprefix("# ")
    return {title: str(page.relative_to(ROOT))}


if __name__ == "__main__":
    gather(Path(sys.argv[1]).resolve())
