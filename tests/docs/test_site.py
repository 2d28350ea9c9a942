"""The site that ./scripts/docs builds: without a warning, without network, with all that it should say."""

import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgeopt import errors
from scripts.pages.subject import command as command_tree
from tests.environments import ROOT

KNOWN_TAGS = {
    "a", "article", "b", "body", "br", "button", "code", "details", "div", "em", "footer", "form", "h1", "h2", "h3", "h4", "h5",
    "h6", "head", "header", "hr", "html", "input", "label", "li", "link", "main", "meta", "nav", "ol", "p", "path", "pre",
    "script", "span", "strong", "style", "summary", "svg", "table", "tbody", "td", "th", "thead", "title", "tr", "ul",
}  # fmt: skip
NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}


class Page(HTMLParser):
    """What a page is made of: tags, what it loads, where it leads, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        named: dict[str, Any] = dict(attrs)
        self.ids.add(named.get("id", ""))
        self.loads += [named[key] for key in ("src", "href") if key in named and tag != "a"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Every page by its place."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    variables = os.environ | NO_NETWORK | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}


@pytest.mark.slow
def test_the_site_fetches_nothing(site: dict[str, Page]) -> None:
    loaded = {address for page in site.values() for address in page.loads}
    assert loaded
    assert [address for address in loaded if re.match(r"(https?:)?//", address)] == []


@pytest.mark.slow
def test_nothing_of_a_text_is_taken_for_html_or_left_as_markdown(site: dict[str, Page]) -> None:
    for name, page in site.items():
        assert page.tags <= KNOWN_TAGS, name
        for sign in ("```", "](", ":class:", ":func:", "::: "):
            assert sign not in page.text, (name, sign)


@pytest.mark.slow
def test_every_page_of_docs_is_there(site: dict[str, Page]) -> None:
    wanted = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert wanted | {"project/changelog.html", "project/contributing.html", "project/security-policy.html"} <= set(site)


def commands(group: Any, path: str) -> list[tuple[str, Any]]:
    inner = getattr(group, "commands", {})
    return [(path, group), *(one for name, command in inner.items() for one in commands(command, f"{path} {name}"))]


@pytest.mark.slow
def test_every_command_and_option_is_in_the_reference(site: dict[str, Page]) -> None:
    page = site["reference/command-line.html"]
    found = commands(command_tree(), "edgeopt")
    assert len(found) >= 13
    for path, command in found:
        assert path.replace(" ", "-") in page.ids
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(option in page.text for option in parameter.opts)
                assert " ".join((parameter.help or "").split()) in page.text


@pytest.mark.slow
def test_every_target_setting_and_source_is_in_the_reference(site: dict[str, Page]) -> None:
    page = site["reference/targets.html"]
    for path in sorted((ROOT / "targets").glob("*.toml")):
        assert path.stem in page.ids
        for key, source in tomllib.loads(path.read_text(encoding="utf-8"))["sources"].items():
            assert " ".join(source.split()) in page.text, (path.name, key)


@pytest.mark.slow
def test_every_error_is_in_the_reference_with_its_code(site: dict[str, Page]) -> None:
    text = " ".join(site["reference/errors.html"].text.split())
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.EdgeoptError) and kind is not errors.EdgeoptError:
            assert re.search(rf"\b{name} {kind.__mro__[1].__name__} {kind.exit_code} ", text), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("python", ["edgeopt.export", "edgeopt.Model", "edgeopt.Bundle", "edgeopt.load", "edgeopt.placeholder"]),
        ("python-compress", ["edgeopt.compress.Channels", "edgeopt.compress.Trainer", "edgeopt.compress.fine_tune"]),
        ("python-coreml", ["edgeopt.coreml.load", "edgeopt.coreml.Evaluator"]),
        ("python-core", ["edgeopt.core.Manifest", "edgeopt.core.TargetResult.status", "edgeopt.core.TensorSpec.zero_point"]),
        ("errors", ["edgeopt.errors.EdgeoptError", "edgeopt.errors.worst_of"]),
    ],
)
def test_what_python_code_imports_is_in_the_reference(page: str, names: list[str], site: dict[str, Page]) -> None:
    assert set(names) <= site[f"reference/{page}.html"].ids
