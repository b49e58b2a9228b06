"""Targets: from what a user types to a function, and from a function to a subject."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_args

from attn_conformance.borders import BORDERS, candidates
from attn_conformance.cases import Call, KernelCase, build
from attn_conformance.conventions import CONVENTIONS, Convention, expressible, recognise
from attn_conformance.judge import Failed
from attn_conformance.subject import Subject
from attn_reference.claims import DTYPES, FEATURES, Arithmetic, Claims

GROUP = "attn_conformance.implementations"
"""The entry-point group under which implementations are registered by name."""

ARITHMETICS = get_args(Arithmetic)


class TargetError(Exception):
    """A target that cannot be judged; the message says why and what to do."""


@dataclass(frozen=True)
class Narrowing:
    """What the user says of a target beside its name: the options that change its convention or claims."""

    convention: str | None = None
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    head_sizes: tuple[int, ...] = ()
    device: str = "cpu"


def registered() -> dict[str, EntryPoint]:
    """Entry points of the group, by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def load(target: str) -> Any:
    """The object that a target names; TargetError if there is none.

    target: a registered name, `package.module:object`, `path/file.py:object`, or one of the suite's own:
    `mutant:NAME`, `twin:NAME`, `control:NAME`.
    """
    head, _, rest = target.partition(":")
    if head in ("mutant", "twin", "control") and rest:
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
    if kind == "control":
        from attn_conformance.controls import controls

        known: dict[str, Any] = dict(controls())
    else:
        from attn_conformance.mutants import mutants

        known = dict(mutants())
    if name not in known:
        raise TargetError(f"there is no {kind} {name!r}; known are: {', '.join(known)}")
    return _Claiming(known[name].twin if kind == "twin" else known[name].attention, known[name].claims)


@dataclass(frozen=True)
class _Claiming:
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
    except Exception as error:
        raise TargetError(f"{target}: importing it raised {type(error).__name__}: {error}") from error
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            near = ", ".join(n for n in dir(found) if "att" in n.lower() and not n.startswith("_")) or "none"
            raise TargetError(f"{target}: {module_name} has no {part!r} (names that look alike: {near})")
        found = getattr(found, part)
    return found


def _install_hint(module: str) -> str:
    extras = {"torch": "torch", "jax": "jax"}
    top = module.partition(".")[0]
    return f"; try: pip install 'attn-conformance[{extras[top]}]'" if top in extras else ""


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


def subject(target: str, narrowing: Narrowing = Narrowing()) -> tuple[Subject, dict[str, str]]:
    """The subject of a target, and the claimed dtypes that it refuses, with what it said.

    A smallest call in each claimed dtype comes first: it decides which framework's arrays the function takes.
    TargetError if no dtype works with any framework.
    """
    if narrowing.convention is not None and narrowing.convention not in CONVENTIONS:
        raise TargetError(f"unknown convention {narrowing.convention!r}; known are {', '.join(CONVENTIONS)}")
    loaded = load(target)
    function = loaded.function if isinstance(loaded, _Claiming) else loaded
    if isinstance(function, type):
        raise TargetError(
            f"{target} is a class; this version judges functions on split heads: fn(q, k, v, mask, is_causal)"
        )
    if not callable(function):
        raise TargetError(
            f"{target} is a {type(function).__name__}, not a function fn(q, k, v, mask, is_causal)"
        )
    try:
        convention = CONVENTIONS[narrowing.convention] if narrowing.convention else recognise(function)
    except ValueError as error:
        raise TargetError(f"{target}: {error}") from error
    claims = _claims(loaded, function, convention, narrowing)
    refusals: dict[str, str] = {}
    for name in candidates(function):
        trial = Subject(target, function, convention, BORDERS[name](), claims, narrowing.device)
        said = {dtype: _refusal(trial, dtype) for dtype in claims.dtypes}
        refused = {dtype: text for dtype, text in said.items() if text is not None}
        if len(refused) < len(said):
            kept = tuple(dtype for dtype in claims.dtypes if dtype not in refused)
            return replace(trial, claims=replace(claims, dtypes=kept)), refused
        refusals[name] = next(iter(refused.values()))
    tried = "; ".join(f"with {name} arrays it {text}" for name, text in refusals.items())
    smallest = _smallest(claims, claims.dtypes[0]).describe()
    raise TargetError(f"{target}: the smallest call, {smallest}, got no answer: {tried}")


def _claims(
    loaded: Any, function: Callable[..., Any], convention: Convention, narrowing: Narrowing
) -> Claims:
    stated = getattr(loaded, "claims", None)
    if isinstance(stated, Claims):
        claims = stated
    else:
        claims = Claims(
            dtypes=convention.dtypes, devices=("cpu", "cuda"), features=expressible(convention, function)
        )
    add = {name for name in narrowing.add if name not in ARITHMETICS}
    for name in (*add, *narrowing.drop):
        if name not in FEATURES:
            raise TargetError(f"unknown claim {name!r}; known are {', '.join((*FEATURES, *ARITHMETICS))}")
    arithmetic = [name for name in narrowing.add if name in ARITHMETICS]
    unknown = [name for name in narrowing.dtypes if name not in DTYPES]
    if unknown:
        raise TargetError(f"unknown dtype {unknown[0]!r}; known are {', '.join(DTYPES)}")
    claims = replace(
        claims,
        features=(claims.features | add) - set(narrowing.drop),
        dtypes=narrowing.dtypes or claims.dtypes,
        head_sizes=narrowing.head_sizes or claims.head_sizes,
    )
    if narrowing.device not in claims.devices:
        raise TargetError(f"{narrowing.device} is not among the claimed devices {', '.join(claims.devices)}")
    return replace(claims, arithmetic=arithmetic[-1]) if arithmetic else claims  # type: ignore[arg-type]


def _smallest(claims: Claims, dtype: str) -> KernelCase:
    size = claims.head_sizes[0] if claims.head_sizes else 8
    return KernelCase(2, 2, 2, 3, 3, size, size, dtype=dtype)


def _refusal(trial: Subject, dtype: str) -> str | None:
    """What the subject says to the smallest call in a dtype, or None if it gives an array."""
    call: Call = build(_smallest(trial.claims, dtype))
    try:
        trial.run(call)
    except Failed as failed:
        return failed.message
    except TypeError as error:  # the border has no such array
        return f"could not be called: {error}"
    return None
