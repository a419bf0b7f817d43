"""The README is true: its table of errors is the package's; links lead somewhere, in every document."""

from __future__ import annotations

import re

import pytest
from blocks import DOCUMENTS, ROOT, rows, section

from keypool_asgi.errors import ERROR_TABLE

README = (ROOT / "README.md").read_text(encoding="utf-8")

LONGEST = 310


def test_it_is_short() -> None:
    assert README.count("\n") <= LONGEST, "what needs more room has a page in docs/"


def test_the_table_of_errors_is_the_packages() -> None:
    told = {code.strip("`"): (int(status), when) for status, code, when in rows(section("README.md", "Errors"))}
    assert told == {code: (row.status, row.when) for code, row in ERROR_TABLE.items()}


def test_every_page_is_linked() -> None:
    pages = [name for name in DOCUMENTS if name.startswith("docs/")]
    assert pages
    assert [name for name in pages if f"({name})" not in section("README.md", "More")] == []


def anchors(text: str) -> set[str]:
    """The names by which GitHub links to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if "://" not in link and not (
            target.exists() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))
        ):
            broken.append(link)
    assert broken == []
