"""Links and anchors of Markdown files, as GitHub shows them."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.environments import ROOT

_FENCED = re.compile(r"^(```+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)[^`]+?\1")
_HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)?$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE)


def pages() -> list[Path]:
    """Every Markdown file of the repository, not yet committed ones included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).exists())


def links(text: str) -> Iterator[str]:
    """What the links of ``text`` lead to, code aside."""
    bare = _FENCED.sub("", text)
    yield from _REFERENCE.findall(_CODE.sub("`", bare))
    yield from _LINK.findall(_CODE.sub("`", bare))


def anchors(text: str) -> set[str]:
    """The anchors of the headings of ``text``; of several with one name the later ones are numbered."""
    found: dict[str, int] = {}
    names = set()
    for heading in _HEADING.findall(_FENCED.sub("", text)):
        slug = slug_of(heading)
        count = found.get(slug, 0)
        found[slug] = count + 1
        names.add(f"{slug}-{count}" if count else slug)
    return names


def slug_of(heading: str) -> str:
    """The anchor of a heading: its text in small letters, without signs, with hyphens for blanks."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def dead(page: Path) -> list[str]:
    """The relative links of ``page`` that lead to no file of the repository, or to no heading of it."""
    return [link for link in links(page.read_text(encoding="utf-8")) if _relative(link) and not _leads(page, link)]


def _relative(link: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE) is None


def _leads(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    inside = target.is_relative_to(ROOT) or target.is_relative_to(page.parent)
    if not inside or not target.exists() or link.startswith("/"):
        return False
    return not anchor or (target.suffix == ".md" and anchor in anchors(target.read_text(encoding="utf-8")))
