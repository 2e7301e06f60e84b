"""The Markdown of README and docs: its code blocks and links, for tests that hold them true.

What the words after a block's language mean is told in CONTRIBUTING.md.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block: ``words`` are those behind its language."""

    path: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page that an operator or a developer reads."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(language: str = "", *words: str, path: Path | None = None) -> list[Block]:
    """Return the code blocks of all pages, or of one, in a language and with all of the words."""
    found = []
    for page in [path] if path else pages():
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            first, *rest = match["info"].split() or [""]
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, first, tuple(rest), match["text"]))
    return [block for block in found if language in {"", block.language} and set(words) <= set(block.words)]


def statements(block: Block) -> list[str]:
    """Return the statements of a block of SQL."""
    return [statement.strip() for statement in block.text.split(";\n") if statement.strip()]


def commands(block: Block) -> list[str]:
    """Return the command lines of a block."""
    return [line for line in block.text.splitlines() if line.strip()]


def links(path: Path) -> list[str]:
    """Return where the links of a page lead to."""
    return [match["target"] for match in _LINK.finditer(_FENCE.sub("", path.read_text(encoding="utf-8")))]


def anchors(path: Path) -> set[str]:
    """Return the anchors that the headings of a page give it, as GitHub and GitLab make them."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", match["text"].lower()).replace(" ", "-") for match in _HEADING.finditer(text)
    }


def run_script(script: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run commands of a page in a folder, in which the program finds its configuration by itself."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-e", "-c", script],
        env={**os.environ, "PATH": path, "HOME": str(folder), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
