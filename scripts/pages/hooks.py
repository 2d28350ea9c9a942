"""What mkdocs asks of this project: pages made while the site is built, and files of the repository's root as pages.

The pages of ``reference/`` are made from the code each time and lie in no folder, so that none can be out of date.
"""

import re
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from scripts.pages import command_line, failures, python_api, subject, targets  # noqa: E402

DOCS = "docs"
OF_THE_ROOT = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security-policy.md",
    "README.md": "index.md",
}
"""Files beside ``docs/`` and where a link to them leads on the site."""
_LINK = re.compile(r"(?<=\]\()([^()\s#:]+)(?=[)#])")
_ROLE = re.compile(r":(?:class|func|data|meth|mod|attr):(?=<code>|<a |`)")


def generated() -> dict[str, str]:
    """The pages that are made from the code, by their place on the site."""
    pages = {
        "command-line": command_line.page(subject.command()),
        "targets": targets.page(subject.profiles(), subject.settings, subject.source),
        "errors": failures.page(subject.errors),
        **python_api.pages(),
    }
    return {f"reference/{name}.md": text for name, text in pages.items()}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are no files of ``docs/``."""
    for uri, text in generated().items():
        files.append(File.generated(config, uri, content=text))
    for name, uri in OF_THE_ROOT.items():
        if uri not in files.src_uris:
            files.append(File.generated(config, uri, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads links to files of the root, and from these, to their pages."""
    uri = page.file.src_uri
    origin = next((name for name, place in OF_THE_ROOT.items() if place == uri and uri != "index.md"), f"{DOCS}/{uri}")
    return _LINK.sub(lambda link: led(link[1], origin, uri), markdown)


def led(link: str, origin: str, uri: str) -> str:
    """``link``, which the file ``origin`` of the repository has, as the page ``uri`` must have it."""
    target = normpath(PurePosixPath(origin).parent / link)
    place = OF_THE_ROOT.get(target) or target.removeprefix(f"{DOCS}/")
    return relpath(place, PurePosixPath(uri).parent) if place != target or not target.startswith("..") else link


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Docstrings name things as Sphinx does, ``:func:`export```: here the name alone is shown."""
    return _ROLE.sub("", html)
