"""Imports: the lines by which a script gets at the object that a target names."""

from __future__ import annotations

import json
from pathlib import Path

from attn_conformance.loading import OWN, folder, place

NO_VERDICT = 'sys.excepthook = lambda *error: (sys.__excepthook__(*error), print("no verdict"), sys.exit(2))'
"""A script's line by which all that is raised beside the failure it shows, such as by an import, does not exit 1."""


def importing(target: str, alias: str, *, made_by: type | None = None) -> list[str]:
    """Lines after which `alias` is the target's object, or its instance if it is the class `made_by` itself.

    They find it whatever the working directory is.
    """
    head, rest = place(target)
    if head in OWN and rest:
        return ["from attn_conformance.loading import load", "", f'{alias} = load("{target}").function']
    name, *inner = rest.split(".")
    instance = made_by is not None and made_by.__name__ == (inner or [name])[-1]
    where = folder(target)
    lines = [] if where is None else [f"sys.path.insert(0, {json.dumps(str(where), ensure_ascii=False)})"]
    if head.endswith(".py"):
        head = Path(head).stem
    if not all(part.isidentifier() for part in head.split(".")):
        whole = ".".join([f'importlib.import_module("{head}")', rest])
        return [*lines, f"{alias} = {whole}{'()' if instance else ''}"]
    if inner or instance:
        return [*lines, f"from {head} import {name}", "", f"{alias} = {rest}{'()' if instance else ''}"]
    return [*lines, f"from {head} import {name}" + ("" if name == alias else f" as {alias}")]
