"""The documentation is true: code and examples run, rules have tests, links lead somewhere.

A page is one namespace: its blocks run in order. A ``text`` block after one of them is what it
prints. Where it names no clock it runs in virtual time, which begins at any number, as Trio's own
does; and it is over soon, because a reader runs it in real time.
"""

from __future__ import annotations

import doctest
import importlib
import logging
import re
import runpy
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock

ROOT = Path(__file__).parents[1]
LONG_DESCRIPTION = ROOT / "actp_supervise/README.md"  # what an index shows of the wheel
PAGES = sorted([*ROOT.glob("*.md"), LONG_DESCRIPTION, *ROOT.glob("docs/**/*.md")])
EXAMPLES = sorted({*ROOT.glob("examples/*.py")} - {ROOT / "examples" / "service.py"})
# The service runs until it is stopped: test_service_example.py tries it as a process.
DOCTESTED = sorted(
    path
    for folder in ("actp_supervise", "app")
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text()
)
REAL_TIME = {"run-a-process.md", "connect-an-mcp-server.md"}  # processes know no other
PATIENCE = 120.0  # seconds of virtual time that a program may take where it names no clock

BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
RULE = re.compile(r"^- .*", re.MULTILINE)
TEST = re.compile(r"`(test_\w+)`")
KEEPER = re.compile(r"\[`([\w.]+)`\]")  # the function that keeps a rule, as module.name
OUTSIDE = re.compile(r"https?://[^\s)>`\"']*")
LINK = re.compile(r"\[[^]]*\]\(([^)#]*)(?:#([^)]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def in_order(pages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def with_code(page):
    return BLOCK.search(page.read_text()) is not None


@pytest.fixture(autouse=True)
def logging_as_before():
    """Undo what a page about logs configures."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    logging.raiseExceptions = raises


@pytest.fixture
def virtual_time(monkeypatch):
    run = trio.run

    def run_soon(*args, clock=None):
        if clock is not None:
            return run(*args, clock=clock)
        clock = MockClock(autojump_threshold=0)
        clock.jump(1234.5)
        began = clock.current_time()
        result = run(*args, clock=clock)
        assert clock.current_time() - began <= PATIENCE, "let it name a MockClock"
        return result

    monkeypatch.setattr(trio, "run", run_soon)


@pytest.mark.parametrize("page", in_order(page for page in PAGES if with_code(page)))
def test_every_code_block_of_a_page_runs_and_prints_what_the_page_says(
    page, request, capsys, caplog
):
    if page.name not in REAL_TIME:
        request.getfixturevalue("virtual_time")
    text = page.read_text()
    namespace = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        # Padded, so that a traceback names the line of the page.
        padding = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(padding + block[1], page, "exec"), namespace)
        printed = capsys.readouterr().out
        assert printed == (block[2] or printed)
    assert warnings_of_the_library(caplog) == []


def warnings_of_the_library(caplog):
    """Return what it warns of, but for events: that a child hangs may be what a page shows."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("actp_supervise")
        and record.levelno == logging.WARNING
        and not hasattr(record, "path")
    ]


@pytest.mark.parametrize("module", in_order(DOCTESTED))
def test_what_a_docstring_shows_is_so(module):
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert failed == 0
    assert attempted > 0


@pytest.mark.parametrize("example", in_order(EXAMPLES))
def test_every_example_runs(example, virtual_time, capsys, caplog):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out
    assert warnings_of_the_library(caplog) == []


def test_every_rule_of_the_reference_names_a_test_that_exists():
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"def (test_\w+)", tests))
    untested, unknown = [], set()
    for page in (ROOT / "docs/reference").glob("*.md"):
        text = page.read_text()
        unknown |= set(TEST.findall(text)) - known
        if TEST.search(text):  # a page of rules
            untested += [rule for rule in RULE.findall(text) if not TEST.search(rule)]
    assert untested == []
    assert unknown == set()


@pytest.mark.parametrize("page", ["supervision", "scheduler", "asyncio-and-processes", "service"])
def test_every_rule_of_the_reference_names_the_function_that_keeps_it(page):
    text = (ROOT / "docs/reference" / f"{page}.md").read_text()
    rules = [rule for rule in RULE.findall(text) if TEST.search(rule)]
    assert [rule for rule in rules if not KEEPER.search(rule)] == []
    names = {name for rule in rules for name in KEEPER.findall(rule)}
    assert {name for name in names if not is_in_the_library(name)} == set()


def is_in_the_library(name):
    """Return whether ``module.Class.function`` exists in `actp_supervise`."""
    words = name.split(".")
    for count in range(len(words) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(["actp_supervise", *words[:count]]))
        except ModuleNotFoundError:
            continue
        attributes = words[count:]
        for attribute in attributes[:-1]:
            owner = getattr(owner, attribute, None)
        known = hasattr(owner, attributes[-1])
        return known or attributes[-1] in getattr(owner, "__annotations__", {})
    return False


@pytest.mark.parametrize("page", in_order(PAGES))
def test_every_link_of_a_page_leads_somewhere(page):
    dead = []
    for target, anchor in LINK.findall(FENCED.sub("", page.read_text())):
        if "://" in target:
            continue
        file = page if not target else (page.parent / target).resolve()
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", in_order(PAGES))
def test_every_address_outside_that_a_page_links_to_is_well_formed(page):
    bad = []
    for address in OUTSIDE.findall(FENCED.sub("", CODE.sub("", page.read_text()))):
        to = urlsplit(address)
        here = to.hostname in {"localhost", "127.0.0.1"}
        named = re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", to.hostname or "")
        if not (here and to.scheme == "http") and not (named and to.scheme == "https"):
            bad.append(address)
    assert bad == []


def test_the_links_of_the_long_description_hold_outside_of_the_checkout():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ROOT / project["readme"] == LONG_DESCRIPTION
    links = LINK.findall(FENCED.sub("", LONG_DESCRIPTION.read_text()))
    assert links
    assert [target for target, _ in links if not target.startswith("https://")] == []


def anchors_of(page):
    """Return the names that GitHub gives to the headings of a page."""
    titles = HEADING.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
