"""Loading: from what a user types to an object; nothing is judged or called here."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, NoReturn

from attn_conformance.adapters import NEEDS
from attn_conformance.endings import by_user, described, printable
from attn_conformance.names import near, suggestion
from attn_reference.claims import Claims

GROUP = "attn_conformance.implementations"
"""The entry-point group under which implementations are registered by name."""


OWN = ("mutant", "twin", "control", "defect", "slow")
"""What stands before the colon in the names of the suite's own implementations."""

INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
"""Folders from which every interpreter of this environment imports."""

LISTED = 8
"""Objects of a module that are named where a target names none."""


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


def folder(target: str) -> Path | None:
    """The folder that an interpreter elsewhere must import from to find a target, None if it is installed.

    Nothing is imported for that.
    """
    home, name = place(target)
    if target in registered() or (home in OWN and name):
        return None
    if home.endswith(".py"):
        return Path(home).resolve().parent
    try:
        spec = importlib.util.find_spec(home.partition(".")[0])
    except (ImportError, ValueError):
        return None
    homes = list(spec.submodule_search_locations or ()) if spec else []
    found = homes[0] if homes else spec.origin if spec and spec.has_location else None
    if found is None:
        return None
    parent = Path(found).resolve().parent
    return None if any(parent.is_relative_to(shared) for shared in INSTALLED) else parent


def load(target: str) -> Any:
    """The object that a target names; TargetError if there is none.

    target: a registered name, `package.module:object`, `path/file.py:object`, or one of the suite's own:
    `mutant:NAME`, `defect:NAME`, `slow:NAME`, `twin:NAME` (of any of these) and `control:NAME`.
    """
    head, _, rest = target.partition(":")
    if head in OWN and rest:
        return _own(head, rest)
    points = registered()
    if target in points:
        return _object(points[target].value, target)
    if not rest:
        _without_object(target, list(points))
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
    if kind == "slow" or (kind == "twin" and name not in known):
        known |= _slowdowns(f"{kind}:{name}")
    if name not in known:
        raise TargetError(
            f"{kind}:{name}: there is no {kind} {name!r} among {len(known)}{suggestion(name, known)}"
        )
    return Claiming(known[name].twin if kind == "twin" else known[name].target, known[name].claims)


def _slowdowns(target: str) -> dict[str, Any]:
    """Those registered; TargetError without PyTorch."""
    from attn_conformance.slowdowns import slowdowns

    try:
        return dict(slowdowns())
    except ModuleNotFoundError as error:
        raise TargetError(
            f"{target}: no module named {error.name!r}; try: pip install 'attn-conformance[torch]'"
        ) from error


@dataclass(frozen=True)
class Claiming:
    """A function with the claims that its registration states."""

    function: Callable[..., Any]
    claims: Claims


def _without_object(target: str, points: list[str]) -> NoReturn:
    """TargetError for a target without a colon: what it is, and what may have been meant."""
    home, _, last = target.rpartition(".")
    if target.endswith(".py") or _exists(target):
        kind = "file" if target.endswith(".py") else "module"
        raise TargetError(f"{target}: is a {kind}; name the object in it: {objects(target)}")
    if home and _exists(home) and hasattr(_module(home, target), last):
        raise TargetError(f"{target}: the object comes after a colon: {home}:{last}")
    raise TargetError(
        f"{target}: is not a registered implementation{suggestion(target, points) or '.'} Others are named as "
        f"package.module:object or path/to/file.py:object; registered are {', '.join(points) or 'none'}"
    )


def objects(home: str) -> str:
    """The targets in a module or file: what it defines, or, where it defines nothing, how one would be named."""
    module = _module(home, home)
    named = [
        f"{home}:{name}"
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", "") == module.__name__
    ]
    return ", ".join(named[:LISTED]) or f"{home}:object"


def _exists(module: str) -> bool:
    """Whether there is a module of this name; the packages that it lies in are imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except Exception:  # no name of a module, or a package that cannot be imported
        return False


def _object(where: str, target: str) -> Any:
    home, _, path = where.partition(":")
    found = _module(home, target)
    for part in path.split("."):
        if not hasattr(found, part):
            if _exists(f"{home}.{path}"):
                raise TargetError(
                    f"{target}: is a module; name the object in it: {objects(f'{home}.{path}')}"
                )
            public = [name for name in dir(found) if not name.startswith("_")]
            alike = near(part, public) or [name for name in public if "att" in name.lower()]
            raise TargetError(
                f"{target}: {home} has no {part!r} (names that look alike: {', '.join(alike) or 'none'})"
            )
        found = getattr(found, part)
    return found


def _module(home: str, target: str) -> Any:
    """The module of a name or file; TargetError says where the import went wrong."""
    try:
        return _file(Path(home), target) if home.endswith(".py") else importlib.import_module(home)
    except ModuleNotFoundError as error:
        missing, place = error.name or home, _place(error)
        hint = _install_hint(missing)
        if place:
            raise TargetError(
                f"{target}: no module named {missing!r}, which {place} imports{hint}"
            ) from error
        raise TargetError(f"{target}: no module named {missing!r}{hint or _looked(missing)}") from error
    except BaseException as error:
        if by_user(error) or isinstance(error, TargetError):
            raise
        place = f", at {where}" if (where := _place(error)) else ""
        raise TargetError(f"{target}: importing it raised {described(error)}{place}") from error


def _place(error: BaseException) -> str:
    """The line, as file:number, of the target's code that an exception at import came from; "" if none has run."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        lines = [(error.filename, error.lineno)]
    else:
        lines = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
        ours = (__file__, importlib.__file__)
        lines = [
            (file, n) for file, n in lines if file not in ours and not file.startswith("<frozen importlib")
        ]
    if not lines:
        return ""
    file, number = lines[-1]
    path = Path(file)
    return printable(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{number}")


def _looked(missing: str) -> str:
    """Where a module was looked for in vain, and what may have been meant."""
    package, _, name = missing.rpartition(".")
    if package:
        known = [
            found.name for found in pkgutil.iter_modules(getattr(sys.modules.get(package), "__path__", []))
        ]
        alike = [f"{package}.{other}" for other in near(name, known)]
        return f" in {package}" + suggestion(missing, alike)
    known = [found.name for found in pkgutil.iter_modules()]
    return (
        f"{suggestion(missing, known)}; looked in {Path.cwd()}, the current folder, and among the installed "
        "packages: run it from the folder that holds the module, or install its package"
    )


def _install_hint(module: str) -> str:
    top = module.partition(".")[0]
    known = {"jax": "pip install 'attn-conformance[jax]'"} | {name: how for name, _, how in NEEDS.values()}
    return f"; try: {known[top]}" if top in known else ""


def _file(path: Path, target: str) -> Any:
    if not path.is_file():
        raise TargetError(f"{target}: there is no file {path}")
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{target}: {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
