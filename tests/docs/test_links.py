"""No Markdown file of the repository has a link that leads nowhere."""

from pathlib import Path

import pytest

from tests.docs import markdown
from tests.environments import ROOT


@pytest.mark.parametrize("page", markdown.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert markdown.dead(page) == []


def test_the_pages_that_people_read_are_among_them() -> None:
    names = {page.relative_to(ROOT).as_posix() for page in markdown.pages()}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/tour.md", "docs/howto/index.md"} <= names


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# What `ok` means\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#what-ok-means) [c](#here) [d](https://example.org/x) [e](other.md#twice-1)\n"
        "[f](gone.md) [g](other.md#gone) [`h`](#gone) [i](other.md#no-heading) `[j](code.md)`\n\n[k]: gone/too.md\n"
        "```\n[l](fenced.md)\n```\n"
    )
    assert sorted(markdown.dead(page)) == ["#gone", "gone.md", "gone/too.md", "other.md#gone", "other.md#no-heading"]


@pytest.mark.parametrize(
    ("heading", "slug"),
    [("What the figures mean", "what-the-figures-mean"), ("`--jobs N`, and why", "--jobs-n-and-why"), ("A & B", "a--b")],
)
def test_anchors_are_those_of_github(heading: str, slug: str) -> None:
    assert markdown.slug_of(heading) == slug
