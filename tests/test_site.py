"""`make docs` builds a whole site: no warning, no dead link, every public name, and a search."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inventory import InventoryFile
from test_architecture import ROOMS, public_names

ROOT = Path(__file__).parents[1]
OTHER_ROOMS = [f"actp_supervise.{name}" for name in ("cron", "snapshot")]
COMMAND = re.search(r"-m sphinx (.*) docs build/site$", (ROOT / "Makefile").read_text(), re.M)


class Page(HTMLParser):
    """The links of a page, and the names that others may link to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in {"href", "src"} and value:
                self.links.add(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *COMMAND[1].split(), "docs", place],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")
    return place


@pytest.fixture(scope="module")
def pages(site):
    return {path.resolve(): Page(path.read_text()) for path in site.rglob("*.html")}


def test_the_site_is_built_so_that_a_warning_is_a_failure():
    assert "--fail-on-warning" in COMMAND[1].split()


def test_every_link_of_the_site_leads_somewhere(pages):
    dead = []
    for page, content in pages.items():
        for link in content.links:
            to = urlsplit(link)
            if to.scheme or to.netloc:
                continue
            file = (page.parent / unquote(to.path)).resolve() if to.path else page
            anchor = unquote(to.fragment)
            anchors = pages[file].anchors if file in pages else set()
            if not file.is_file() or (anchor and anchor not in anchors):
                dead.append(f"{page.name}: {link}")
    assert dead == []


def test_every_page_of_the_documentation_is_in_the_site(pages, site):
    sources = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site.resolve()) for path in pages}
    assert {source.with_suffix(".html") for source in sources} - built == set()


@pytest.mark.parametrize("room", [*ROOMS, *OTHER_ROOMS])
def test_every_public_name_is_in_the_site_with_its_docstring(site, room):
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    known = {name for kind in inventory.data.values() for name in kind}
    # What a room exports and the library itself exports too is described there.
    places = {room, "actp_supervise"}
    names = public_names(importlib.import_module(room))
    assert names
    assert {n for n in names if not {f"{place}.{n}" for place in places} & known} == set()


def test_a_constant_is_described_by_the_string_below_it(site):
    described = (site / "reference/api/process.html").read_text()
    strings = ModuleAnalyzer.for_module("actp_supervise.process.output").find_attr_docs()
    assert strings["", "LAST_LINES"][0].partition("`")[0] in described
    assert int.__doc__.splitlines()[0] not in described


def test_the_site_can_be_searched(site):
    text = (site / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    page = index["docnames"].index("reference/supervision")
    found = [index[where].get("backoff", []) for where in ("terms", "titleterms")]
    assert page in [number for f in found for number in (f if isinstance(f, list) else [f])]
