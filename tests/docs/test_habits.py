"""CI, the hooks before a commit, issue forms and the changelog: they name only what there is, and nothing that moves."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.environments import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
HOOKS = ROOT / ".pre-commit-config.yaml"
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
_SCRIPT = re.compile(r"(?<![\w./-])\./([\w./-]+)")
KINDS_OF_CHANGE = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps() -> list[dict[str, Any]]:
    return [step for job in read(WORKFLOW)["jobs"].values() for step in job["steps"]]


def hooks() -> list[dict[str, Any]]:
    return [hook for repository in read(HOOKS)["repos"] for hook in repository["hooks"]]


def test_ci_and_hooks_call_scripts_that_there_are() -> None:
    lines = [step["run"] for step in steps() if "run" in step] + [hook["entry"] for hook in hooks()]
    called = {script for line in lines for script in _SCRIPT.findall(line)}
    assert {".ci/run", "scripts/docs", "scripts/lint", "scripts/test"} <= called
    for script in called:
        assert os.access(ROOT / script, os.X_OK), script


def test_actions_have_versions_and_the_workflow_may_only_read() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used
    assert [one for one in used if not re.search(r"@v\d+\.\d+\.\d+$", one)] == []
    assert read(WORKFLOW)["permissions"] == {"contents": "read"}


def test_hooks_are_this_repository_s_own() -> None:
    assert [repository["repo"] for repository in read(HOOKS)["repos"]] == ["local"]
    assert {hook["stages"][0] for hook in hooks()} == set(read(HOOKS)["default_install_hook_types"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_each_thing_once(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= set(form)
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in asked]
    assert len(names) == len(set(names))
    assert all(field["attributes"]["label"] for field in asked)


def test_a_bug_report_has_what_a_fault_is_found_with() -> None:
    fields = {field.get("id") for field in read(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    assert {"command", "message", "doctor", "manifest"} <= fields


def sections() -> dict[str, str]:
    """The changelog's sections by the text of their heading."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))


def test_the_changelog_begins_with_what_is_unreleased_and_has_this_version() -> None:
    headings = list(sections())
    assert headings[0] == "[Unreleased]"
    assert [one for one in headings[1:] if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", one)] == []
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    has_section = any(one.startswith(f"[{version}]") for one in headings)
    assert has_section or f"become {version}" in sections()["[Unreleased]"]


def test_changes_stand_under_the_kinds_of_keep_a_changelog() -> None:
    for heading, text in sections().items():
        kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
        assert kinds and set(kinds) <= KINDS_OF_CHANGE and len(kinds) == len(set(kinds)), heading
