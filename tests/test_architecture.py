"""What the library exports, what importing it costs, and that the reference names it all.

Who may import whom is checked by import-linter (``make lint``).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import os
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

import actp_supervise
from actp_supervise import (
    Backoff,
    Child,
    Job,
    RestartLimit,
    Scheduler,
    Supervisor,
    open_scheduler,
    open_supervisor,
)
from actp_supervise.events import Event
from actp_supervise.process import process_child

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "actp_supervise"
ROOMS = ["actp_supervise", *(f"actp_supervise.{name}" for name in ("events", "clock", "bridge"))]
ROOMS += ["actp_supervise.process", "actp_supervise.service", "actp_supervise.testing"]
TREE = ["policies", "errors", "events", "snapshot", "child", "group", "engine", "nursery"]


def public_names(module):
    """Return what a module defines, or says it exports."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and (inspect.isclass(value) or inspect.isfunction(value))
    }


def test_importing_the_library_loads_neither_asyncio_nor_trio_asyncio():
    program = "import sys, actp_supervise; print([n for n in sys.argv[1:] if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program, "trio", "asyncio", "trio_asyncio"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['trio']\n"


def test_the_terminal_s_commands_load_neither_a_store_nor_a_server_nor_the_sdk():
    program = (
        "import sys, app.terminal.tail, app.terminal.task, app.terminal.watch\n"
        "print([n for n in sys.argv[1:] if n in sys.modules])"
    )
    # Coverage, where it is measured, has a database of its own.
    environ = {n: value for n, value in os.environ.items() if not n.startswith("COVERAGE_")}
    heavy = ["app.store.open", "sqlite3", "supabase", "quart", "hypercorn", "anthropic", "asyncio"]
    done = subprocess.run(
        [sys.executable, "-c", program, "app.settings", *heavy],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environ,
    )
    assert done.stdout == "['app.settings']\n"


def test_all_names_what_the_library_exports_and_nothing_else():
    exported = {
        name
        for name, value in vars(actp_supervise).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert exported == set(actp_supervise.__all__)
    assert actp_supervise.__all__ == sorted(actp_supervise.__all__)


def test_no_module_imports_an_underscore_name_of_another():
    """That none is reached for as an attribute is ruff's to find (SLF)."""
    taken = [
        f"{path.relative_to(ROOT)}: {alias.name}"
        for package in ("actp_supervise", "app")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert taken == []


@pytest.mark.parametrize(
    ("insides", "file"),
    [
        (r"cronsim\.cronsim|\bRANGES\b", "cronfields.py"),
        (r"hypercorn\.(app_wrappers|config|events|protocol|trio|utils)", "service/connection.py"),
        (
            r"\b(_q_send|_q_recv|_asyncgens|_unregister_task|_log_destroy_pending)\b",
            "bridge/handles.py",
        ),
    ],
)
def test_the_insides_of_a_dependency_stand_in_one_file(insides, file):
    users = {
        path.relative_to(LIBRARY).as_posix()
        for path in (*LIBRARY.rglob("*.py"), *(ROOT / "app").rglob("*.py"))
        if re.search(insides, path.read_text())
    }
    assert users == {file}


def test_serving_http_alone_needs_the_extra_and_only_when_it_serves():
    program = (
        "import sys, actp_supervise.service; print([n for n in sys.argv[1:] if n in sys.modules])"
    )
    names = ["hypercorn", "h11", "quart", "asyncio", "actp_supervise.service.http"]
    done = subprocess.run(
        [sys.executable, "-c", program, *names], capture_output=True, text=True, check=True
    )
    assert done.stdout == "['actp_supervise.service.http']\n"


def test_the_tree_reads_no_wall_clock():
    for name in TREE:
        tree = ast.parse((LIBRARY / f"{name}.py").read_text())
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        imported |= {
            (node.module or "").partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        }
        assert imported.isdisjoint({"time", "datetime"}), name


# The reference.


@pytest.fixture(scope="module")
def words():
    """Every word that stands as code in the reference."""
    pages = "\n".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
    return set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", pages))))


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_in_the_reference(words, room):
    assert public_names(importlib.import_module(room)) - words == set()


@pytest.mark.parametrize(
    "made",
    [
        open_supervisor,
        Supervisor.start_soon,
        Supervisor.start,
        Backoff,
        RestartLimit,
        open_scheduler,
        Scheduler.add,
        process_child,
    ],
)
def test_the_reference_says_what_is_so_by_default(made):
    pages = "\n".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
    for option in inspect.signature(made).parameters.values():
        if isinstance(option.default, bool | int | float | Enum):
            kind = f"{type(option.default).__name__}." if isinstance(option.default, Enum) else ""
            value = f"{kind}{option.default.name}" if kind else repr(option.default)
            assert f"| `{option.name}` | `{value}` |" in pages


@pytest.mark.parametrize(
    ("page", "room"),
    [("supervision.md", "actp_supervise.events"), ("scheduler.md", "actp_supervise.cron")],
)
def test_the_reference_says_at_which_level_each_event_is_logged(page, room):
    table = (ROOT / "docs/reference" / page).read_text()
    levels = dict(
        re.findall(r"^\| `(\w+)` .*?\| (debug|info|warning|error) \|", table, re.MULTILINE)
    )
    kinds = [kind for kind in vars(importlib.import_module(room)).values() if _is_event(kind)]
    assert {kind.__name__: logging.getLevelName(kind.level).lower() for kind in kinds} == levels


def _is_event(kind):
    return isinstance(kind, type) and issubclass(kind, Event) and kind is not Event


@pytest.mark.parametrize("kind", [Supervisor, Child, Scheduler, Job])
def test_every_public_attribute_is_in_the_reference(words, kind):
    names = set(vars(kind)) | set(getattr(kind, "__annotations__", ()))
    assert {name for name in names if not name.startswith("_")} - words == set()


@pytest.mark.parametrize(
    "function",
    [
        open_supervisor,
        Supervisor.start_soon,
        Supervisor.start,
        open_scheduler,
        Scheduler.add,
        process_child,
    ],
)
def test_every_option_is_in_the_reference(words, function):
    parameters = inspect.signature(function).parameters.values()
    options = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert options
    assert options - words == set()
