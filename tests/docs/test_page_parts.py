"""What the pages are made with: texts that stay as they are, links that lead to the same page, commands of any depth."""

import re
from html import unescape

import click
import pytest
from markdown import markdown

from scripts.pages import command_line, hooks
from scripts.pages.text import code, escaped, table

AWKWARD = r"MODEL <str> | *all* `x` __a__ [b](c) {name: number} \d ~~e~~ # f && &amp; http://x.y"


def shown(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_a_text_is_shown_as_it_is() -> None:
    extensions = ["tables", "attr_list"]
    assert shown(markdown(escaped(AWKWARD), extensions=extensions)) == AWKWARD
    html = markdown(table(("a", "b"), [(code(AWKWARD), escaped(AWKWARD))]), extensions=extensions)
    assert re.findall(r"<td>(.*?)</td>", html) != []
    assert [shown(cell) for cell in re.findall(r"<td>(.*?)</td>", html)] == [AWKWARD, AWKWARD]


def test_a_table_without_rows_is_nothing() -> None:
    assert table(("a", "b"), []) == ""


@pytest.mark.parametrize(
    ("link", "origin", "uri", "led"),
    [
        ("docs/trust.md", "SECURITY.md", "project/security-policy.md", "../trust.md"),
        ("docs/howto/index.md", "CHANGELOG.md", "project/changelog.md", "../howto/index.md"),
        ("SECURITY.md", "CONTRIBUTING.md", "project/contributing.md", "security-policy.md"),
        ("../../CONTRIBUTING.md", "docs/howto/extend.md", "howto/extend.md", "../project/contributing.md"),
        ("../tour.md", "docs/howto/extend.md", "howto/extend.md", "../tour.md"),
        ("bench.md", "docs/tour.md", "tour.md", "bench.md"),
    ],
)
def test_a_link_leads_to_the_same_file_on_the_site(link: str, origin: str, uri: str, led: str) -> None:
    assert hooks.led(link, origin, uri) == led


def test_only_a_link_s_file_is_rewritten() -> None:
    class File:
        src_uri = "howto/extend.md"

    class Page:
        file = File

    text = "[a](../../CONTRIBUTING.md#a-new-format) [b](#here) [c](https://x.y/z) `f(x)`"
    wanted = "[a](../project/contributing.md#a-new-format) [b](#here) [c](https://x.y/z) `f(x)`"
    assert hooks.on_page_markdown(text, Page, None, None) == wanted


def test_commands_of_any_depth_have_a_section_and_hidden_ones_none() -> None:
    root, inner = click.Group("edgeopt", help="Root."), click.Group("devices", help="Devices.")
    root.add_command(inner)
    inner.add_command(click.Command("add", help="Add <one>.", params=[click.Option(["--name"], help="A | B.")]))
    inner.add_command(click.Command("secret", hidden=True))
    page = command_line.page(root)
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["edgeopt", "edgeopt devices", "edgeopt devices add"]
    assert "Add &#60;one&#62;." in page
    assert "A &#124; B." in page
    assert "secret" not in page
