"""Imports: the lines by which a script gets at the object that a target names."""

from __future__ import annotations

import sys
from pathlib import Path

from attn_conformance.loading import OWN, place


def importing(target: str, alias: str, *, made_by: type | None = None) -> list[str]:
    """Lines after which `alias` is the target's object, or its instance if it is the class `made_by` itself."""
    head, rest = place(target)
    if head in OWN and rest:
        return ["from attn_conformance.loading import load", "", f'{alias} = load("{target}").function']
    name, *inner = rest.split(".")
    instance = made_by is not None and made_by.__name__ == (inner or [name])[-1]
    lines = []
    if head.endswith(".py"):
        path = Path(head)
        lines, head = [f'sys.path.insert(0, "{path.parent}")'], path.stem
    elif _lies_here(head):
        lines = ['sys.path.insert(0, ".")']
    if not all(part.isidentifier() for part in head.split(".")):
        whole = ".".join([f'importlib.import_module("{head}")', rest])
        return [*lines, f"{alias} = {whole}{'()' if instance else ''}"]
    if inner or instance:
        return [*lines, f"from {head} import {name}", "", f"{alias} = {rest}{'()' if instance else ''}"]
    return [*lines, f"from {head} import {name}" + ("" if name == alias else f" as {alias}")]


def _lies_here(module: str) -> bool:
    """Whether a module that is loaded came from the working directory."""
    top = module.partition(".")[0]
    here = Path.cwd()
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return Path(file) in (here / f"{top}.py", here / top / "__init__.py")
