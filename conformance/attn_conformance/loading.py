"""Loading: from what a user types to an object; nothing is judged or called here."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from attn_conformance.adapters import NEEDS
from attn_conformance.endings import by_user, described
from attn_reference.claims import Claims

GROUP = "attn_conformance.implementations"
"""The entry-point group under which implementations are registered by name."""


OWN = ("mutant", "twin", "control", "defect")
"""What stands before the colon in the names of the suite's own implementations."""


class TargetError(Exception):
    """A target that cannot be judged; the message says why and what to do."""


def registered() -> dict[str, EntryPoint]:
    """Entry points of the group, by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def place(target: str) -> tuple[str, str]:
    """The module or file, or kind of the suite's own, and the object in it that a target names."""
    points = registered()
    home, _, name = (points[target].value if target in points else target).partition(":")
    return home, name


def load(target: str) -> Any:
    """The object that a target names; TargetError if there is none.

    target: a registered name, `package.module:object`, `path/file.py:object`, or one of the suite's own:
    `mutant:NAME`, `defect:NAME`, `twin:NAME` (of either) and `control:NAME`.
    """
    head, _, rest = target.partition(":")
    if head in OWN and rest:
        return _own(head, rest)
    points = registered()
    if target in points:
        where = points[target].value
        return _object(where, target)
    if not rest:
        near = ", ".join(points) or "none"
        raise TargetError(
            f"{target!r} is not a registered implementation (registered: {near}); others are named as "
            "package.module:object or path/to/file.py:object"
        )
    return _object(target, target)


def _own(kind: str, name: str) -> Any:
    from attn_conformance.controls import controls
    from attn_conformance.defects import defects
    from attn_conformance.mutants import mutants

    known: dict[str, Any] = {}
    if kind == "control":
        known |= controls()
    if kind in ("mutant", "twin"):
        known |= mutants()
    if kind in ("defect", "twin"):
        known |= defects()
    if name not in known:
        raise TargetError(f"there is no {kind} {name!r}; known are: {', '.join(known)}")
    return Claiming(known[name].twin if kind == "twin" else known[name].target, known[name].claims)


@dataclass(frozen=True)
class Claiming:
    """A function with the claims that its registration states."""

    function: Callable[..., Any]
    claims: Claims


def _object(where: str, target: str) -> Any:
    module_name, _, path = where.partition(":")
    try:
        module = (
            _file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
        )
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        hint = _install_hint(missing)
        raise TargetError(f"{target}: no module named {missing!r}{hint}") from error
    except BaseException as error:
        if by_user(error) or isinstance(error, TargetError):
            raise
        raise TargetError(f"{target}: importing it raised {described(error)}") from error
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            near = ", ".join(n for n in dir(found) if "att" in n.lower() and not n.startswith("_")) or "none"
            raise TargetError(f"{target}: {module_name} has no {part!r} (names that look alike: {near})")
        found = getattr(found, part)
    return found


def _install_hint(module: str) -> str:
    top = module.partition(".")[0]
    known = {"jax": "pip install 'attn-conformance[jax]'"} | {name: how for name, _, how in NEEDS.values()}
    return f"; try: {known[top]}" if top in known else ""


def _file(path: Path) -> Any:
    if not path.is_file():
        raise TargetError(f"there is no file {path}")
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
