"""HTML: results as pages that stand alone, for one implementation or for many beside each other."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_conformance.report.entries import MARKS
from attn_conformance.report.views import View, lines, views

if TYPE_CHECKING:
    from jinja2 import Environment

MISSING = "HTML reports need Jinja2: pip install 'attn-conformance[report]'"

LONGEST_NAME = 60
"""Characters of a page's file name that come from its target: file systems stop at 255 bytes."""


def run_page(results: Sequence[Mapping[str, Any]]) -> str:
    """One self-contained page about all that the result files hold, as `reading.read` returns them.

    Several implementations begin with their matrix. ValueError if the files hold no result; ModuleNotFoundError
    without Jinja2.
    """
    found = views(results)
    if len(found) == 1:
        return _page(found)
    found = tuple(replace(view, prefix=f"i{number}-") for number, view in enumerate(found, 1))
    return _page(found, matrix=found)


def write_report(results: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write pages into a folder, which is made where it is missing; returns the path of its index.html.

    One implementation: that is its page. Several: it is their matrix, and each has a page of its own beside it. Files
    of these names are overwritten, others left alone. OSError where that fails, else as `run_page`.
    """
    found = views(results)
    if len(found) == 1:
        pages = {"index.html": _page(found)}
    else:
        found = _named(found)
        pages = {view.page: _page([replace(view, page="")], home="index.html") for view in found}
        pages["index.html"] = _page((), matrix=found)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "index.html"


def _named(found: Sequence[View]) -> tuple[View, ...]:
    """The views, each with the name of its page: its label in plain letters, numbered where two would be the same."""
    taken = {"index"}
    named = []
    for view in found:
        plain = re.sub(r"[^a-z0-9]+", "-", view.label.lower())[:LONGEST_NAME].strip("-") or "implementation"
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name)
        named.append(replace(view, page=f"{name}.html"))
    return tuple(named)


def _page(judged: Sequence[View], *, matrix: Sequence[View] = (), home: str = "") -> str:
    """A page: the matrix of some implementations, and what is to be said of each of those judged."""
    occurring = {entry.mark.name for view in matrix for entry in view.entries}
    return rendered(
        "page.html",
        judged=judged,
        columns=matrix,
        groups=lines(matrix),
        home=home,
        marks=[mark for name, mark in MARKS.items() if name in occurring],
    )


def rendered(template: str, **values: Any) -> str:
    """A template that extends frame.html as a page of its own, whose policy lets its style and script run alone.

    ModuleNotFoundError without Jinja2.
    """
    templates = _templates()
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    return templates.get_template(template).render(
        **values,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
    )


@cache
def _templates() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(MISSING) from error
    return Environment(
        loader=PackageLoader("attn_conformance.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return files("attn_conformance.report").joinpath("templates", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """The hash by which a content security policy lets this text run, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
