"""How `make docs` builds the site: Sphinx, MyST for the Markdown, autodoc for the docstrings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sphinx.pycode import ModuleAnalyzer

import actp_supervise

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "actp_supervise"
author = copyright = "EverReach"
release = version = actp_supervise.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False

myst_heading_anchors = 4  # headings have the anchors that GitHub gives them

default_role = "py:obj"  # a name in single backticks is a link, where it is a name of the library
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

LINKED = {"class", "exception", "function"}


def link_to_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Link a class to the page of the module that exports it.

    A type in a signature names the module that defines the class, which has no page.
    """
    python = env.get_domain("py")
    end = "." + node.get("reftarget", "").rpartition(".")[2]
    places = [
        name for name, _, kind, *_ in python.get_objects() if kind in LINKED and name.endswith(end)
    ]
    if node.get("refdomain") != "py" or len(places) != 1:
        return None
    page = node["refdoc"]
    return python.resolve_xref(env, page, app.builder, "obj", places[0], node, contnode)


def take_docstring_of_constant(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Give a constant that a package exports the string below it in the module that defines it.

    Autodoc looks for that string in the package alone, and takes the docstring of `float` instead.
    """
    package, _, constant = name.rpartition(".")
    if what == "data":
        for module in [m for m in sys.modules if m.startswith(f"{package}.")]:
            docs = ModuleAnalyzer.for_module(module).find_attr_docs()
            lines[:] = docs.get(("", constant), lines)


def setup(app: Sphinx) -> None:
    """Register the two with Sphinx."""
    app.connect("autodoc-process-docstring", take_docstring_of_constant)
    app.connect("missing-reference", link_to_public_name)
